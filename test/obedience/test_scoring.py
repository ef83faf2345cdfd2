# SPDX-License-Identifier: Apache-2.0
"""Figures of the obedience trials, from made-up policies whose obedience is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import Stock
from chefmate_policy.obedience.battery import plan
from chefmate_policy.obedience.results import closed_loop, paired
from chefmate_policy.obedience.sayings import Kitchen
from chefmate_policy.obedience.seeds import matrix_lines
from chefmate_policy.obedience.summary import lines
from chefmate_policy.obedience.trial import NODE, NULL, Moved, Outcome, Trial

KITCHEN = Kitchen(
    ("bread", "cheese", "patty", "lettuce", "tomato"),
    Stock(5, {"bread": 2, "cheese": 1, "patty": 1, "lettuce": 1, "tomato": 1}),
    Phrasings.load(),
)
TRIALS = plan(KITCHEN, per_row=200)


def picks(trial: Trial, kind: str, flat: bool = True) -> Outcome:
    """A slice is taken to the plate; after a change it is a later one than what was touched before."""
    if not kind:
        return Outcome(trial.number, seconds=10.0)
    moved = (Moved(kind, "plate", flat),)
    touched = ((kind, 3.0),)
    return Outcome(trial.number, touched, touched, (kind,), moved, kind, 9.0)


def obedient(trial: Trial) -> Outcome:
    return picks(trial, trial.last.target)


def fumbling(trial: Trial) -> Outcome:
    """Goes to the right one, and pushes it off."""
    target = trial.last.target
    if not target:
        return Outcome(trial.number, seconds=10.0)
    return Outcome(
        trial.number, ((target, 3.0),), ((target, 3.0),), (), (Moved(target, "elsewhere", False),), target
    )


def deaf(trial: Trial) -> Outcome:
    """The seeds' robot: sees cheese, takes cheese, else bread; stops where something lies on the plate."""
    if trial.last.to == NODE or trial.scene.plate:
        return Outcome(trial.number, seconds=10.0)
    standing = trial.scene.standing
    return picks(trial, next((kind for kind in ("cheese", "bread", *standing) if kind in standing), ""))


def still(trial: Trial) -> Outcome:
    return Outcome(trial.number, seconds=10.0)


def result(policy: Callable[[Trial], Outcome]) -> dict[str, Any]:
    return closed_loop(TRIALS, {trial.number: policy(trial) for trial in TRIALS})


def row(found: dict[str, Any], key: str) -> dict[str, Any]:
    return next(entry for entry in found["rows"] if entry["id"] == key)


def test_an_obedient_policy_meets_every_goal() -> None:
    found = result(obedient)
    assert all(goal["met"] and goal["enough"] for goal in found["goals"])
    assert found["pairs"]["rightly"]["rate"] == 1.0
    assert found["pairs"]["changed"]["rate"] == found["pairs"]["stayed"]["rate"] == 1.0
    assert all(test["passed"]["rate"] == 1.0 for test in found["tests"])
    effects = {entry["scenario"]: entry["effect"].split(" (")[0] for entry in found["matrix"]}
    assert effects[1] == effects[4] == "Follows instruction"
    assert effects[6] == effects[9] == "Leaves all alone, as is right"


def test_a_policy_that_obeys_and_fumbles_has_obeyed() -> None:
    found = result(fumbling)
    named = row(found, "named")["targeted"]
    assert named["followed"]["rate"] == 1.0 and named["reached"]["rate"] == 1.0
    assert named["grasped_any"]["rate"] == named["placed"]["rate"] == named["placed_flat"]["rate"] == 0.0
    met = {goal["id"]: goal["met"] for goal in found["goals"]}
    assert met["followed"] and met["change"] and not met["placed"]
    assert found["pairs"]["rightly"]["rate"] == 1.0


def test_a_deaf_policy_stays_when_it_should_and_never_changes() -> None:
    found = result(deaf)
    assert found["pairs"]["changed"]["rate"] == 0.0
    assert found["pairs"]["stayed"]["rate"] == 1.0
    passed = [test["passed"]["rate"] for test in found["tests"]]
    assert passed == [1.0, 0.0, 0.0, 0.0], "what the seeds found: cheese whatever is said, then it stops"
    assert found["tests"][3]["did"].keys() == {"nothing"}
    met = {goal["id"] for goal in found["goals"] if goal["met"]}
    assert not met & {"followed", "placed", "absent", "negated", "empty", "change"}
    null = found["baselines"]["null"]
    assert 0 < null["followed"]["rate"] < 1 and 0.2 <= null["chance"] <= 0.5


def test_the_seeds_matrix_has_their_form() -> None:
    found = matrix_lines(result(deaf)["matrix"])
    assert found[0] == (
        "| Scenario | Cheese Location | Bread Location | Robot Action | Language Instruction Effect |"
    )
    assert found[2].startswith("| 1 | Holder | Holder | cheese named: picks cheese")
    assert found[2].endswith("| Ignores instruction (12 of 24 right) |")
    assert found[5].startswith("| 4 | Plate | Holder |")
    assert len(found) == 2 + 9


