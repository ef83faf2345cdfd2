# SPDX-License-Identifier: Apache-2.0
"""Figures from outcomes: per row of the battery, per pair of instructions, the seeds' tests, goals.

A trial is answered rightly when the first slice that the arm touches is of the ingredient that ought to be
moved, or when nothing is touched where nothing is to be done; after a change in mid-reach, from then on.
Reaching, grasping and placing are counted apart: a policy that obeys and fumbles obeys.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chefmate_policy.intervals import rate
from chefmate_policy.obedience.battery import BY_ID, IN_CELLS, ROWS, Row
from chefmate_policy.obedience.cells import CELLS
from chefmate_policy.obedience.trial import MODEL, Outcome, Trial

__all__ = ["Judged", "judged", "no_op", "pairs", "rightly", "rows", "score", "share"]

Share = dict[str, Any] | None
NOTHING = "nothing"
PLACES = {row.id: number for number, row in enumerate(ROWS)}


@dataclass(frozen=True)
class Judged:
    """A trial and what came of it."""

    trial: Trial
    outcome: Outcome

    @property
    def row(self) -> Row:
        """Of the battery."""
        return BY_ID[self.trial.last.row]

    @property
    def target(self) -> str:
        """What ought to be moved; "" nothing."""
        return self.trial.last.target

    @property
    def touched(self) -> tuple[str, ...]:
        """Ingredients touched, in their order; after a change, those touched from then on."""
        contacts = self.outcome.after_change if len(self.trial.asks) > 1 else self.outcome.contacts
        return tuple(kind for kind, _ in contacts)

    @property
    def first(self) -> str:
        """The first-contacted ingredient; "" none."""
        return self.touched[0] if self.touched else ""

    @property
    def rightly(self) -> bool:
        """Whether this was right. What was touched just before a change to nothing must not go on either."""
        return self.first == self.target and (bool(self.target) or not self.outcome.moved)

    @property
    def placed(self) -> bool:
        """Whether a slice of the target came to lie on the plate, in whatever way."""
        return any(item.ingredient == self.target and item.place == "plate" for item in self.outcome.moved)

    @property
    def placed_flat(self) -> bool:
        """Whether it lies there flat, released, inside of the rim."""
        return any(item.ingredient == self.target and item.flat for item in self.outcome.moved)

    @property
    def did(self) -> str:
        """In words."""
        return (
            f"{'picks' if self.first in self.outcome.grasped else 'touches'} {self.first}"
            if self.first
            else NOTHING
        )


def judged(trials: Iterable[Trial], outcomes: Mapping[int, Outcome]) -> list[Judged]:
    """Trials that ran and count."""
    return [
        Judged(trial, outcomes[trial.number])
        for trial in trials
        if trial.number in outcomes and not outcomes[trial.number].fault
    ]


def share(items: Sequence[Judged], holds: Callable[[Judged], bool]) -> Share:
    """Of the items for which it holds, with interval; None of none."""
    return rate(sum(map(holds, items)), len(items)) if items else None


def score(trials: Sequence[Trial], outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    """All of it, for JSON; see docs/obey.md for the keys."""
    items = judged(trials, outcomes)
    planned = Counter(trial.last.row for trial in trials)
    return {
        "planned": len(trials),
        "done": sum(trial.number in outcomes for trial in trials),
        "faults": [
            {"number": trial.number, "row": trial.last.row, "fault": outcomes[trial.number].fault}
            for trial in trials
            if trial.number in outcomes and outcomes[trial.number].fault
        ],
        "rows": [entry for row in ROWS if planned[row.id] for entry in rows(items, row)],
        "pairs": pairs(items),
    }


def rows(items: Sequence[Judged], row: Row) -> list[dict[str, Any]]:
    """The row's figures, as a list of one; of none where no trial of it counts."""
    mine = [item for item in items if item.row is row]
    if not mine:
        return []
    aimed = [item for item in mine if item.target]
    idle = [item for item in mine if not item.target]
    kinds = sorted({item.trial.last.named for item in mine} - {""})
    by = {kind: share([i for i in mine if i.trial.last.named == kind], lambda i: i.rightly) for kind in kinds}
    wanted = "mixed" if aimed and idle else "named" if aimed else NOTHING
    return [
        {
            "id": row.id,
            "words": row.words,
            "suite": row.suite,
            "side": row.about,
            "wanted": wanted,
            "rightly": share(mine, lambda item: item.rightly),
            "targeted": targeted(aimed) if aimed else None,
            "idle": idling(idle) if idle else None,
            "seconds": statistics.median(item.outcome.seconds for item in mine),
            "by": by,
        }
    ]


