# SPDX-License-Identifier: Apache-2.0
"""The sequencer's messages, from and to plain values."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from chefmate_msgs.action import MakeSandwich
from chefmate_msgs.msg import ArmHealth, PolicyStatus, SequencerStatus, ServoHealth
from chefmate_msgs.msg import StepResult as StepResultMessage
from std_msgs.msg import Header

from chefmate_policy.sequencer.outcomes import StepResult
from chefmate_policy.sequencer.views import ArmView, Finished, PolicyView, Status


def policy_view(message: PolicyStatus) -> PolicyView:
    """What the core needs of a policy status."""
    return PolicyView(message.state, message.instruction, message.reason)


def arm_view(message: ArmHealth) -> ArmView:
    """What the core needs of an arm health."""
    overloaded = [servo.name for servo in message.servos if servo.status & ServoHealth.STATUS_OVERLOAD]
    stalled = bool(overloaded) or "stall" in message.reason.lower()
    return ArmView(
        message.state, message.reason or f"overload of {', '.join(overloaded)}" * bool(overloaded), stalled
    )


def result_message(result: StepResult) -> StepResultMessage:
    """One ended step."""
    return StepResultMessage(
        index=result.index,
        ingredient=result.ingredient,
        instruction=result.instruction,
        outcome=result.outcome,
        reason=result.reason,
        seconds=float(result.seconds),
        attempts=result.attempts,
    )


def step_result(message: StepResultMessage) -> StepResult:
    """One ended step."""
    return StepResult(
        message.index,
        message.ingredient,
        message.instruction,
        message.outcome,
        message.reason,
        message.seconds,
        message.attempts,
    )


def status_message(status: Status, stamp: Time) -> SequencerStatus:
    """The status, stamped with the time of publishing."""
    return SequencerStatus(
        header=Header(stamp=stamp),
        state=status.state,
        reason=status.reason,
        recipe=status.recipe,
        step=status.step,
        steps=status.steps,
        attempt=status.attempt,
        phase=status.phase,
        instruction=status.instruction,
        elapsed=float(status.elapsed),
        results=[result_message(result) for result in status.results],
        resumable=status.resumable,
    )


def feedback_message(status: Status) -> MakeSandwich.Feedback:
    """The action's feedback."""
    return MakeSandwich.Feedback(
        step=status.step,
        steps=status.steps,
        instruction=status.instruction,
        phase=status.phase,
        attempt=status.attempt,
        elapsed=float(status.elapsed),
        results=[result_message(result) for result in status.results],
    )


def run_result(finished: Finished) -> MakeSandwich.Result:
    """The action's result."""
    return MakeSandwich.Result(
        outcome=finished.outcome,
        reason=finished.reason,
        steps=[result_message(result) for result in finished.results],
    )
