# SPDX-License-Identifier: Apache-2.0
"""Cells, scenes and instructions of the obedience trials."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import LAYOUTS_PER_SEED, Stock
from chefmate_policy.expert.language import parse_instruction
from chefmate_policy.obedience.battery import (
    BY_ID,
    IN_CELLS,
    ROWS,
    digest,
    plan,
    right_behaviour,
    trials_for,
)
from chefmate_policy.obedience.cells import BREAD, CELLS, CHEESE, TRIAL_SEED, SceneError, pair_scene
from chefmate_policy.obedience.sayings import Kitchen
from chefmate_policy.obedience.trial import MODEL, NODE, NULL, Trial

KINDS = ("bread", "cheese", "patty", "lettuce", "tomato")
STOCK = Stock(5, {"bread": 2, "cheese": 1, "patty": 1, "lettuce": 1, "tomato": 1})
FORBIDDING = {"negated", "cell_negated", "change_to_nothing"}


@pytest.fixture(scope="module")
def kitchen() -> Kitchen:
    return Kitchen(KINDS, STOCK, Phrasings.load())


@pytest.fixture(scope="module")
def trials(kitchen: Kitchen) -> tuple[Trial, ...]:
    return plan(kitchen, per_row=36)


def held_out(trial: Trial, kitchen: Kitchen) -> set[tuple[str, int]]:
    there = {(kind, slot) for slot, kind in enumerate(trial.scene.slots) if kind}
    return there & kitchen.phrasings.held_out.pairs


def test_every_row_has_its_trials(trials: tuple[Trial, ...]) -> None:
    counts = Counter(trial.last.row for trial in trials)
    assert set(counts) == set(BY_ID)
    assert counts["named"] == 36
    assert counts["correct"] == 18, "each of the nine cells as often"
    assert [trial.number for trial in trials] == list(range(len(trials)))


def test_cheese_and_bread_are_where_the_cell_has_them(trials: tuple[Trial, ...]) -> None:
    seen = set()
    for trial in trials:
        if BY_ID[trial.last.row].suite != IN_CELLS:
            assert not trial.cell
            continue
        cheese, bread = trial.cell.split("-")
        for kind, place in ((CHEESE, cheese), (BREAD, bread)):
            assert trial.scene.slots.count(kind) == (place == "holder"), trial
            assert trial.scene.plate.count(kind) == (place == "plate"), trial
        seen.add(trial.cell)
    assert seen == {cell.name for cell in CELLS} and len(seen) == 9
    distractors = [set(t.scene.standing) - {CHEESE, BREAD} for t in trials if t.last.row == "correct"]
    assert any(distractors) and not all(distractors)


def test_only_the_row_of_held_out_pairs_has_them(trials: tuple[Trial, ...], kitchen: Kitchen) -> None:
    pairs = set()
    for trial in trials:
        found = held_out(trial, kitchen)
        if trial.last.row == "held_out_pairs":
            (pair,) = found
            assert pair[0] == trial.last.target
            pairs.add(pair)
        else:
            assert not found, trial
    assert pairs == kitchen.phrasings.held_out.pairs


def test_no_layout_is_a_datasets_or_another_familys(trials: tuple[Trial, ...]) -> None:
    families = defaultdict(set)
    for trial in trials:
        assert trial.scene.layout >= TRIAL_SEED * LAYOUTS_PER_SEED
        families[BY_ID[trial.last.row].suite].add(trial.scene.layout)
    assert not set.intersection(*families.values())


def test_trials_of_a_scene_differ_in_the_words_alone(trials: tuple[Trial, ...]) -> None:
    noise = defaultdict(set)
    rows = defaultdict(list)
    for trial in trials:
        noise[trial.scene.layout].add((trial.scene, trial.noise_seed))
        rows[trial.scene.layout].append(trial.last.row)
    assert all(len(found) == 1 for found in noise.values())
    assert all(len(found) == len(set(found)) for found in rows.values())
    assert sum({"correct", "swapped", "cell_negated", "stop"} <= set(found) for found in rows.values()) == 18


def test_right_is_to_move_what_is_asked_for_if_it_stands_there(trials: tuple[Trial, ...]) -> None:
    for trial in trials:
        ask, row = trial.last, BY_ID[trial.last.row]
        assert ask.target in ("", ask.named)
        assert not ask.target or ask.target in trial.scene.standing
        if row.id in FORBIDDING or row.id in (
            "absent",
            "never_named",
            "empty",
            "nonsense",
            "missing",
            "stop",
        ):
            assert not ask.target, trial
        elif row.suite != IN_CELLS:
            assert ask.target, trial


def test_the_experts_ear_takes_the_words_as_the_table_does(trials: tuple[Trial, ...]) -> None:
    for trial in trials:
        ask = trial.last
        if (
            ask.to != MODEL or ask.row == "contradictory"
        ):  # what contradicts itself it takes as half of it says
            continue
        there = {*trial.scene.slots, *trial.scene.plate} - {""}
        meant = parse_instruction(ask.text, there).ingredient
        if meant in trial.scene.standing:
            assert meant == ask.target, ask
        else:
            assert not ask.target, ask


def test_table_of_right_behaviour_is_what_the_trials_say(trials: tuple[Trial, ...]) -> None:
    table = dict(right_behaviour())
    assert list(table) == [cell.name for cell in CELLS]
    for trial in trials:
        if trial.cell:
            ask, right = trial.last, table[trial.cell]
            key = ask.row if ask.row in right else f"{ask.row}/{ask.named}"
            assert right[key] == (ask.target or "nothing"), trial


def test_the_seeds_words_are_said_as_they_said_them(trials: tuple[Trial, ...]) -> None:
    texts = {trial.last.text for trial in trials if trial.cell == "holder-holder"}
    assert "pick up the yellow cheese and put it into the white plate" in texts
    assert "pick up the bread and put it into the white plate" in texts
    assert "do not pick up the cheese" in texts


def test_held_out_words_are_in_their_rows_alone(trials: tuple[Trial, ...], kitchen: Kitchen) -> None:
    words = [
        kitchen.phrasings.names[e.split("/")[0]][e.split("/")[1]] for e in kitchen.phrasings.held_out.names
    ]
    for trial in trials:
        unseen = any(word in trial.last.text.split() for word in words)
        assert unseen == (trial.last.row == "unseen_names"), trial.last
        assert trial.last.text.startswith("fetch") == (trial.last.row == "unseen_sentence"), trial.last


def test_the_empty_instruction_is_the_models_and_stop_the_nodes(trials: tuple[Trial, ...]) -> None:
    to = defaultdict(set)
    for trial in trials:
        if not trial.last.text:
            to[trial.last.row].add(trial.last.to)
    assert to == {"empty": {MODEL}, "cell_empty": {MODEL}, "stop": {NODE}, "null": {NULL}}


def test_changes_come_in_mid_reach(trials: tuple[Trial, ...]) -> None:
    for trial in trials:
        times = [time for time, _ in trial.asks]
        changes = trial.last.row in ("change", "change_to_nothing", "cell_change", "stop")
        assert len(times) == 1 + changes and times[0] == 0.0
        assert not changes or 0.5 < times[1] < 2.5


def test_a_plan_is_the_same_every_time_and_another_with_another_seed(kitchen: Kitchen) -> None:
    assert digest(plan(kitchen)) == digest(plan(kitchen))
    assert digest(plan(kitchen)) != digest(plan(kitchen, seed=1))
    alone = plan(kitchen, per_row=5, rows=["change"])
    among = [trial for trial in plan(kitchen, per_row=5) if trial.last.row == "change"]
    assert [(t.scene, t.asks) for t in alone] == [(t.scene, t.asks) for t in among]


def test_quick_plan_has_all_kinds_of_rows_and_few_trials(kitchen: Kitchen) -> None:
    counts = Counter(trial.last.row for trial in plan(kitchen))
    assert sum(counts.values()) <= 125
    assert set(counts) == {row.id for row in ROWS if row.quick}


def test_rows_that_need_something_held_out_vanish_without(kitchen: Kitchen) -> None:
    free = Kitchen(KINDS, STOCK, Phrasings.load(held_out=[]))
    rows = {trial.last.row for trial in plan(free)}
    assert not rows & {"compositions", "unseen_names", "unseen_sentence", "held_out_pairs"}
    assert {"named", "correct"} <= rows


def test_a_slot_that_the_tray_lacks_is_refused(kitchen: Kitchen) -> None:
    with pytest.raises(SceneError, match="slot 7"):
        pair_scene(0, 0, ("cheese", 7), KINDS, STOCK, kitchen.phrasings)


@pytest.mark.parametrize(("interval", "count"), [(0.05, 141), (0.04, 219), (0.1, 37)])
def test_trials_are_as_many_as_the_interval_asks_for(interval: float, count: int) -> None:
    assert trials_for(interval) == count


def test_an_impossible_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="use 0"):
        trials_for(0.0)
