# SPDX-License-Identifier: Apache-2.0
"""One closed-loop trial: what is said in which scene, and what the twin's truth saw of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from chefmate_policy.data.variants import Scene

__all__ = ["MODEL", "NODE", "NULL", "Ask", "Moved", "Outcome", "Trial"]

MODEL, NODE, NULL = "model", "node", "null"
"""To whom a text goes: to the model, also the empty one; to the node, where "" is stop; to nobody: the model
gets the null prompt in its place."""


@dataclass(frozen=True)
class Ask:
    """One instruction. text: as it is said. row: of the prompt battery. target: ingredient that ought to lie
    on the plate at the end; "" nothing is to be done. to: MODEL, NODE or NULL. named: ingredient that the
    words name, whatever is to be done with it; "" none of the kitchen's."""

    text: str
    row: str
    target: str
    to: str = MODEL
    named: str = ""


@dataclass(frozen=True)
class Trial:
    """One run. Trials with the same scene and noise seed are paired: they differ in what is said alone.

    asks: (s from the start, what is said); the first at 0 s, further ones change it in mid-reach.
    """

    number: int
    cell: str
    scene: Scene
    asks: tuple[tuple[float, Ask], ...]
    noise_seed: int

    @property
    def last(self) -> Ask:
        """What counts at the end."""
        return self.asks[-1][1]


@dataclass(frozen=True)
class Moved:
    """A slice that is not where it was before. place: of the twin's truth at the end."""

    ingredient: str
    place: str
    flat: bool  # on the plate, flat, released, inside of its rim


@dataclass(frozen=True)
class Outcome:
    """What came of a trial, by the twin's truth. Times are s of the twin from the first instruction.

    contacts: ingredients in the order in which the arm first touched a slice of theirs, with when.
    after_change: the same, for slices touched only after the last change of the instruction.
    grasped: ingredients that both jaws held off the tray. moved: slices that are elsewhere at the end.
    reached: the gripper came within 4 cm of this ingredient's slice before any other; "" of none.
    seconds: when the trial ended. chunks: of the policy. latency: s, median, that an inference took.
    state: of the policy at the end (DONE, DRIVING, ...). fault: why the trial does not count; "".
    """

    number: int
    contacts: tuple[tuple[str, float], ...] = ()
    after_change: tuple[tuple[str, float], ...] = ()
    grasped: tuple[str, ...] = ()
    moved: tuple[Moved, ...] = ()
    reached: str = ""
    seconds: float = 0.0
    chunks: int = 0
    latency: float = 0.0
    state: str = ""
    fault: str = ""
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def touched(self) -> str:
        """The first-contacted ingredient; "" of none."""
        return self.contacts[0][0] if self.contacts else ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Outcome:
        """From `to_dict`, also after JSON. Raises TypeError, KeyError: not an outcome."""
        pairs = {
            name: tuple((str(kind), float(time)) for kind, time in entry[name])
            for name in ("contacts", "after_change")
        }
        moved = tuple(Moved(**item) for item in entry["moved"])
        return cls(**{**entry, **pairs, "grasped": tuple(entry["grasped"]), "moved": moved})
