# SPDX-License-Identifier: Apache-2.0
"""What the policy does at each moment: drives, waits, holds or faults, and why. Pure: time comes in as
arguments.

The node feeds it instructions, input arrivals and inference results from one thread, and publishes what it
answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chefmate_policy.inference.arm import ArmWatch
from chefmate_policy.inference.backend import BackendError, BackendUnavailableError, Chunk, checked
from chefmate_policy.inference.chunking import Chunking
from chefmate_policy.inference.chunks import ChunkTimeline
from chefmate_policy.inference.instruction import LONGEST, InstructionInForce
from chefmate_policy.inference.observation import InputWatch
from chefmate_policy.inference.worker import Inference

# States of chefmate_msgs/PolicyStatus (a test holds them equal).
INACTIVE, IDLE, DRIVING, DONE, HOLDING, FAULT = "INACTIVE", "IDLE", "DRIVING", "DONE", "HOLDING", "FAULT"

WAITING = "waiting for the first chunk"
"""Reason of HOLDING between an instruction (or the recovery of an input) and its first chunk; with `of ...`
where it comes from somebody who can be named."""
STANDING = "synchronous: standing until the next chunk"
"""Reason of HOLDING between two chunks in the synchronous mode."""
SWITCH = Chunking()


@dataclass(frozen=True)
class SessionSettings:
    """Times of the session, s."""

    joints: int
    rate: float
    """Inferences per second at most, Hz."""
    instruction_timeout: float
    """An instruction older than this is not obeyed any more; 0: never too old."""
    inference_limit: float
    """A backend that gives no result for longer is a fault."""
    retry_period: float
    """Pause after a backend that was unavailable."""
    slack: float
    """Period of the timer that calls `step`."""


@dataclass(frozen=True)
class AcceptedChunk:
    """A chunk to publish now."""

    chunk: Chunk
    inference: Inference
    flushed: bool
    """It replaces one that was still running."""


class PolicySession:
    """The policy between activation and deactivation.

    Args:
        request: called with a ticket when an inference is wanted; builds the observation and submits it.
        False: busy. busy_for: s that the running inference has taken so far, 0 when none runs.
        cancel: tells the backend that the running inference's result will be discarded.
        chunking: how one chunk follows another.
        awaited: whom a chunk is awaited from, for `reason` (a server's name); empty: nobody to name.
    """

    def __init__(
        self,
        settings: SessionSettings,
        instruction: InstructionInForce,
        watch: InputWatch,
        arm: ArmWatch,
        timeline: ChunkTimeline,
        request: Callable[[int], bool],
        busy_for: Callable[[], float],
        cancel: Callable[[], None],
        chunking: Chunking = SWITCH,
        awaited: str = "",
    ) -> None:
        self._settings = settings
        self._chunking, self._awaited = chunking, awaited
        self.instruction = instruction
        self.watch = watch
        self.arm = arm
        self.timeline = timeline
        self._request = request
        self._busy_for = busy_for
        self._cancel = cancel
        self._active = False
        self._ticket = 0
        self._pending = False
        self._cut = False
        self._finished = False
        self._fault = ""
        self._unavailable = ""
        self._retry_at = 0.0
        self._last_request = float("-inf")
        self.state = INACTIVE
        self.reason = ""
        self.refusal = ""
        """Why the newest text on /instruction is not obeyed; empty when it is. Stands until another
        text, and one that the arm was unable to follow until the arm is able."""
        self._refused_for_arm = False
        self.discarded = 0
        """Results that were thrown away because the instruction or the inputs had changed."""

    def activate(self, now: float) -> None:
        """Starts without an instruction and without inputs."""
        self._active = True
        self.watch.restart(now)
        self.instruction.clear()
        self._forget(now)
        self.step(now)

    def deactivate(self, now: float) -> None:
        """Stops at once."""
        self._active = False
        self.refusal, self._refused_for_arm = "", False
        self.instruction.clear()
        self._forget(now)
        self.step(now)

    def instruct(self, text: str, now: float) -> bool:
        """A message on /instruction. True when it changed what is in force; the arm then brakes (`state` says
        so). `refusal` says why a text was not taken over."""
        if not self._active:
            return False
        text = text if text.strip() else ""
        self.refusal, self._refused_for_arm = "", False
        if len(text) > LONGEST:
            self.refusal = (
                f"an instruction of {len(text)} characters was refused (limit {LONGEST}): "
                "say it in fewer words"
            )
        elif text and self.arm.unable():
            self.refusal, self._refused_for_arm = "the instruction is not obeyed", True
        if self.refusal:
            self.step(now)
            return False
        if not self.instruction.arrived(text, now):
            return False
        self._forget(now)
        self.step(now)
        return True

    def heed_arm(self, now: float) -> None:
        """The arm has said something: one that cannot follow loses its instruction, so that nothing moves
        when it comes back until somebody says one again."""
        unable = self.arm.unable() if self._active else ""
        if unable and self.instruction.text:
            self.instruction.clear()
            self._forget(now)
        if self._refused_for_arm:
            self._refused_for_arm = bool(unable)
            self.refusal = f"{unable}; say it again when the arm is ready" if unable else ""

    def interrupt(self, now: float) -> None:
        """Starts the instruction in force anew: the arm brakes, then the next chunk is asked for."""
        self._forget(now)
        self.step(now)

    def wants_observation(self, now: float) -> bool:
        """True when the next step or result may ask for a chunk, so that the newest images are worth
        taking."""
        return bool(self.instruction.text) and self.timeline.due(now, self._settings.slack)

    def step(self, now: float) -> None:
        """Looks at everything, sets `state` and `reason`, and asks for the next chunk when one is due."""
        self.heed_arm(now)
        self._finished = self._finished or self.timeline.finished(now)
        self.state, self.reason = self._judge(now)
        self._decide(now)
        if not self.reason:
            self.reason = self.refusal

    def _decide(self, now: float) -> None:
        """Flushes what the state has made void, and asks for the next chunk when one is due."""
        if self.state not in (DRIVING, DONE):
            self._flush(now)
        if self.state in (IDLE, INACTIVE, DONE, FAULT) or self.reason:
            return
        if self.timeline.due(now, self._settings.slack) and not self._pending and self._rate_allows(now):
            self._pending = self._request(self._ticket)
            self._last_request = now if self._pending else self._last_request
        if self.state == HOLDING:
            self.reason = self._waiting(now)

    def result(self, inference: Inference, now: float) -> AcceptedChunk | None:
        """What the worker returned. A chunk that may be published now, or None."""
        if inference.ticket != self._ticket:
            self.discarded += 1
            self.step(now)
            return None
        self.step(now)  # still pending, so that this cannot ask for another chunk before this one counts
        if inference.ticket != self._ticket:
            self.discarded += 1
            return None
        self._pending = False
        try:
            chunk = self._chunk_of(inference, now)
            self.timeline.measured(now - inference.observation.now)
        except BackendUnavailableError as error:
            self._unavailable = f"backend: {error}"
            self._retry_at = now + self._settings.retry_period
            self.step(now)
            return None
        except BackendError as error:
            self._fault = f"backend: {error}"
            self.step(now)
            return None
        self._unavailable = ""
        if chunk.times.size == 0:
            self._finished = True
            self.step(now)
            return None
        chunk = self._chunking.joined(chunk, self.timeline, now)
        replaced = self.timeline.accept(chunk, now) or self._cut
        self._cut = False
        self.step(now)
        return AcceptedChunk(chunk, inference, replaced)

    def _chunk_of(self, inference: Inference, now: float) -> Chunk:
        if inference.error is not None:
            if isinstance(inference.error, BackendError):
                raise inference.error
            raise BackendError(f"{type(inference.error).__name__}: {inference.error}") from inference.error
        if inference.chunk is None:
            raise BackendError("it returned no chunk.")
        return checked(inference.chunk, self._settings.joints, now)

    def _judge(self, now: float) -> tuple[str, str]:
        """State and reason, before a request. HOLDING without a reason: nothing is wrong, a chunk is to
        come."""
        if not self._active:
            return INACTIVE, ""
        if unable := self.arm.unable():
            return HOLDING, self.refusal if self._refused_for_arm else unable
        busy = self._busy_for()
        if busy > self._settings.inference_limit:
            return (
                FAULT,
                f"backend: no result for {busy:.1f} s (limit {self._settings.inference_limit:.1f} s)",
            )
        if self._fault:
            return FAULT, self._fault
        if not self.instruction.text:
            return IDLE, ""
        if lease := self.instruction.lease_fault(now):
            return HOLDING, lease
        if silence := self.arm.silence(now):
            return HOLDING, silence
        if self._finished:
            return DONE, ""
        limit, age = self._settings.instruction_timeout, now - self.instruction.since
        if limit > 0.0 and age > limit:
            return (
                HOLDING,
                f"instruction timeout: {limit:.0f} s have passed since {self.instruction.text!r} was given",
            )
        if stale := self.watch.fault(now):
            return HOLDING, stale
        if now < self._retry_at:
            return HOLDING, self._unavailable
        return (DRIVING, "") if self.timeline.moving(now) else (HOLDING, "")

    def _waiting(self, now: float) -> str:
        running = self.timeline.running
        if running is not None and self.timeline.waits:
            return STANDING
        if running is not None:
            return f"backend late: the last chunk ended {now - running.end:.2f} s ago"
        return f"{WAITING} of {self._awaited}" if self._awaited else WAITING

    def _rate_allows(self, now: float) -> bool:
        return now - self._last_request + self._settings.slack >= 1.0 / self._settings.rate

    def _flush(self, now: float) -> None:
        """The arm brakes: neither the running chunk nor the running inference counts any more."""
        waiting_only = self.state == HOLDING and not self.reason
        if waiting_only:
            return
        self._cut = self._cut or self.timeline.moving(now)
        self.timeline.flush()
        if self._pending:
            self._pending = False
            self._ticket += 1
            self._cancel()

    def _forget(self, now: float) -> None:
        """A new instruction: whatever the old one led to is void."""
        self._cut = self.timeline.moving(now)
        self.timeline.flush()
        self._ticket += 1
        self._pending = False
        self._finished = False
        self._fault = ""
        self._unavailable = ""
        self._retry_at = 0.0
        self._last_request = float("-inf")
        self._cancel()
