# SPDX-License-Identifier: Apache-2.0
"""Which cause is named, from figures; on checkpoints: test_planted_faults.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from figures import closed, gap, idle, named, offline, row, separation, teaching, trainable
from test_scoring import TRIALS, deaf, fumbling, obedient, still

from chefmate_policy.obedience.causes import CAUSES
from chefmate_policy.obedience.results import closed_loop
from chefmate_policy.obedience.verdicts import judge

DEAF = (trainable(), separation(), gap("ignores"))
TEACHES, CANNOT = "TEACHES_LANGUAGE", "CANNOT_TEACH_LANGUAGE"


def causes(**result: Any) -> tuple[str, ...]:
    return judge(result).causes


def test_nothing_known_decides_nothing() -> None:
    found = judge({})
    assert (found.overall, found.causes) == ("cannot-tell", ())
    impossible = {"check": "gap", "possible": False, "verdict": "", "line": "not possible", "figures": None}
    assert judge({"offline": offline(impossible), "closed_loop": None}).overall == "cannot-tell"


def test_a_policy_that_obeys_has_no_cause_named() -> None:
    found = judge(
        {
            "offline": offline(trainable(), separation(), gap()),
            "closed_loop": closed(named(198, 200, 196), idle("absent", 99), row("change", 98, 100)),
        }
    )
    assert (found.overall, found.causes) == ("obeys", ())
    assert "198 of 200" in found.basis


def test_a_policy_that_obeys_but_fumbles_is_not_called_disobedient() -> None:
    """It touches something in a third of the trials only, then mostly what was named, and lays down half."""
    found = judge({"offline": offline(*DEAF), "closed_loop": closed(named(66, 70, 30))})
    assert (found.overall, found.causes) == ("fumbles", ("fumbles",))


def test_one_that_takes_what_is_nearest_disobeys_although_it_never_fumbles() -> None:
    found = judge({"offline": offline(*DEAF), "closed_loop": closed(named(70, 200, 199))})
    assert (found.overall, found.causes) == ("disobeys", ("head-ignores",))


@pytest.mark.parametrize(("right", "touched", "overall"), [(4, 6, "cannot-tell"), (130, 200, "in-part")])
def test_intervals_decide(right: int, touched: int, overall: str) -> None:
    assert judge({"closed_loop": closed(named(right, touched, touched))}).overall == overall


def test_what_it_does_when_nothing_is_to_be_done_is_told_apart() -> None:
    found = judge({"closed_loop": closed(named(198, 200, 196), idle("negated", 40), row("change", 20, 100))})
    assert (found.overall, found.causes) == ("in-part", ("acts-unasked", "deaf-in-mid-reach"))


def test_weights_of_the_base_are_named_and_explain_the_rest() -> None:
    checks = (trainable("adapters_not_loaded", 0), separation("not_apart"), gap("ignores"))
    assert causes(offline=offline(*checks), teaching=teaching(CANNOT)) == ("adapters-not-loaded",)


def test_words_that_do_not_arrive_are_named_and_explain_the_rest() -> None:
    checks = (trainable(), separation("identical", equal=30), gap("ignores", largest=0.0))
    found = judge({"offline": offline(*checks), "teaching": teaching(TEACHES)})
    assert (found.overall, found.causes) == ("disobeys", ("text-cut",))
    assert len(found.findings[0].evidence) == 3


@pytest.mark.parametrize(
    ("taught", "cause", "sure"),
    [
        (teaching(CANNOT), "data-cannot-teach", "likely"),
        (teaching(TEACHES), "wrong-words", "likely"),
        (teaching(TEACHES, sight=0.03), "wrong-words", "likely"),
        (teaching(TEACHES, sight=0.0), "not-learned-yet", "likely"),
        (teaching(TEACHES, words=1.0), "learned-elsewhere", "likely"),
        (teaching(TEACHES, words=0.02), "head-ignores", "likely"),  # its interval is about the limit
        (None, "head-ignores", "possible"),
    ],
)
def test_the_training_data_tells_why_a_head_ignores_words(taught: Any, cause: str, sure: str) -> None:
    found = judge({"offline": offline(*DEAF), "teaching": taught})
    assert [(one.cause, one.sure) for one in found.findings] == [(cause, sure)]


def test_data_that_cannot_teach_is_no_cause_where_the_policy_obeys() -> None:
    checks = offline(trainable(), separation(), gap())
    assert causes(offline=checks, teaching=teaching(CANNOT, words=1.0)) == ()


def test_what_was_not_trained_is_said_beside_the_reason() -> None:
    checks = (trainable("slot_at_base"), separation("not_apart"), gap("ignores"))
    assert causes(offline=offline(*checks)) == ("slot-at-base", "features-not-apart")


def test_every_cause_says_what_to_do_and_every_finding_what_was_seen() -> None:
    assert all(cause.todo and cause.sentence and cause.title for cause in CAUSES.values())
    found = judge({"offline": offline(*DEAF), "teaching": teaching(TEACHES)})
    lines = "\n".join(found.lines())
    assert "to do:" in lines and "seen:" in lines and found.to_dict()["findings"][0]["evidence"]


@pytest.mark.parametrize(
    ("act", "overall", "named"),
    [
        (obedient, "obeys", ()),
        (fumbling, "fumbles", ("fumbles",)),
        (deaf, "disobeys", ()),
        (still, "cannot-tell", ()),
    ],
)
def test_trials_of_known_policies_are_judged(act: Any, overall: str, named: tuple[str, ...]) -> None:
    """Through scoring, in lockstep and (where there are enough trials) in the running graph."""
    figures = closed_loop(TRIALS, {trial.number: act(trial) for trial in TRIALS})
    others = closed_loop(TRIALS, {trial.number: obedient(trial) for trial in TRIALS})
    found = judge({"closed_loop": figures})
    assert (found.overall, found.causes) == (overall, named), found.lines()
    assert judge({"closed_loop": figures, "graph": others}).overall == "obeys"
