# SPDX-License-Identifier: Apache-2.0
"""What was found about language in a mixture, and the rule that makes a verdict of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from chefmate_policy.data.probe import Score, wilson

__all__ = ["LIMIT", "MOVED", "SHUFFLES", "Label", "Point", "ShortcutReport", "Verdict", "decide"]

LIMIT = 0.8  # of the instructions told right: above it the words decide in fewer than one episode of five
MOVED = 0.02  # of a joint's range in the mixture: the demonstration has begun
PAIRED = 0.5  # of the episodes in layouts with several instructions, to take these for evidence
SHUFFLES = 20  # runs with shuffled labels


class Verdict(str, Enum):
    """What a mixture can teach."""

    TEACHES = "TEACHES_LANGUAGE"
    CANNOT_TEACH = "CANNOT_TEACH_LANGUAGE"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True)
class Label:
    """Instructions that ask for the same."""

    episodes: int
    layouts: int
    texts: list[str]


@dataclass(frozen=True)
class Point:
    """Decodability at one time."""

    time: float  # of the episode, 0..1
    score: Score


@dataclass(frozen=True)
class ShortcutReport:
    """The verdict, and what it rests on."""

    verdict: Verdict
    reason: str
    mend: list[str]
    features: str
    labels: dict[str, Label]
    episodes: int  # looked at
    layouts: int
    layouts_from: str  # who says which episodes show the same scene
    paired: float  # share of the episodes whose layout was recorded under several instructions
    moved: float = MOVED  # of a joint's range: until one has moved by more, an episode has not begun
    still: float = 0.0  # s, median length of what is before that
    before: Score | None = None  # the figure that decides
    chance: tuple[float, float] | None = None  # mean and highest of SHUFFLES runs with shuffled labels
    curve: list[Point] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "verdict": self.verdict.value, "limit": LIMIT}


def decide(
    before: Score, curve: Sequence[Point], paired: float, labels: Mapping[str, Label], layouts: int
) -> tuple[Verdict, str, list[str]]:
    """Verdict, reason and mend. before: the score before the arm moves. paired: share of the episodes in
    layouts with several instructions."""
    told = (
        f"before the arm moves the pictures tell {before.accuracy:.0%} of the instructions"
        f" (95 %: {before.low:.0%} to {before.high:.0%}; limit {LIMIT:.0%})"
    )
    every = ", ".join(labels)
    if before.low >= LIMIT:
        if paired >= PAIRED:
            return (
                Verdict.CANNOT_TEACH,
                f"{told}, although layouts were recorded under several instructions",
                [
                    "find what else in the picture goes with the instruction (light, camera, start posture,"
                    " a marked place), and record the instructions of a scene in turns"
                ],
            )
        single = layouts - round(layouts * paired)
        return (
            Verdict.CANNOT_TEACH,
            told,
            [
                f"put what all instructions name into each scene, and record it once each: {every}",
                f"record {single} of the {layouts} layouts again: they have one instruction only",
            ],
        )
    if before.high > LIMIT:
        enough = layouts_for(before.accuracy)
        more = f"record more layouts (these figures would decide with about {enough})" if enough else ""
        return (
            Verdict.UNDECIDED,
            f"{told}: the interval of {before.layouts:.0f} layouts reaches over the limit",
            [more or "the figure is at the limit: record the same scenes under other instructions"],
        )
    late = max((point for point in curve if point.time > 0), key=lambda point: point.score.low)
    if paired >= PAIRED:
        return (
            Verdict.TEACHES,
            f"{told}, and {paired:.0%} of the episodes share their layout with another instruction",
            [],
        )
    if late.score.low > before.accuracy:
        return (
            Verdict.TEACHES,
            f"{told}, and {late.score.accuracy:.0%} of them {late.time:.0%} into the demonstration",
            [],
        )
    return (
        Verdict.UNDECIDED,
        f"{told}, but no better while the arm moves ({late.score.accuracy:.0%} at best): the features may"
        " see too little to judge",
        [
            "look again with --checkpoint, or record layouts under several instructions and say in the"
            " episodes' metadata which episodes share a layout"
        ],
    )


def layouts_for(accuracy: float) -> int:
    """How many layouts make the interval about `accuracy` leave the limit; 0: more than 1000."""
    for count in range(2, 1001):
        low, high = wilson(accuracy, count)
        if low >= LIMIT or high <= LIMIT:
            return count
    return 0
