# SPDX-License-Identifier: Apache-2.0
"""What the policy does and says at each moment, on a clock that the test turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chefmate_policy.inference.arm import ArmWatch
from chefmate_policy.inference.backend import BackendUnavailableError, Chunk, Observation
from chefmate_policy.inference.chunks import ChunkTimeline
from chefmate_policy.inference.instruction import InstructionInForce
from chefmate_policy.inference.observation import InputLimit, InputWatch
from chefmate_policy.inference.session import AcceptedChunk, PolicySession, SessionSettings
from chefmate_policy.inference.worker import Inference

BREAD, CHEESE = "pick up the bread", "pick up the cheese"
ZERO = np.zeros(1)


class Bench:
    """A session with one input, one joint, and a worker that the test answers for."""

    def __init__(self, **changes: float) -> None:
        self.now = 100.0
        self.running: int | None = None
        self.busy = 0.0
        self.cancelled = 0
        self.watch = InputWatch([InputLimit("scene", "scene camera", "frame", 0.3)])
        self.executing = True
        self.arm = ArmWatch(1.0, lambda: self.executing)
        self.instruction = InstructionInForce(lease_limit=1.0)
        settings = {"rate": 100.0, "instruction_timeout": 0.0, "inference_limit": 2.0, "retry_period": 1.0}
        self.session = PolicySession(
            SessionSettings(joints=1, slack=0.0, **{**settings, **changes}),
            self.instruction,
            self.watch,
            self.arm,
            ChunkTimeline(execution_horizon=0.5, lead=0.1),
            self.request,
            lambda: self.busy,
            self.cancel,
        )
        self.session.activate(self.now)
        self.watch.arrived("scene", self.now)

    def request(self, ticket: int) -> bool:
        if self.running is not None:
            return False
        self.running = ticket
        return True

    def cancel(self) -> None:
        self.cancelled += 1

    def pass_time(self, seconds: float, frames: bool = True) -> None:
        self.now += seconds
        if frames:
            self.watch.arrived("scene", self.now)
        self.session.step(self.now)

    def answer(
        self, error: Exception | None = None, done: bool = False, value: float = 0.0, empty: bool = False
    ) -> AcceptedChunk | None:
        assert self.running is not None, "nothing was asked for"
        ticket, self.running = self.running, None
        times = np.zeros(0) if empty else np.array([0.0, 1.0])
        observation = Observation("", 0, self.now, {}, self.now, self.now + 0.1, ZERO, ZERO, ZERO)
        chunk = Chunk(self.now, times, np.full((times.size, 1), value), done=done)
        return self.session.result(Inference(ticket, observation, chunk, error, 0.0), self.now)

    @property
    def says(self) -> tuple[str, str]:
        return self.session.state, self.session.reason


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_without_an_instruction_it_is_idle_and_asks_for_nothing(bench: Bench) -> None:
    bench.pass_time(0.1)
    assert bench.says == ("IDLE", "")
    assert bench.running is None


def test_an_instruction_leads_to_a_chunk_and_driving(bench: Bench) -> None:
    assert bench.session.instruct(BREAD, bench.now)
    assert bench.says == ("HOLDING", "waiting for the first chunk")
    assert bench.answer() is not None
    assert bench.says == ("DRIVING", "")


def test_chunks_follow_each_other_before_the_horizon_ends(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(0.3)
    assert bench.running is None
    bench.pass_time(0.11)
    accepted = bench.answer()
    assert accepted is not None and accepted.flushed
    assert bench.running is None


def test_equal_text_changes_nothing(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    number = bench.instruction.number
    assert not bench.session.instruct(BREAD, bench.now)
    assert bench.says == ("DRIVING", "") and bench.instruction.number == number


def test_new_instruction_discards_the_running_result_and_brakes(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(0.41)
    assert bench.running is not None
    bench.session.instruct(CHEESE, bench.now)
    assert bench.says == ("HOLDING", "waiting for the first chunk")
    assert bench.answer() is None
    assert bench.session.discarded == 1
    accepted = bench.answer()
    assert accepted is not None and accepted.flushed
    assert bench.says == ("DRIVING", "")


def test_empty_text_stops(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    assert bench.session.instruct("", bench.now)
    assert bench.says == ("IDLE", "")
    bench.pass_time(0.2)
    assert bench.running is None


def test_blank_text_is_a_stop_too(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    assert bench.session.instruct("  ", bench.now)
    assert bench.instruction.text == ""


def test_same_text_is_new_again_after_a_stop(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.session.instruct("", bench.now)
    assert bench.session.instruct(BREAD, bench.now)
    assert bench.instruction.number == 3


def test_a_stale_input_holds_and_its_return_drives_again(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(0.31, frames=False)
    assert bench.says == ("HOLDING", "scene camera: no frame for 0.31 s (limit 0.30 s)")
    assert bench.running is None
    bench.pass_time(0.1)
    assert bench.says == ("HOLDING", "waiting for the first chunk")
    assert bench.answer() is not None
    assert bench.says == ("DRIVING", "")


def test_a_result_from_before_a_hold_is_discarded(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.pass_time(0.4, frames=False)
    assert bench.answer() is None
    assert bench.session.discarded == 1


def test_the_last_chunk_runs_to_its_end_then_it_is_done(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer(done=True)
    bench.pass_time(0.9)
    assert bench.says == ("DRIVING", "") and bench.running is None
    bench.pass_time(0.2)
    assert bench.says == ("DONE", "") and bench.running is None
    bench.pass_time(5.0)
    assert bench.says == ("DONE", "")


def test_nothing_to_do_is_done_without_a_chunk(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    assert bench.answer(done=True, empty=True) is None
    assert bench.says == ("DONE", "")


def test_a_raising_backend_faults_until_the_instruction_changes(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer(error=ZeroDivisionError("boom"))
    assert bench.says == ("FAULT", "backend: ZeroDivisionError: boom")
    bench.pass_time(5.0)
    assert bench.says[0] == "FAULT" and bench.running is None
    bench.session.instruct(CHEESE, bench.now)
    assert bench.answer() is not None
    assert bench.says == ("DRIVING", "")


def test_a_chunk_with_nan_faults_and_stops_the_running_one(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(0.41)
    assert bench.answer(value=float("nan")) is None
    assert bench.says == ("FAULT", "backend: the chunk has a position of nan at point 0, joint 0.")
    assert not bench.session.timeline.moving(bench.now)


def test_an_unavailable_backend_holds_and_is_asked_again(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer(error=BackendUnavailableError("no answer from tcp://gpu:5555"))
    assert bench.says == ("HOLDING", "backend: no answer from tcp://gpu:5555")
    bench.pass_time(0.9)
    assert bench.running is None
    bench.pass_time(0.2)
    assert bench.answer() is not None
    assert bench.says == ("DRIVING", "")


def test_a_hanging_backend_is_a_fault_within_its_limit(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(0.41)
    bench.busy = 2.1
    bench.pass_time(0.01)
    assert bench.says == ("FAULT", "backend: no result for 2.1 s (limit 2.0 s)")
    bench.busy = 0.0
    assert bench.answer() is None, "a result that comes after the fault is void"
    assert bench.answer() is not None
    assert bench.says == ("DRIVING", "")


def test_a_late_chunk_is_said(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(0.41)
    bench.pass_time(0.7)
    assert bench.says == ("HOLDING", "backend late: the last chunk ended 0.11 s ago")
    assert bench.answer() is not None
    assert bench.says == ("DRIVING", "")


def test_an_old_instruction_is_not_obeyed_for_ever() -> None:
    bench = Bench(instruction_timeout=10.0)
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(10.5)
    assert bench.says[0] == "HOLDING" and bench.says[1].startswith("instruction timeout: 10 s have passed")


def test_rate_limits_inferences() -> None:
    bench = Bench(rate=1.0)
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(0.6)
    assert bench.running is None
    bench.pass_time(0.5)
    assert bench.running is not None


def test_a_running_sequencers_silence_ends_its_instruction_and_its_voice_revives_it(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.instruction.sequencer("RUNNING", BREAD, bench.now)
    bench.answer()
    bench.pass_time(1.1)
    assert bench.says == (
        "HOLDING",
        "the sequencer's lease ended: no sequencer/status for 1.1 s (limit 1.0 s)",
    )
    bench.instruction.sequencer("RUNNING", BREAD, bench.now)
    bench.pass_time(0.0)
    assert bench.answer() is not None
    assert bench.says == ("DRIVING", "")


def test_anyone_may_take_over_an_instruction_whose_lease_has_ended(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.instruction.sequencer("RUNNING", BREAD, bench.now)
    bench.pass_time(1.1)
    assert bench.session.instruct(BREAD, bench.now)
    assert bench.says[0] == "HOLDING" and not bench.instruction.leased


@pytest.mark.parametrize(("state", "text"), [("PAUSED", BREAD), ("RUNNING", CHEESE), ("IDLE", "")])
def test_an_instruction_that_no_running_sequencer_asks_for_stands(
    bench: Bench, state: str, text: str
) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.instruction.sequencer(state, text, bench.now)
    bench.answer()
    bench.pass_time(0.41)
    bench.answer()
    bench.pass_time(0.9)
    assert bench.says == ("DRIVING", "")


def test_deactivation_stops_and_forgets_the_instruction(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.session.deactivate(bench.now)
    assert bench.says == ("INACTIVE", "")
    assert not bench.session.instruct(CHEESE, bench.now)
    bench.session.activate(bench.now)
    assert bench.says == ("IDLE", "") and bench.instruction.text == ""


@pytest.mark.parametrize("state", ["ESTOPPED", "FAULT", "READY", "UNPOWERED"])
def test_an_arm_that_cannot_follow_drops_the_instruction_for_good(bench: Bench, state: str) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(0.41)
    assert bench.running is not None
    number = bench.instruction.number
    bench.arm.heard(state, "somebody said so", bench.now)
    bench.pass_time(0.01)
    assert bench.says == ("HOLDING", f"the arm is {state}: somebody said so")
    assert (bench.instruction.text, bench.instruction.number) == ("", number + 1)
    assert not bench.session.timeline.moving(bench.now)
    assert bench.answer() is None, "the running inference is void"
    bench.arm.heard("HOLDING", "", bench.now)
    bench.pass_time(0.5)
    assert bench.says == ("IDLE", "") and bench.running is None
    assert bench.session.instruct(BREAD, bench.now)
    assert bench.answer() is not None
    assert bench.says == ("DRIVING", "")


def test_an_instruction_for_an_arm_that_cannot_follow_is_refused(bench: Bench) -> None:
    bench.arm.heard("ESTOPPED", "arm/estop was called", bench.now)
    assert not bench.session.instruct(BREAD, bench.now)
    reason = "the arm is ESTOPPED: arm/estop was called; say it again when the arm is ready"
    assert bench.says == ("HOLDING", reason)
    assert bench.instruction.text == "" and bench.running is None
    bench.arm.heard("HOLDING", "", bench.now)
    bench.pass_time(0.1)
    assert bench.says == ("IDLE", "") and bench.running is None


def test_an_arm_without_torque_is_as_it_should_be_in_shadow_mode(bench: Bench) -> None:
    bench.executing = False
    bench.arm.heard("READY", "", bench.now)
    assert bench.session.instruct(BREAD, bench.now)
    bench.answer()
    assert bench.says == ("DRIVING", "")
    bench.executing = True
    bench.pass_time(0.01)
    assert bench.says == ("HOLDING", "the arm is READY")


def test_a_silent_arm_holds_and_its_return_drives_again(bench: Bench) -> None:
    bench.arm.heard("HOLDING", "", bench.now)
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    bench.pass_time(1.1)
    assert bench.says == ("HOLDING", "arm/health: nothing for 1.1 s (limit 1.0 s)")
    assert bench.instruction.text == BREAD
    bench.arm.heard("HOLDING", "", bench.now)
    bench.pass_time(0.0)
    assert bench.answer() is not None
    assert bench.says == ("DRIVING", "")


def test_an_arm_need_not_be_watched() -> None:
    watch = ArmWatch(0.0)
    watch.heard("ESTOPPED", "", 100.0)
    assert not watch.unable() and not watch.silence(200.0)


def test_a_long_text_is_refused_and_the_instruction_in_force_stands(bench: Bench) -> None:
    bench.session.instruct(BREAD, bench.now)
    bench.answer()
    assert not bench.session.instruct("bread " * 200, bench.now)
    reason = "an instruction of 1200 characters was refused (limit 1000): say it in fewer words"
    assert bench.says == ("DRIVING", reason)
    assert bench.instruction.text == BREAD and bench.instruction.number == 1
    bench.pass_time(0.41)
    assert bench.answer() is not None, "a refusal does not stop what is in force"
    bench.session.instruct(BREAD, bench.now)
    bench.pass_time(0.0)
    assert bench.says == ("DRIVING", "")
    assert bench.session.instruct("b" * 1000, bench.now)
    assert bench.session.instruct(" " * 2000, bench.now), "blanks are a stop, however many"
    assert bench.says == ("IDLE", "")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"active": False}, "the arm is inactive: its node takes no trajectories: why"),
        ({"protection": "HOLD"}, "the arm protects itself (HOLD): why"),
        ({"protection": "RELEASE"}, "the arm protects itself (RELEASE): why"),
    ],
)
def test_an_inactive_or_protected_arm_that_holds_cannot_follow(words: dict[str, Any], reason: str) -> None:
    watch = ArmWatch(1.0)
    watch.heard("HOLDING", "why", 100.0, **words)
    assert watch.unable() == reason
    watch.heard("HOLDING", "", 100.1, active=True, protection="SLOW")
    assert watch.unable() == ""


def test_an_arm_that_a_leader_drives_cannot_follow() -> None:
    watch = ArmWatch(1.0)
    watch.heard("TELEOPERATED", "", 100.0)
    assert watch.unable() == "the arm is TELEOPERATED"


def test_an_inactive_arm_is_no_arm_in_shadow_mode_either() -> None:
    watch = ArmWatch(1.0, lambda: False)
    watch.heard("READY", "", 100.0, active=False)
    assert watch.unable() == "the arm is READY"
