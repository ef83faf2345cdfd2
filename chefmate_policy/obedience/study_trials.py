# SPDX-License-Identifier: Apache-2.0
"""Trials of the study, and what is counted of them.

The scenes are those of `chefmate obey` (held-out layouts), chosen otherwise: mostly both bread and cheese in
the holder, each asked for with the same noise; a few of the seeds' other cells; a few in which nothing is to
be done. All runs are tried in the same scenes with the same noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, permutations
from typing import Any

import numpy as np

from chefmate_policy.data.variants import Scene, SceneOptions, draw_scene
from chefmate_policy.intervals import rate
from chefmate_policy.obedience import seeds
from chefmate_policy.obedience.battery import BY_ID, Kitchen
from chefmate_policy.obedience.cells import (
    BREAD,
    CELLS,
    CHEESE,
    HOLDER,
    PLATE,
    Cell,
    layout_of,
    object_scene,
)
from chefmate_policy.obedience.sayings import Setting
from chefmate_policy.obedience.scoring import Judged, idling, judged, pairs, targeted
from chefmate_policy.obedience.study import TrialCounts
from chefmate_policy.obedience.trial import Outcome, Trial

__all__ = ["base_plan", "figures", "plan"]

MAIN = ("correct", "swapped", "named", "other")  # rows in which one of two that stand there is named
BOTH = CELLS[0]
ELSEWHERE = 1000  # number of the first scene of another cell
IDLE = {"cell_absent": "absent", "negated": "negated", "absent": "absent"}


def plan(kitchen: Kitchen, counts: TrialCounts, pair: tuple[str, str]) -> tuple[Trial, ...]:
    """Of a fine-tune: most important first. pair: in the parts of cheese and bread. Raises PhrasingError."""
    found: list[Trial] = []
    both = []
    for number in range(counts.pairs):
        scene = _scene(kitchen, counts.seed, number, BOTH, pair)
        both.append(_setting(scene, pair, number, kitchen, BOTH))
    _say(found, both, ("correct", "swapped"))
    others = []
    for lap in range(counts.laps):
        for index, cell in enumerate(CELLS[1:]):
            scene = _scene(kitchen, counts.seed, ELSEWHERE + len(CELLS) * lap + index, cell, pair)
            others.append(_setting(scene, pair, lap, kitchen, cell))
    _say(found, both[: counts.idle], ("negated", "cell_absent"))
    _say(found, others, ("correct", "swapped"))
    return tuple(found)


def base_plan(kitchen: Kitchen, counts: TrialCounts) -> tuple[Trial, ...]:
    """Of the base, on its own ingredients (`kitchen.kinds`). Raises SceneError."""
    found: list[Trial] = []
    settings = []
    for number in range(counts.base_pairs):
        named = kitchen.kinds[number % len(kitchen.kinds)]
        scene = object_scene(counts.seed, number, named, kitchen.kinds, kitchen.stock, kitchen.phrasings)
        others = [kind for kind in scene.standing if kind != named]
        settings.append(Setting(scene, named, others[number % len(others)], kitchen))
    _say(found, settings, ("named", "other"))
    _say(found, settings[: counts.idle], ("negated", "absent"))
    return tuple(found)


def figures(
    runs: Mapping[str, tuple[Sequence[Trial], Mapping[int, Outcome]]],
    pair: tuple[str, str] = (CHEESE, BREAD),
) -> dict[str, Any]:
    """For JSON, over the runs of one cell by name (one for each training seed): what was touched first where
    one of two is named, by name; pairs of instructions; idle rows; the seeds' matrix, in which `pair` play
    the parts of cheese and bread. Empty where nothing ran."""
    each = {name: judged(trials, outcomes) for name, (trials, outcomes) in runs.items()}
    items = list(chain(*each.values()))
    main = _main(items)
    if not main:
        return {}
    # pairs of one run: the others have the same scenes and noise
    changed = [found for some in each.values() if (found := pairs(_main(some))["changed"]) is not None]
    asked = sum(found["n"] for found in changed)
    idle = {name: [item for item in items if IDLE.get(item.row.id) == name] for name in ("negated", "absent")}
    in_cells = [item for item in items if item.trial.cell]
    return {
        "trials": len(items),
        "faults": sum(bool(outcome.fault) for _, outcomes in runs.values() for outcome in outcomes.values()),
        "named": targeted(main),
        "touched": {
            kind: dict(Counter(item.first or "nothing" for item in main if item.target == kind).most_common())
            for kind in sorted({item.target for item in main})
        },
        "changed": rate(sum(found["successes"] for found in changed), asked) if asked else None,
        "followed_by_run": {name: _followed(some) for name, some in each.items()},
        "idle": {name: idling(some) for name, some in idle.items() if some},
        "matrix": seeds.matrix([_in_their_parts(item, pair) for item in in_cells]) if in_cells else [],
    }


def _main(items: Sequence[Judged]) -> list[Judged]:
    """Those in which one of several that stand there is named."""
    return [item for item in items if item.row.id in MAIN and len(item.trial.scene.standing) > 1]


def _followed(items: Sequence[Judged]) -> dict[str, int]:
    main = _main(items)
    return {"followed": sum(item.first == item.target for item in main), "n": len(main)}


def _say(found: list[Trial], settings: Sequence[Setting], rows: Sequence[str]) -> None:
    """Adds the trials of these rows, scene by scene."""
    for setting in settings:
        scene = setting.scene
        noise = int(np.random.default_rng([scene.layout, 23]).integers(2**31))
        for key in rows:
            asks = BY_ID[key].says(setting, np.random.default_rng([scene.layout, *key.encode()]), key)
            found.append(Trial(len(found), setting.cell.name if setting.cell else "", scene, asks, noise))


def _setting(scene: Scene, pair: tuple[str, str], turn: int, kitchen: Kitchen, cell: Cell) -> Setting:
    named, other = pair if turn % 2 == 0 else pair[::-1]
    return Setting(scene, named, other, kitchen, cell)


def _scene(kitchen: Kitchen, seed: int, number: int, cell: Cell, pair: tuple[str, str]) -> Scene:
    """As `cells.cell_scene` has cheese and bread, with these two in their parts and nothing else."""
    layout = layout_of(seed, "cells", number)
    places = dict(zip(pair, (cell.cheese, cell.bread), strict=True))
    tray = [kind for kind, place in places.items() if place == HOLDER]
    plate = tuple(kind for kind in reversed(pair) if places[kind] == PLATE)
    stock, phrasings = kitchen.stock, kitchen.phrasings
    rng = np.random.default_rng([layout, 17])
    order = [int(slot) for slot in rng.permutation(stock.slots)]
    free = next(
        chosen
        for chosen in permutations(order, len(tray))
        if not phrasings.held_out.pairs & set(zip(tray, chosen, strict=True))
    )
    slots = [""] * stock.slots
    for kind, slot in zip(tray, free, strict=True):
        slots[slot] = kind
    bare = draw_scene(layout, number, SceneOptions((pair[0],), stacked=0.0), stock, phrasings)
    return replace(bare, slots=tuple(slots), plate=plate)


def _in_their_parts(item: Judged, pair: tuple[str, str]) -> Judged:
    """With the names of the seeds' two, for their matrix."""
    names = dict(zip(pair, (CHEESE, BREAD), strict=True))

    def part(kind: str) -> str:
        return names.get(kind, kind)

    trial, outcome = item.trial, item.outcome
    asks = tuple((at, replace(ask, target=part(ask.target), named=part(ask.named))) for at, ask in trial.asks)
    scene = replace(trial.scene, slots=tuple(map(part, trial.scene.slots)))
    return Judged(
        replace(trial, asks=asks, scene=scene),
        replace(
            outcome,
            contacts=tuple((part(kind), at) for kind, at in outcome.contacts),
            after_change=tuple((part(kind), at) for kind, at in outcome.after_change),
            grasped=tuple(map(part, outcome.grasped)),
            moved=tuple(replace(moved, ingredient=part(moved.ingredient)) for moved in outcome.moved),
        ),
    )
