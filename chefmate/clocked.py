# SPDX-License-Identifier: Apache-2.0
"""The policy node's decisions and the arm's way with its chunks, on a clock that the caller turns.

What runs is the node's own scheduling (`PolicySession`, `ChunkTimeline`, `Chunking`) and the arm's own
trajectories (`Motion`); an inference takes the time that it is said to take, whatever this machine needs. So
figures do not depend on the machine, and thousands of trials run beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml

from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.trajectory import Motion, check_trajectory
from chefmate_policy.inference.arm import ArmWatch
from chefmate_policy.inference.backend import Array, CameraFrame, Chunk, Observation
from chefmate_policy.inference.chunking import Chunking, Mode
from chefmate_policy.inference.chunks import ChunkTimeline
from chefmate_policy.inference.instruction import InstructionInForce
from chefmate_policy.inference.observation import InputLimit, InputWatch
from chefmate_policy.inference.session import DRIVING, PolicySession, SessionSettings
from chefmate_policy.inference.worker import Inference
from chefmate_ros.share import share_file

__all__ = ["TICK", "ClockedPolicy", "Drive", "Look", "node_parameters"]

TICK = 0.01  # s, the arm's cycle (config/arm.yaml: rate)
HEARTBEAT = 0.05  # s, the node's
JOINTS = len(JOINT_NAMES)
EYE = "cameras"
NEVER = 1e9  # s


@dataclass(frozen=True)
class Drive:
    """How the node drives: its parameters of these names."""

    execution_horizon: float
    lead: float
    refill_margin: float
    rate: float = 10.0
    mode: Mode = Mode.SWITCH
    blend_time: float = 0.0


@dataclass(frozen=True)
class Look:
    """What the node knows at a moment. stamp: s, when the cameras looked; positions, velocities: (6,)."""

    stamp: float
    positions: Array
    velocities: Array
    images: Mapping[str, CameraFrame]
    expert_state: Any = None


class ClockedPolicy:
    """One policy that drives one arm. Call `tick` every TICK from the time of `begin` on.

    infer: the backend. look: what it gets. took: s from looking until the chunk is there, for the next
    inference.
    """

    def __init__(
        self,
        infer: Callable[[Observation], Chunk],
        look: Callable[[float], Look],
        took: Callable[[], float],
        drive: Drive,
    ) -> None:
        self._infer, self._look, self._took, self._drive = infer, look, took, drive
        self.begin(np.zeros(JOINTS), 0.0)

    def begin(self, position: Array, now: float) -> None:
        """Starts anew at `now` with the arm's goal at `position`, without an instruction."""
        drive = self._drive
        self.position = position
        self.accepted: list[float] = []  # times at which chunks took over
        self._motion: Motion | None = None
        self._running: tuple[int, Observation, float] | None = None  # ticket, observation, when it is there
        self._since_step = NEVER
        self._chunking = Chunking(drive.mode, drive.blend_time)
        self._timeline = ChunkTimeline(
            drive.execution_horizon, drive.lead, drive.refill_margin, waits=drive.mode is Mode.SYNC
        )
        self._watch = InputWatch([InputLimit(EYE, "cameras", "frame", NEVER)])
        self._now = now
        self._session = PolicySession(
            SessionSettings(JOINTS, drive.rate, 0.0, NEVER, 1.0, HEARTBEAT),
            InstructionInForce(NEVER),
            self._watch,
            ArmWatch(0.0, lambda: True),
            self._timeline,
            self._request,
            lambda: 0.0,
            lambda: None,
            self._chunking,
        )
        self._session.activate(now)

    @property
    def state(self) -> str:
        """The session's state, as in chefmate_msgs/PolicyStatus."""
        return self._session.state

    @property
    def reason(self) -> str:
        """The session's reason."""
        return self._session.reason

    def instruct(self, text: str, now: float) -> None:
        """A message on /instruction; empty: stop."""
        self._now = now
        self._watch.arrived(EYE, now)
        self._session.instruct(text, now)

    def tick(self, now: float) -> Array:
        """(6,) rad: where the arm is told to be. An arm that is not driven is told to stay."""
        self._now = now
        self._watch.arrived(EYE, now)
        if self._running is not None and now >= self._running[2] - TICK / 10:
            ticket, observation, _ = self._running
            self._running = None
            accepted = self._session.result(self._inferred(ticket, observation), now)
            if accepted is not None:
                self._follow(accepted.chunk, now)
        self._since_step += TICK
        if self._since_step >= HEARTBEAT - TICK / 10:
            self._since_step = 0.0
            self._session.step(now)
        if self._session.state != DRIVING:
            self._motion = None
        elif self._motion is not None:
            self.position = self._motion.sample(now)
        return self.position

    def _inferred(self, ticket: int, observation: Observation) -> Inference:
        try:
            return Inference(ticket, observation, self._infer(observation), None, 0.0)
        except Exception as error:  # whatever a model raises holds the arm by name, as in the node's worker
            return Inference(ticket, observation, None, error, 0.0)

    def _follow(self, chunk: Chunk, now: float) -> None:
        velocities = [] if chunk.velocities is None else chunk.velocities.tolist()
        trajectory = check_trajectory(
            JOINT_NAMES,
            chunk.times.tolist(),
            chunk.positions.tolist(),
            velocities,
            stamp=chunk.origin,
            now=now,
        )
        before = self._motion.sample(now) if self._motion is not None else self.position
        self._motion = Motion(replace(trajectory, leased=True), now, before, np.zeros(JOINTS))
        self.accepted.append(now)

    def _request(self, ticket: int) -> bool:
        if self._running is not None:
            return False
        now, look = self._now, self._look(self._now)
        start, moving = self._timeline.start_of_next(now), self._timeline.moving(now)
        commanded = self._timeline.position_at(start) if moving else None
        instruction = self._session.instruction
        observation = Observation(
            instruction=instruction.text,
            instruction_number=instruction.number,
            stamp=look.stamp,
            stamps={EYE: look.stamp},
            now=now,
            start=start,
            start_positions=look.positions if commanded is None else commanded,
            joint_positions=look.positions,
            joint_velocities=look.velocities,
            images=look.images,
            expert_state=look.expert_state,
            planned=self._chunking.planned(self._timeline, look.stamp, start) if moving else None,
        )
        self._running = (ticket, observation, now + self._took())
        return True


def node_parameters(backend: str = "") -> dict[str, Any]:
    """The policy node's, as the graph sets them for this backend: config/policy.yaml, and for a checkpoint
    what config/policy_checkpoint.yaml says otherwise."""
    values: dict[str, Any] = {}
    for name in ("policy", *(("policy_checkpoint",) if backend == "local" else ())):
        raw: Any = yaml.safe_load(share_file("config", f"{name}.yaml").read_text(encoding="utf-8"))
        values |= raw["/**"]["ros__parameters"]
    return values
