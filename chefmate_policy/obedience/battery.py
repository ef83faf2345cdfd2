# SPDX-License-Identifier: Apache-2.0
"""The prompt battery: what is said in which scenes, and what is right then.

`ROWS` is the table; `plan` makes the trials of it. Trials of a suite with the same number share scene and
noise, so they differ in what is said alone. What is right follows from one rule: the named ingredient is to
be moved if it stands in the holder and the words ask for it; else nothing is to be touched.
`right_behaviour` is the table that this gives for the nine cells.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chefmate_policy.data.variants import Scene
from chefmate_policy.intervals import half_width
from chefmate_policy.obedience import sayings
from chefmate_policy.obedience.cells import (
    BREAD,
    CELLS,
    CHEESE,
    HOLDER,
    cell_scene,
    object_scene,
    pair_scene,
)
from chefmate_policy.obedience.sayings import Kitchen, Says, Setting, asking, changing, idling
from chefmate_policy.obedience.trial import MODEL, NODE, NULL, Trial

__all__ = [
    "BY_ID",
    "IN_CELLS",
    "OBJECTS",
    "PAIRS",
    "ROWS",
    "Kitchen",
    "Row",
    "digest",
    "plan",
    "right_behaviour",
    "trials_for",
]

OBJECTS, IN_CELLS, PAIRS = "objects", "cells", "pairs"
EXPECTED = 0.9  # share for which the number of trials is chosen: where policies that obey lie
SEARCHED = 40  # scenes per trial that are looked at for one in which a row makes sense


@dataclass(frozen=True)
class Row:
    """One row of the battery.

    says: what is said. share: of the trials per row. quick: trials in quick mode. about: whom the figure is
    about: MODEL, NODE, or NULL (nobody says anything). slow: inferences take their 95th percentile. fits:
    whether the row makes sense in a setting.
    """

    id: str
    words: str
    suite: str
    says: Says
    share: float = 1.0
    quick: int = 3
    about: str = MODEL
    slow: bool = False
    fits: Callable[[Setting], object] = lambda setting: True


HALF = 0.5  # of the trials per row: rows of which no goal depends
ROWS = (
    Row("named", "an ingredient is named", OBJECTS, asking(sayings.seen), quick=16),
    Row("other", "another one of the scene", OBJECTS, asking(sayings.seen_other, other=True), HALF, 8),
    Row("named_late", "named, inference at its p95", OBJECTS, asking(sayings.seen), HALF, 0, slow=True),
    Row(
        "compositions",
        "new composition of seen words",
        OBJECTS,
        asking(sayings.composition),
        quick=5,
        fits=sayings.compositions,
    ),
    Row("unseen_names", "unseen name", OBJECTS, asking(sayings.unseen_name), fits=sayings.unseen_names),
    Row(
        "unseen_sentence",
        "unseen sentence",
        OBJECTS,
        asking(sayings.unseen_sentence),
        fits=sayings.unseen_sentences,
    ),
    Row("missing", "ingredient that is not there", OBJECTS, sayings.missing, fits=sayings.nowhere),
    Row("absent", "banana", OBJECTS, idling(sayings.things(sayings.BANANA))),
    Row(
        "never_named",
        "things that training never names",
        OBJECTS,
        idling(sayings.things(sayings.NEVER_NAMED)),
    ),
    Row("negated", "told not to", OBJECTS, idling(sayings.negated, names=True)),
    Row("empty", "empty instruction", OBJECTS, idling(sayings.empty)),
    Row("change", "another one in mid-reach", OBJECTS, changing(sayings.the_other), quick=5),
    Row("change_to_nothing", "told not to in mid-reach", OBJECTS, changing(sayings.not_that)),
    Row("null", "null prompt", OBJECTS, sayings.unsaid, HALF, about=NULL),
    Row("held_out_pairs", "ingredient in a slot that is new to it", PAIRS, asking(sayings.seen), quick=5),
    Row("correct", "one of the two is named", IN_CELLS, asking(sayings.usual), HALF, 9),
    Row("swapped", "the other of the two", IN_CELLS, asking(sayings.usual_other, other=True), HALF, 9),
    Row("paraphrased", "in other words", IN_CELLS, asking(sayings.paraphrased), HALF),
    Row("recased", "in other letters", IN_CELLS, asking(sayings.recased), HALF),
    Row("mispunctuated", "with other punctuation", IN_CELLS, asking(sayings.mispunctuated), HALF),
    Row("cell_empty", "empty instruction", IN_CELLS, idling(sayings.empty), HALF),
    Row("nonsense", "nonsense", IN_CELLS, idling(sayings.nonsense), HALF),
    Row("cell_absent", "banana", IN_CELLS, idling(sayings.things(sayings.BANANA)), HALF),
    Row("cell_negated", "do not pick it up", IN_CELLS, idling(sayings.seeds_negation, names=True), HALF, 9),
    Row("contradictory", "contradicts itself", IN_CELLS, idling(sayings.contradictory, names=True), HALF),
    Row("cell_change", "the other one in mid-reach", IN_CELLS, changing(sayings.the_other), HALF),
    Row("stop", "stop in mid-reach", IN_CELLS, changing(sayings.stop), HALF, about=NODE),
)
BY_ID = {row.id: row for row in ROWS}


def trials_for(interval: float) -> int:
    """Fewest trials whose Wilson interval of 95 % has this half-width at a share of 0.9.

    Raises ValueError: not within 0.005 to 0.5.
    """
    if not 0.005 <= interval <= 0.5:
        raise ValueError(f"an interval of +-{interval:g}: use 0.005 to 0.5")
    return next(n for n in itertools.count(1) if half_width(EXPECTED, n) <= interval)


def plan(
    kitchen: Kitchen, seed: int = 0, per_row: int | None = None, rows: Sequence[str] = ()
) -> tuple[Trial, ...]:
    """All trials, in the order of the table; numbers count up.

    per_row: trials of a row of share 1; None: as few as in quick mode. rows: ids; none: all. A row that
    makes no sense (nothing is held out) has no trials. Raises SceneError, KeyError: no such row.
    """
    trials: list[Trial] = []
    drawn = {suite: _Drawn(suite, kitchen, seed) for suite in (OBJECTS, IN_CELLS, PAIRS)}
    chosen = [BY_ID[key] for key in rows] if rows else ROWS
    for row in chosen:
        count = row.quick if per_row is None else math.ceil(row.share * per_row)
        if row.suite == IN_CELLS and per_row is not None:
            count = math.ceil(count / len(CELLS)) * len(CELLS)  # each cell as often
        fitting = (item for item in drawn[row.suite].first(SEARCHED * count) if row.fits(item))
        for setting in itertools.islice(fitting, count):
            scene = setting.scene
            asks = row.says(setting, np.random.default_rng([scene.layout, *row.id.encode()]), row.id)
            cell = setting.cell.name if setting.cell else ""
            noise = int(np.random.default_rng([scene.layout, 23]).integers(2**31))
            trials.append(Trial(len(trials), cell, scene, asks, noise))
    return tuple(trials)


def digest(trials: Sequence[Trial]) -> str:
    """SHA-256 of what is tried, to tell whether two plans are the same."""
    return hashlib.sha256(repr(tuple(trials)).encode()).hexdigest()


def right_behaviour() -> tuple[tuple[str, dict[str, str]], ...]:
    """What is right in each of the nine cells: (cell, {row: ingredient to be moved, or "nothing"}). Rows that
    name one of the two are told apart as ROW/INGREDIENT."""
    table = []
    for cell in CELLS:
        standing = tuple(kind for kind in (CHEESE, BREAD) if cell.place(kind) == HOLDER)
        right: dict[str, str] = {}
        for row in ROWS:
            if row.suite != IN_CELLS:
                continue
            if row.says in _NAMING:
                for kind in (CHEESE, BREAD):
                    right[f"{row.id}/{kind}"] = kind if kind in standing else "nothing"
            else:
                right[row.id] = "nothing"
        table.append((cell.name, right))
    return tuple(table)


_NAMING = {BY_ID[key].says for key in ("correct", "swapped", "paraphrased", "recased", "mispunctuated")} | {
    BY_ID["cell_change"].says
}


class _Drawn:
    """The settings of a suite, each drawn once."""

    def __init__(self, suite: str, kitchen: Kitchen, seed: int) -> None:
        self._settings: list[Setting] = []
        self._more = _settings(suite, kitchen, seed)

    def first(self, most: int) -> Iterator[Setting]:
        """In their order; none after `most`."""
        for number in range(most):
            while number >= len(self._settings):
                found = next(self._more, None)
                if found is None:
                    return
                self._settings.append(found)
            yield self._settings[number]


def _settings(suite: str, kitchen: Kitchen, seed: int) -> Iterator[Setting]:
    """Without end, or none."""
    pairs = sorted(kitchen.phrasings.held_out.pairs)
    drawing = (kitchen.kinds, kitchen.stock, kitchen.phrasings)
    for number in itertools.count():
        if suite == IN_CELLS:
            yield _in_cell(kitchen, seed, number)
        elif suite == OBJECTS:
            named = kitchen.kinds[number % len(kitchen.kinds)]
            yield _among(object_scene(seed, number, named, *drawing), named, kitchen)
        elif pairs:
            pair = pairs[number % len(pairs)]
            yield _among(pair_scene(seed, number, pair, *drawing), pair[0], kitchen)
        else:
            return


def _among(scene: Scene, named: str, kitchen: Kitchen) -> Setting:
    others = [kind for kind in scene.standing if kind != named]
    rng = np.random.default_rng([scene.layout, 29])
    return Setting(scene, named, others[int(rng.integers(len(others)))], kitchen)


def _in_cell(kitchen: Kitchen, seed: int, number: int) -> Setting:
    """Named is what stands there; where both do or none, they take turns. Every second round of the cells
    has distractors."""
    lap, index = divmod(number, len(CELLS))
    cell = CELLS[index]
    distractors = kitchen.distractors if lap % 2 else ()
    scene = cell_scene(seed, number, cell, distractors, kitchen.stock, kitchen.phrasings)
    standing = [kind for kind in (CHEESE, BREAD) if cell.place(kind) == HOLDER]
    turns = standing if len(standing) == 1 else [CHEESE, BREAD]
    named = turns[(lap // 2) % len(turns)]
    return Setting(scene, named, BREAD if named == CHEESE else CHEESE, kitchen, cell)
