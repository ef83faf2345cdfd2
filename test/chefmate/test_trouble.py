# SPDX-License-Identifier: Apache-2.0
"""When a job gives its policy up."""

from __future__ import annotations

from chefmate_msgs.msg import PolicyStatus

from chefmate.trouble import AT_WORK, FAULT, HOLDING, PolicyTrouble

SILENT = "backend: no answer of the policy server at tcp://nowhere:1"
Phase = tuple[str, str, float]


def ended(*phases: Phase) -> tuple[float, str]:
    """When (s) and why a job ends, for a policy with these states, reasons and lengths (s) in turn."""
    trouble, now = PolicyTrouble(10.0), 0.0
    for state, reason, seconds in phases:
        for _ in range(round(seconds / 0.1)):
            if why := trouble.look(state, reason, now):
                return round(now, 1), why
            now += 0.1
    return now, ""


def test_a_server_that_is_not_there_ends_the_job_with_its_name() -> None:
    asked = [(HOLDING, SILENT, 1.0), (HOLDING, "waiting for the first chunk", 1.0)]
    seconds, why = ended(*asked * 60)
    assert why == f"the policy is HOLDING: {SILENT}"
    assert 10.0 <= seconds <= 11.0


def test_a_fault_that_comes_back_with_each_attempt_ends_the_job() -> None:
    seconds, why = ended(*[(FAULT, "backend: garbage", 0.5), ("IDLE", "", 1.0)] * 60)
    assert why == "the policy is FAULT: backend: garbage"
    assert seconds < 35.0


def test_what_is_no_trouble_of_the_policy_ends_nothing() -> None:
    for patient in (
        [(HOLDING, SILENT, 8.0), ("DRIVING", "", 0.2)] * 5,  # a hiccup
        [("IDLE", "", 300.0)],
        [(HOLDING, "scene: no image for 0.4 s", 60.0)],
        [(HOLDING, SILENT, 1.0), ("IDLE", "", 300.0), (HOLDING, "waiting for the first chunk", 5.0)],
    ):
        assert ended(*patient)[1] == ""


def test_a_job_that_stood_still_itself_blames_nobody() -> None:
    trouble = PolicyTrouble(10.0)
    assert not trouble.look(FAULT, "backend: garbage", 0.0)
    assert not trouble.look(FAULT, "backend: garbage", 60.0)


def test_states_are_those_of_the_message() -> None:
    assert (FAULT, HOLDING, *AT_WORK) == (
        PolicyStatus.FAULT,
        PolicyStatus.HOLDING,
        PolicyStatus.DRIVING,
        PolicyStatus.DONE,
    )
