# SPDX-License-Identifier: Apache-2.0
"""Which inputs a policy may act on: freshness, completeness, finiteness, and the words for what is wrong.

Ages are measured from the capture stamp, so they include transport. Nothing here knows ROS.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chefmate_policy.inference.backend import Array

FUTURE_LIMIT = 0.1
"""s that a stamp may lie ahead of this machine's clock. More means that two clocks disagree, and then no age
is true."""


@dataclass(frozen=True)
class InputLimit:
    """One input that the policy needs."""

    name: str
    """As in observation stamps, for example scene or joint_states."""
    title: str
    """As in reasons, for example "scene camera"."""
    what: str
    """What arrives, for example "frame"."""
    age_limit: float
    """s"""


class InputWatch:
    """The newest stamp of each needed input, and what is wrong with them."""

    def __init__(self, limits: Sequence[InputLimit]) -> None:
        self.limits = tuple(limits)
        self._stamps: dict[str, float] = {}
        self._faults: dict[str, str] = {}
        self._since = 0.0

    def restart(self, now: float) -> None:
        """Forgets all stamps; ages of inputs that never came count from now."""
        self._stamps.clear()
        self._faults.clear()
        self._since = now

    def arrived(self, name: str, stamp: float, fault: str = "") -> None:
        """An input arrived, captured at `stamp` (s since the epoch).

        Args:
            name: one of the limits' names; others are ignored.
            stamp: an older stamp than the newest one changes nothing.
            fault: what is wrong with its content; empty if nothing is. Stands until the next arrival.
        """
        self._faults[name] = fault
        self._stamps[name] = max(stamp, self._stamps.get(name, -math.inf))

    @property
    def stamps(self) -> Mapping[str, float]:
        """Newest capture time of each input that has arrived, s since the epoch."""
        return {limit.name: self._stamps[limit.name] for limit in self.limits if limit.name in self._stamps}

    def age(self, name: str, now: float) -> float:
        """s since the input's capture; infinite when it never came."""
        return now - self._stamps[name] if name in self._stamps else math.inf

    def oldest_age(self, now: float) -> float:
        """s, of the oldest needed input; infinite when one never came, 0 when none is needed."""
        return max((self.age(limit.name, now) for limit in self.limits), default=0.0)

    def fault(self, now: float) -> str:
        """Why the policy must not act on its inputs now; empty when it may. The first fault in the limits'
        order."""
        for limit in self.limits:
            stamp = self._stamps.get(limit.name)
            if stamp is None:
                return f"{limit.title}: no {limit.what} yet, for {max(0.0, now - self._since):.1f} s"
            age = now - stamp
            if age > limit.age_limit:
                return f"{limit.title}: no {limit.what} for {age:.2f} s (limit {limit.age_limit:.2f} s)"
            if age < -FUTURE_LIMIT:
                return f"{limit.title}: stamped {-age:.2f} s in the future; set the clocks of both machines"
            if self._faults.get(limit.name):
                return f"{limit.title}: {self._faults[limit.name]}"
        return ""


class JointHistory:
    """Joint states of the last second, so that an observation has the joints of the moment of its pictures:
    these are 0.05 to 0.3 s older than the newest joint state, and a policy was trained on pairs."""

    SPAN = 1.0  # s, more than any picture may be old

    def __init__(self) -> None:
        self._entries: deque[tuple[float, Array, Array]] = deque()

    def add(self, stamp: float, positions: Array, velocities: Array) -> None:
        """stamp: s since the epoch. One that is not newer than the last begins anew: a clock was set back."""
        if self._entries and stamp <= self._entries[-1][0]:
            self._entries.clear()
        self._entries.append((stamp, positions, velocities))
        while self._entries[0][0] < stamp - self.SPAN:
            self._entries.popleft()

    def at(self, moment: float) -> tuple[Array, Array]:
        """(n,) positions and velocities at a moment, linear between two stamps; the nearest stamp's outside
        of what is known; empty before the first."""
        if not self._entries:
            return np.zeros(0), np.zeros(0)
        later = self._entries[-1]
        for entry in reversed(self._entries):
            if entry[0] <= moment:
                span = later[0] - entry[0]
                share = min(1.0, (moment - entry[0]) / span) if span > 0.0 else 0.0
                both = zip(entry[1:], later[1:], strict=True)
                positions, velocities = (one + share * (two - one) for one, two in both)
                return positions, velocities
            later = entry
        return later[1], later[2]


def joint_fault(
    names: Sequence[str], positions: Sequence[float], velocities: Sequence[float], wanted: Sequence[str]
) -> str:
    """What is wrong with a joint state; empty if nothing is. Velocities are optional (empty)."""
    missing = [name for name in wanted if name not in names]
    if missing:
        return f"has no joint {', '.join(missing)} (it has: {', '.join(names) or 'none'})"
    if len(positions) != len(names):
        return f"has {len(names)} names but {len(positions)} positions"
    for quantity, values in (("position", positions), ("velocity", velocities)):
        for name, value in zip(names, values, strict=False):
            if name in wanted and not math.isfinite(value):
                return f"the {quantity} of {name} is {value}"
    return ""


def joint_vector(names: Sequence[str], values: Sequence[float], wanted: Sequence[str]) -> Array:
    """(n,) the values in the wanted order; zeros when the message carries none (velocities are optional in
    ROS).

    Raises:
        KeyError: a wanted joint is missing; see `joint_fault`.
    """
    if len(values) != len(names):
        return np.zeros(len(wanted))
    table = dict(zip(names, values, strict=True))
    return np.array([table[name] for name in wanted], dtype=np.float64)
