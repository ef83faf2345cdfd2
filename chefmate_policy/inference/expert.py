# SPDX-License-Identifier: Apache-2.0
"""The scripted expert as a backend. It needs the twin's poses, so it drives the twin only."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from chefmate_policy.expert.kinematics import JOINTS, Kinematics
from chefmate_policy.expert.observation import Place, SceneObject
from chefmate_policy.expert.skill import Expert
from chefmate_policy.inference.backend import Array, BackendError, BackendSettings, Chunk, Observation

STILL = 1e-3
"""rad: a plan that moves no joint farther than this is no movement (the servos' step is 1.5e-3 rad)."""


class ExpertBackend:
    """Inverse kinematics on privileged poses. It keeps the motion in progress itself, on the node's clock:
    each chunk is the next stretch of that motion, so a chunk's origin is the moment of asking, and chunks
    join by construction."""

    needs_images = False
    needs_joint_states = True
    needs_expert_state = True

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._expert: Expert | None = None

    @property
    def model_id(self) -> str:
        """The expert has no checkpoint; it lives in the kitchen twin."""
        return "expert:kitchen"

    def load(self) -> None:
        """Builds the arm's kinematics.

        Raises:
            BackendError: the node's joints are not the expert's, or a checkpoint was given.
        """
        if self._settings.joints != JOINTS:
            raise BackendError(
                f"parameter joints is {self._settings.joints}; the expert gives {JOINTS}, in that order."
            )
        if self._settings.checkpoint:
            raise BackendError(f"the expert has no checkpoint; leave {self._settings.checkpoint!r} out.")
        self._kinematics = Kinematics()
        self._expert = Expert(self._kinematics)

    def infer(self, observation: Observation) -> Chunk:
        """The next stretch of the expert's motion; empty and done when it stands still with nothing left to
        do.

        Raises:
            BackendError: not loaded.
        """
        if self._expert is None:
            raise BackendError("the expert is not loaded.")
        started = time.perf_counter()
        state = observation.expert_state
        objects, plate, tray = scene_of(state)
        prepared = time.perf_counter()
        plan = self._expert.act(
            observation.joint_positions,
            observation.joint_velocities,
            objects,
            plate,
            tray,
            observation.instruction,
            observation.now,
            observation.instruction_number,
        )
        times, positions, velocities = plan.times, plan.positions, plan.velocities
        if plan.done and float(np.max(np.ptp(positions, axis=0))) < STILL:
            times, positions, velocities = times[:0], positions[:0], velocities[:0]
        return Chunk(
            origin=observation.now,
            times=times,
            positions=positions,
            velocities=velocities,
            done=plan.done,
            phase=plan.phase,
            latency_preprocess=prepared - started,
            latency_model=time.perf_counter() - prepared,
        )

    def reseed(self, seed: int) -> None:
        """Forgets the run before, so that runs in lockstep can be repeated; there is no noise to seed."""
        self._expert = Expert(self._kinematics)

    def cancel(self) -> None:
        """Nothing to do: the expert turns by itself when the instruction's number changes, and an inference
        is short."""

    def close(self) -> None:
        """Forgets the expert."""
        self._expert = None


def scene_of(state: Any) -> tuple[list[SceneObject], Place, Place]:
    """Objects, plate and tray of a chefmate_msgs/ExpertState (m, base_link), or as they are, without ROS."""
    if isinstance(state, tuple):
        return state
    objects = [
        SceneObject(
            name=item.name,
            ingredient=item.ingredient,
            position=_position(item.pose),
            quaternion=_quaternion(item.pose),
            size=(item.size.x, item.size.y, item.size.z),
            place=item.place,
            slot=item.slot,
        )
        for item in state.objects
    ]
    plate, tray = (Place(_position(pose), _quaternion(pose)) for pose in (state.plate, state.tray))
    return objects, plate, tray


def _position(pose: Any) -> Array:
    return np.array([pose.position.x, pose.position.y, pose.position.z])


def _quaternion(pose: Any) -> Array:
    """(4,) w x y z."""
    turn = pose.orientation
    return np.array([turn.w, turn.x, turn.y, turn.z])