def test_an_arm_that_never_moves_is_right_where_nothing_is_to_be_done() -> None:
    found = result(still)
    share = found["baselines"]["no_op"]
    assert share["rows"]["named"]["rate"] == 0.0 and share["rows"]["negated"]["rate"] == 1.0
    assert found["pairs"]["rightly"] == share["rightly"]
    assert row(found, "named")["targeted"]["no_contact"]["rate"] == 1.0
    assert row(found, "named")["targeted"]["followed_if_contact"] is None


def test_after_a_change_only_what_is_touched_from_then_on_counts() -> None:
    trial = next(trial for trial in TRIALS if trial.last.row == "change")
    first, last = trial.asks[0][1].target, trial.last.target
    outcome = replace(picks(trial, last), contacts=((first, 1.0), (last, 5.0)))
    assert row(closed_loop([trial], {trial.number: outcome}), "change")["rightly"]["rate"] == 1.0
    late = replace(picks(trial, first), contacts=((first, 5.0),))
    assert row(closed_loop([trial], {trial.number: late}), "change")["rightly"]["rate"] == 0.0


def test_a_slice_that_is_carried_on_after_it_was_called_off_is_not_right() -> None:
    trial = next(trial for trial in TRIALS if trial.last.row == "change_to_nothing")
    outcome = replace(picks(trial, trial.asks[0][1].target), after_change=())
    found = row(closed_loop([trial], {trial.number: outcome}), "change_to_nothing")
    assert found["rightly"]["rate"] == 0.0 and found["idle"]["moved_nothing"]["rate"] == 0.0


def test_faulted_trials_count_nowhere_and_are_listed() -> None:
    outcomes = {trial.number: obedient(trial) for trial in TRIALS}
    broken = next(trial for trial in TRIALS if trial.last.row == "named")
    outcomes[broken.number] = Outcome(broken.number, fault="backend: out of memory")
    found = closed_loop(TRIALS, outcomes)
    assert row(found, "named")["rightly"]["n"] == 199
    assert found["faults"] == [{"number": broken.number, "row": "named", "fault": "backend: out of memory"}]


def test_trials_that_were_not_run_are_not_failures() -> None:
    named = [trial for trial in TRIALS if trial.last.row == "named"]
    found = closed_loop(TRIALS, {trial.number: obedient(trial) for trial in named[:50]})
    assert row(found, "named")["rightly"]["n"] == 50 and found["done"] == 50
    met = {goal["id"]: (goal["met"], goal["enough"]) for goal in found["goals"]}
    assert met["followed"] == (True, False) and met["empty"] == (None, False)
    assert any("not measured" in line for line in lines({"closed_loop": found}))


@pytest.mark.parametrize(("right", "met"), [(190, True), (189, False)])
def test_a_goal_needs_the_point_estimate_and_a_near_lower_bound(right: int, met: bool) -> None:
    named = [trial for trial in TRIALS if trial.last.row == "named"]
    outcomes = {trial.number: (obedient if i < right else still)(trial) for i, trial in enumerate(named)}
    goal = closed_loop(TRIALS, outcomes)["goals"][0]
    assert goal["met"] is met and goal["wanted"] == 0.95


def test_few_trials_do_not_meet_a_goal_by_their_point_estimate() -> None:
    named = [trial for trial in TRIALS if trial.last.row == "named"][:20]
    found = closed_loop(named, {trial.number: obedient(trial) for trial in named})
    assert found["goals"][0]["point"] == 1.0 and found["goals"][0]["met"] is False


def test_held_out_rows_are_measured_against_the_named_row() -> None:
    def policy(trial: Trial) -> Outcome:
        weak = trial.last.row in ("named", "compositions") and trial.number % 10 == 0
        return still(trial) if weak else obedient(trial)

    found = {goal["id"]: goal for goal in result(policy)["goals"]}
    assert found["compositions"]["wanted"] == pytest.approx(found["followed"]["point"] - 0.05)
    assert found["compositions"]["met"] and not found["followed"]["met"]


def test_two_ways_of_running_are_compared_in_pairs() -> None:
    named = [trial for trial in TRIALS if trial.last.row == "named"][:60]
    one = {trial.number: obedient(trial) for trial in named}
    other = {trial.number: (still if i < 6 else fumbling)(trial) for i, trial in enumerate(named)}
    found = paired(named, one, other)
    assert found["pairs"] == 60
    assert (found["rightly"]["both"], found["rightly"]["one"]) == (54, 6)
    assert found["rightly"]["difference"] == pytest.approx(-0.1)
    low, high = found["rightly"]["interval_95"]
    assert low < -0.1 < high < 0.0
    assert found["placed_flat"]["difference"] == -1.0


def test_the_summary_says_everything_once() -> None:
    text = "\n".join(lines({"closed_loop": result(deaf)}))
    for part in (
        "named: an ingredient is named",
        "changed when it should",
        "Test 2",
        "| 9 |",
        "goal",
        "never moves",
    ):
        assert text.count(part) >= 1, part
    assert "stop: stop in mid-reach (the node)" in text


def test_null_rows_are_no_part_of_the_models_pairs() -> None:
    assert all(trial.last.to != NULL for trial in TRIALS if trial.cell)
    found = result(obedient)
    assert "null" not in found["pairs"]["by_row"] and "stop" not in found["pairs"]["by_row"]
