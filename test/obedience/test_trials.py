# SPDX-License-Identifier: Apache-2.0
"""Trials of obedience in processes of their own: kept one by one, gone on with, told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chefmate.errors import ChefmateError
from chefmate.obey_log import OUTCOMES, TrialLog, policy_digest
from chefmate.obey_trials import Latency, Policy, run_trials
from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import Stock
from chefmate_policy.obedience.battery import plan
from chefmate_policy.obedience.sayings import Kitchen
from chefmate_policy.obedience.scoring import Judged
from chefmate_policy.obedience.trial import Moved, Outcome, Trial

KITCHEN = Kitchen(
    ("bread", "cheese", "patty", "lettuce", "tomato"),
    Stock(5, {"bread": 2, "cheese": 1, "patty": 1, "lettuce": 1, "tomato": 1}),
    Phrasings.load(),
)
EXPERT = Policy("expert", idle=1.0)
LATENCY = Latency(0.01, 0.01)
SOME = Outcome(
    3, (("bread", 1.5),), (), ("bread",), (Moved("bread", "plate", True),), "bread", 9.0, 4, 0.1, "DONE"
)


@pytest.fixture(scope="module")
def trials() -> tuple[Trial, ...]:
    change, *_ = plan(KITCHEN, per_row=1, rows=["change"])
    nothing = plan(KITCHEN, per_row=3, rows=["empty"])
    return (change, *(Trial(n + 1, t.cell, t.scene, t.asks, t.noise_seed) for n, t in enumerate(nothing)))


def test_an_interrupted_run_goes_on_with_what_it_lacks(tmp_path: Path, trials: tuple[Trial, ...]) -> None:
    log, ran = TrialLog(tmp_path), []

    def note(done: int, outcome: Outcome) -> None:
        ran.append(outcome.number)

    first = run_trials(trials, EXPERT, LATENCY, log, 1, lambda: len(ran) >= 1, note)
    assert 1 <= len(first) < len(trials)
    assert log.outcomes() == first
    again = run_trials(trials, EXPERT, LATENCY, log, 1, report=note)
    assert sorted(ran) == [0, 1, 2, 3], "each trial ran once"
    assert again == log.outcomes() and set(again) == {0, 1, 2, 3}
    judged = [Judged(trial, again[trial.number]) for trial in trials]
    assert all(item.rightly and not item.outcome.fault for item in judged)
    assert judged[0].placed_flat and not judged[1].outcome.contacts
    assert judged[0].outcome.contacts[0][1] > trials[0].asks[1][0], "touched after the change"


def test_a_policy_that_cannot_be_loaded_is_named(tmp_path: Path, trials: tuple[Trial, ...]) -> None:
    with pytest.raises(Exception, match="nobody"):
        run_trials(trials, Policy("nobody"), LATENCY, TrialLog(tmp_path), 1)


def test_a_line_that_a_kill_cut_short_is_dropped_and_its_trial_runs_again(tmp_path: Path) -> None:
    log = TrialLog(tmp_path)
    log.append(SOME)
    with (tmp_path / OUTCOMES).open("a") as file:
        file.write('{"number": 4, "contac')
    assert TrialLog(tmp_path).outcomes() == {3: SOME}
    log.append(Outcome(4))
    assert log.outcomes() == {3: SOME, 4: Outcome(4)}


def test_a_line_that_is_no_outcome_is_named(tmp_path: Path) -> None:
    log = TrialLog(tmp_path)
    log.append(SOME)
    with (tmp_path / OUTCOMES).open("a") as file:
        file.write(json.dumps({"number": 4}) + "\n")
    with pytest.raises(ChefmateError, match=r"outcomes\.jsonl:2 is not an outcome"):
        log.outcomes()


def test_another_plan_does_not_go_on(tmp_path: Path) -> None:
    log = TrialLog(tmp_path)
    log.begin({"policy": "one", "seed": 0})
    log.begin({"policy": "one", "seed": 0})
    with pytest.raises(ChefmateError, match="policy = 'one', not 'two'"):
        log.begin({"policy": "two", "seed": 0})


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with TrialLog(tmp_path).locked(), pytest.raises(ChefmateError, match="another process"):
        with TrialLog(tmp_path).locked():
            pytest.fail("both have the folder")


def test_policies_are_told_apart_by_their_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    before = policy_digest("local", str(tmp_path))
    assert policy_digest("local", str(tmp_path)) == before
    weights.write_bytes(b"two")
    assert policy_digest("local", str(tmp_path)) != before
    assert policy_digest("expert", "") != policy_digest("server", "")
