# SPDX-License-Identifier: Apache-2.0
"""Scenes of obedience trials: a function of seed and number alone, of layouts that no dataset shares.

Three families: all ingredients at random, as in generated data; the nine cells of cheese and bread; an
ingredient in a slot in which training never had it. Phrasings' held-out pairs are kept out of the first two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from chefmate_policy.data.phrasings import HeldOut, PhrasingError, Phrasings
from chefmate_policy.data.variants import Scene, SceneOptions, Stock, draw_scene, twin_seed

__all__ = [
    "CELLS",
    "HOLDER",
    "NOWHERE",
    "PLATE",
    "TRIAL_SEED",
    "TRIAL_SEEDS",
    "Cell",
    "SceneError",
    "cell_of",
    "cell_scene",
    "layout_of",
    "object_scene",
    "pair_scene",
]

TRIAL_SEED, TRIAL_SEEDS = 7700, 300
"""Seeds of `chefmate data generate` outside of these, from the first and so many, share no layout with a
trial."""
FAMILIES = ("objects", "cells", "pairs")  # each has a seed of its own, so that no two share a layout
TRIES = 50  # layouts that a scene may be drawn from until it has what it must have
HOLDER, PLATE, NOWHERE = "holder", "plate", "nowhere"
CHEESE, BREAD = "cheese", "bread"


class SceneError(PhrasingError):
    """No scene has what the trial needs."""


@dataclass(frozen=True)
class Cell:
    """Where cheese and bread are. scenario: number in the seeds' matrix; the ninth is not in it."""

    scenario: int
    cheese: str
    bread: str

    @property
    def name(self) -> str:
        """cheese-bread, for example holder-plate."""
        return f"{self.cheese}-{self.bread}"

    def place(self, ingredient: str) -> str:
        """Of cheese or bread."""
        return self.cheese if ingredient == CHEESE else self.bread


# In the order of the table "Detailed Behavior Matrix" of the seeds' multitask_training_analysis.md.
CELLS = (
    Cell(1, HOLDER, HOLDER),
    Cell(2, HOLDER, NOWHERE),
    Cell(3, NOWHERE, HOLDER),
    Cell(4, PLATE, HOLDER),
    Cell(5, HOLDER, PLATE),
    Cell(6, PLATE, PLATE),
    Cell(7, NOWHERE, NOWHERE),
    Cell(8, PLATE, NOWHERE),
    Cell(9, NOWHERE, PLATE),
)


def cell_of(name: str) -> Cell:
    """By its name. Raises KeyError."""
    return {cell.name: cell for cell in CELLS}[name]


def object_scene(
    seed: int, number: int, named: str, kinds: Sequence[str], stock: Stock, phrasings: Phrasings
) -> Scene:
    """Random slices of all kinds in tray and on plate, drawn as generated data are, `named` among those in
    the tray and at least one other kind beside it. Raises SceneError."""
    options = SceneOptions(tuple(kinds))
    for attempt in range(TRIES):
        layout = layout_of(seed, "objects", number, attempt)
        scene = draw_scene(layout, number, options, stock, phrasings)
        if named in scene.standing and len(scene.standing) > 1:
            return scene
    raise SceneError(f"no scene of seed {seed}, number {number}, has {named} and another kind in the tray")


def cell_scene(
    seed: int, number: int, cell: Cell, distractors: Sequence[str], stock: Stock, phrasings: Phrasings
) -> Scene:
    """Cheese and bread as the cell has them, and none, some or all of the distractors in the tray.

    Both on the plate: bread is below. Raises SceneError.
    """
    layout = layout_of(seed, "cells", number)
    rng = np.random.default_rng([layout, 17])
    tray = [kind for kind in (CHEESE, BREAD) if cell.place(kind) == HOLDER]
    plate = tuple(kind for kind in (BREAD, CHEESE) if cell.place(kind) == PLATE)
    if distractors:
        count = int(rng.integers(1, len(distractors) + 1))
        tray += [distractors[int(i)] for i in rng.permutation(len(distractors))[:count]]
    slots = _arranged(rng, tray, stock.slots, phrasings.held_out)
    return replace(_bare(layout, number, stock, phrasings), slots=slots, plate=plate)


def pair_scene(
    seed: int, number: int, pair: tuple[str, int], kinds: Sequence[str], stock: Stock, phrasings: Phrasings
) -> Scene:
    """A random scene with an ingredient in a slot in which it is held out; no other held-out pair is in it.

    Raises SceneError.
    """
    kind, slot = pair
    options = SceneOptions(tuple(kinds))
    for attempt in range(TRIES):
        layout = layout_of(seed, "pairs", number, attempt)
        scene = draw_scene(layout, number, options, stock, phrasings)
        if kind not in scene.standing or len(scene.standing) < 2 or slot >= len(scene.slots):
            continue
        slots = list(scene.slots)
        was = slots.index(kind)
        slots[was], slots[slot] = slots[slot], slots[was]
        others = {(its, place) for place, its in enumerate(slots) if its} - {pair}
        if not others & phrasings.held_out.pairs:
            return replace(scene, slots=tuple(slots))
    raise SceneError(f"no scene of seed {seed}, number {number}, can have {kind} in slot {slot}")


def layout_of(seed: int, family: str, number: int, attempt: int = 0) -> int:
    """The twin's seed of a trial's layout. Raises SceneError: the seed is out of range."""
    if not 0 <= seed < TRIAL_SEEDS // len(FAMILIES):
        raise SceneError(f"seed {seed}: 0 to {TRIAL_SEEDS // len(FAMILIES) - 1}")
    return twin_seed(TRIAL_SEED + len(FAMILIES) * seed + FAMILIES.index(family), TRIES * number + attempt)


def _bare(layout: int, number: int, stock: Stock, phrasings: Phrasings) -> Scene:
    """For the start pose: as generated data have it."""
    return draw_scene(layout, number, SceneOptions((BREAD,), stacked=0.0), stock, phrasings)


def _arranged(
    rng: np.random.Generator, tray: Sequence[str], slots: int, held_out: HeldOut
) -> tuple[str, ...]:
    for _ in range(1000):
        order = [int(slot) for slot in rng.permutation(slots)[: len(tray)]]
        if not held_out.pairs & set(zip(tray, order, strict=True)):
            found = [""] * slots
            for kind, slot in zip(tray, order, strict=True):
                found[slot] = kind
            return tuple(found)
    raise SceneError(f"no arrangement of {', '.join(tray)} in {slots} slots avoids what is held out")
