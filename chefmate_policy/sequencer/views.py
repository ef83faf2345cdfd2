# SPDX-License-Identifier: Apache-2.0
"""What the sequencer core is told and what it answers: plain forms of the messages on its topics."""

from __future__ import annotations

from dataclasses import dataclass

from chefmate_policy.sequencer.outcomes import StepResult
from chefmate_policy.sequencer.progress import Progress

# States of chefmate_msgs/SequencerStatus.
WAITING = "WAITING"
IDLE = "IDLE"
RUNNING = "RUNNING"
PAUSED = "PAUSED"

# Phases of a step.
PREPARING = "preparing"  # until the policy is idle and the workcell is seen
INSTRUCTING = "instructing"  # until the policy has taken the instruction over
WATCHING = "watching"  # the policy works
FINISHING = "finishing"  # success is seen; the policy may draw the arm back
VERIFYING = "verifying"  # the instruction is withdrawn; waiting for a clear view to judge by


@dataclass(frozen=True)
class PolicyView:
    """Fields of chefmate_msgs/PolicyStatus."""

    state: str
    instruction: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ArmView:
    """Fields of chefmate_msgs/ArmHealth.

    Attributes:
        state: as in the message.
        reason: as in the message.
        stalled: a servo reports overload, or the reason is a stall.
    """

    state: str
    reason: str = ""
    stalled: bool = False


@dataclass(frozen=True)
class Publish:
    """Publish this text on /instruction."""

    text: str


@dataclass(frozen=True)
class ClearView:
    """The resting arm hides a zone: send it home."""


@dataclass(frozen=True)
class ReturnArm:
    """An attempt is over: send the arm to where the next one begins."""


@dataclass(frozen=True)
class Save:
    """Write progress to disk."""

    progress: Progress


@dataclass(frozen=True)
class Finished:
    """The run ended."""

    outcome: str
    reason: str
    results: tuple[StepResult, ...]


Action = Publish | ClearView | ReturnArm | Save | Finished


@dataclass(frozen=True)
class Status:
    """Fields of chefmate_msgs/SequencerStatus."""

    state: str
    reason: str = ""
    recipe: str = ""
    step: int = 0
    steps: int = 0
    attempt: int = 0
    phase: str = ""
    instruction: str = ""
    elapsed: float = 0.0
    results: tuple[StepResult, ...] = ()
    resumable: bool = False


@dataclass(frozen=True)
class Limits:
    """Times and counts of the core, the parameters of the same names.

    Attributes:
        perception_timeout: s, age at which a workcell state is too old.
        policy_timeout: s, age at which a policy status is too old.
        arm_timeout: s, age at which an arm health is too old.
        stable_frames: equal workcell states in a row that count as seen.
        min_confidence: below it, an object on the plate lies only half on it.
        repeat_period: s, between repetitions of an instruction that the policy has not taken over yet.
        finish_time: s, that the policy gets to draw the arm back once success is seen. A learned policy never
            says DONE and looks at the present only: given more, it goes on to a second slice of that kind.
        settle_time: s, between the policy's DONE and the judgement.
        verify_time: s, to get a clear view after the time for an attempt ran out.
        clear_view_after: s, that a resting arm may hide a zone before it is sent home; 0: it never is.
        return_time: s, that the arm gets for the way back between attempts; 0: it stays where it is. A policy
            that has learnt looks at the present only, and where an attempt ends it was taught to stay.
        moved_angle: rad, by which a joint must move for the arm to have moved.
    """

    perception_timeout: float = 1.0
    policy_timeout: float = 1.0
    arm_timeout: float = 1.0
    stable_frames: int = 3
    min_confidence: float = 0.75
    repeat_period: float = 0.5
    finish_time: float = 1.5
    settle_time: float = 0.5
    verify_time: float = 15.0
    clear_view_after: float = 3.0
    return_time: float = 0.0
    moved_angle: float = 0.05
