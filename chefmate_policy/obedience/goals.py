# SPDX-License-Identifier: Apache-2.0
"""What a policy that obeys must reach in the twin, unaided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ENOUGH", "GOALS", "Goal", "goals"]

ENOUGH = 200  # trials of a row, from which on it is said whether a goal is met
SLACK = 0.05  # of the lower Wilson bound below the goal


@dataclass(frozen=True)
class Goal:
    """A figure of a row. at_least: share; or `within` that much of the same figure of row `below`."""

    id: str
    words: str
    row: str
    figure: tuple[str, ...]
    at_least: float = 0.0
    below: str = ""
    within: float = 0.0


FOLLOWED, FLAT, STILL = ("targeted", "followed"), ("targeted", "placed_flat"), ("idle", "touched_nothing")
GOALS = (
    Goal("followed", "named ingredient first-contacted", "named", FOLLOWED, 0.95),
    Goal("placed", "named ingredient placed flat on the plate", "named", FLAT, 0.90),
    Goal("compositions", "the same, new compositions", "compositions", FOLLOWED, below="named", within=0.05),
    Goal(
        "compositions_placed",
        "placed flat, new compositions",
        "compositions",
        FLAT,
        below="named",
        within=0.05,
    ),
    Goal(
        "pairs", "the same, ingredient in a new slot", "held_out_pairs", FOLLOWED, below="named", within=0.10
    ),
    Goal(
        "pairs_placed",
        "placed flat, ingredient in a new slot",
        "held_out_pairs",
        FLAT,
        below="named",
        within=0.10,
    ),
    Goal("absent", "absent ingredient: touches nothing", "absent", STILL, 0.98),
    Goal("negated", "negated: touches nothing", "negated", STILL, 0.98),
    Goal("empty", "empty instruction: touches nothing", "empty", STILL, 0.98),
    Goal("change", "change in mid-reach obeyed", "change", FOLLOWED, 0.95),
)


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How each stands. A goal is met when the point estimate meets it and the lower Wilson bound is within
    SLACK of it; `met` is None where nothing was measured. rows: of `scoring.score`."""
    by_id = {row["id"]: row for row in rows}
    found = []
    for goal in GOALS:
        mine = _figure(by_id, goal.row, goal)
        wanted: float | None = goal.at_least
        if goal.below:
            base = _figure(by_id, goal.below, goal)
            wanted = None if base is None else max(0.0, base["rate"] - goal.within)
        met = None
        if mine is not None and wanted is not None:
            met = bool(mine["rate"] >= wanted and mine["wilson_95"][0] >= wanted - SLACK)
        found.append(
            {
                "id": goal.id,
                "words": goal.words,
                "wanted": wanted,
                "point": mine and mine["rate"],
                "lower": mine and mine["wilson_95"][0],
                "n": mine["n"] if mine else 0,
                "enough": bool(mine and mine["n"] >= ENOUGH),
                "met": met,
            }
        )
    return found


def _figure(rows: Mapping[str, Any], row: str, goal: Goal) -> dict[str, Any] | None:
    entry: Any = rows.get(row)
    for key in goal.figure:
        entry = entry[key] if entry else None
    found: dict[str, Any] | None = entry
    return found