def targeted(items: Sequence[Judged]) -> dict[str, Any]:
    """Of trials in which a slice is to be moved. chance: share that follows where the first contact is with
    any of the ingredients in the tray."""
    met = [item for item in items if item.first]
    return {
        "followed": share(items, lambda i: i.first == i.target),
        "reached": share(items, lambda i: i.outcome.reached == i.target),
        "grasped_any": share(items, lambda i: bool(i.outcome.grasped)),
        "grasped_named": share(items, lambda i: i.target in i.outcome.grasped),
        "placed": share(items, lambda i: i.placed),
        "placed_flat": share(items, lambda i: i.placed_flat),
        "no_contact": share(items, lambda i: not i.first),
        "other_first": share(items, lambda i: i.first not in ("", i.target)),
        "followed_if_contact": share(met, lambda i: i.first == i.target),
        "other_moved": share(items, lambda i: any(m.ingredient != i.target for m in i.outcome.moved)),
        "chance": statistics.mean(1 / len(item.trial.scene.standing) for item in items),
    }


def idling(items: Sequence[Judged]) -> dict[str, Any]:
    """Of trials in which nothing is to be done."""
    return {
        "touched_nothing": share(items, lambda i: not i.first),
        "moved_nothing": share(items, lambda i: not i.outcome.moved),
    }


def pairs(items: Sequence[Judged]) -> dict[str, Any]:
    """Pairs of cell and instruction, and pairs of instructions in one scene with one noise.

    changed: the two want different things, and what was touched first differs. stayed: they want the same,
    and it was the same. Both apart, for ignoring the words scores 1 on one, answering at random on the other.
    """
    in_cells = [item for item in items if item.row.suite == IN_CELLS and item.row.about == MODEL]
    groups: defaultdict[tuple[Any, int], list[Judged]] = defaultdict(list)
    for item in items:
        if item.row.about == MODEL and len(item.trial.asks) == 1 and not item.row.slow:
            groups[item.trial.scene, item.trial.noise_seed].append(item)
    changed: defaultdict[str, list[bool]] = defaultdict(list)
    stayed: defaultdict[str, list[bool]] = defaultdict(list)
    for group in groups.values():
        base, *others = sorted(group, key=lambda item: PLACES[item.trial.last.row])
        for other in others:
            same = base.first == other.first
            if base.target != other.target:
                changed[other.row.id].append(not same)
            else:
                stayed[other.row.id].append(same)
    cells = []
    for cell in CELLS:
        mine = [item for item in in_cells if item.trial.cell == cell.name]
        cells.append({"cell": cell.name, **rightly(mine)})
    return {
        "rightly": share(in_cells, lambda item: item.rightly),
        "changed": _rate([value for values in changed.values() for value in values]),
        "stayed": _rate([value for values in stayed.values() for value in values]),
        "by_row": {
            row.id: {"changed": _rate(changed[row.id]), "stayed": _rate(stayed[row.id])}
            for row in ROWS
            if row.id in changed or row.id in stayed
        },
        "cells": cells,
    }


def no_op(trials: Sequence[Trial]) -> dict[str, Any]:
    """What an arm that never moves would score."""
    still = [Judged(trial, Outcome(trial.number)) for trial in trials]
    return rightly(still)


def rightly(items: Sequence[Judged]) -> dict[str, Any]:
    """The share of right answers of the pairs of cell and instruction, and of each row."""
    mine = [item for item in items if item.row.suite == IN_CELLS and item.row.about == MODEL]
    of_rows: defaultdict[str, list[bool]] = defaultdict(list)
    for item in items:
        of_rows[item.trial.last.row].append(item.rightly)
    return {
        "rightly": share(mine, lambda item: item.rightly),
        "rows": {row.id: _rate(of_rows[row.id]) for row in ROWS if row.id in of_rows},
    }


def _rate(values: Sequence[bool]) -> Share:
    return rate(sum(values), len(values)) if values else None
