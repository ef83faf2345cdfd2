# SPDX-License-Identifier: Apache-2.0
"""What the policy knows of the arm: whether it can move at all, and whether it is heard."""

from __future__ import annotations

from collections.abc import Callable

READY = "READY"
"""ArmHealth.READY: torque is off."""
UNABLE = ("ESTOPPED", "FAULT", "UNPOWERED", "TELEOPERATED", READY)
"""States of chefmate_msgs/ArmHealth in which the arm cannot follow (a test holds them equal)."""
PROTECTED = ("HOLD", "RELEASE")
"""Stages of the protection, as in chefmate_msgs/ArmHealth, in which it does not follow."""


class ArmWatch:
    """The arm's newest state. An arm that was never heard is not missed: another driver may be at work."""

    def __init__(self, age_limit: float, executing: Callable[[], bool] = lambda: True) -> None:
        """
        Args:
            age_limit: s without arm/health, once it was heard, after which the policy holds; 0: nothing that
                the arm says or does not say is watched.
            executing: False is shadow mode, in which an arm without torque is as it should be.
        """
        self._age_limit = age_limit
        self._executing = executing
        self._state = self._reason = self._protection = ""
        self._active = True
        self._heard: float | None = None

    def heard(
        self, state: str, reason: str, now: float, *, active: bool = True, protection: str = ""
    ) -> None:
        """An arm/health arrived at `now`, s since the epoch; the arguments are its fields."""
        self._state, self._reason, self._heard = state, reason, now
        self._active, self._protection = active, protection

    def unable(self) -> str:
        """Why the arm cannot follow, by its newest word; empty: it can, or nobody knows."""
        if self._age_limit <= 0.0:
            return ""
        why = f": {self._reason}" if self._reason else ""
        if self._state in UNABLE and not (self._state == READY and self._active and not self._executing()):
            return f"the arm is {self._state}{why}"
        if not self._active:
            return f"the arm is inactive: its node takes no trajectories{why}"
        if self._protection in PROTECTED:
            return f"the arm protects itself ({self._protection}){why}"
        return ""

    def silence(self, now: float) -> str:
        """Why the arm's state is not known any more; empty while it is, or never was."""
        if self._heard is None or self._age_limit <= 0.0 or now - self._heard <= self._age_limit:
            return ""
        age, limit = now - self._heard, self._age_limit
        return f"arm/health: nothing for {age:.1f} s (limit {limit:.1f} s)"
