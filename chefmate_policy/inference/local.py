# SPDX-License-Identifier: Apache-2.0
"""A GR00T N1.5 checkpoint as a backend, in the node's own process.

The chunk is laid on the clock of the observation: action 0 is due when the cameras looked, and the following
ones come at the dataset's rate, so what the latency has made late is skipped and the rest is in time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from chefmate_policy.errors import PolicyError
from chefmate_policy.groot.processor import Processor
from chefmate_policy.inference.backend import BackendError, BackendSettings, Chunk, Observation
from chefmate_policy.inference.checkpoint_policy import CheckpointOptions, CheckpointPolicy, Going
from chefmate_policy.inference.options import camera_map, options_of
from chefmate_policy.units import JointUnits

CLOSE = 1e-6  # s, of two times that are one


@dataclass(frozen=True)
class LocalOptions(CheckpointOptions):
    """The node's parameters `model.*` that this backend knows."""

    cameras: tuple[str, ...] = ()  # checkpoint's camera=input, for example front=scene; empty: equal names


class LocalBackend:
    """See the module."""

    needs_images = True
    needs_joint_states = True
    needs_expert_state = False
    goes_on = True

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._policy: CheckpointPolicy | None = None

    @property
    def model_id(self) -> str:
        """local: and the checkpoint's name."""
        return f"local:{Path(self._settings.checkpoint).name or 'nothing'}"

    def load(self) -> None:
        """Opens the checkpoint, brings it to the device and infers once.

        Raises:
            BackendError: what is missing or does not fit, and the mend.
        """
        if not self._settings.checkpoint:
            raise BackendError("no checkpoint is given; set parameter checkpoint to a folder or a hub id.")
        options = options_of(LocalOptions, self._settings.options)
        try:
            self._policy = self._load(options)
        except torch.OutOfMemoryError as error:
            raise BackendError(f"the checkpoint does not fit into the GPU's memory: {error}") from error
        except PolicyError as error:
            raise BackendError(str(error)) from error

    def infer(self, observation: Observation) -> Chunk:
        """One chunk at the dataset's rate, from when the cameras looked.

        Raises:
            BackendError: not loaded, out of memory, or the observation does not fit the checkpoint.
        """
        if self._policy is None:
            raise BackendError("the checkpoint is not loaded.")
        try:
            return self._infer(self._policy, observation)
        except torch.OutOfMemoryError as error:
            raise BackendError(f"out of GPU memory: {error}") from error

    def reseed(self, seed: int) -> None:
        """The noise of the chunks to come: runs of a trial can be repeated."""
        if self._policy is not None:
            self._policy.reseed(seed)

    def cancel(self) -> None:
        """Nothing to do: an inference cannot be cut short, and no plan is kept."""

    def close(self) -> None:
        """Frees the model."""
        self._policy = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, options: LocalOptions) -> CheckpointPolicy:
        joints = self._settings.joints
        policy = CheckpointPolicy(self._settings.checkpoint, options, joints)
        self._units = self._joint_units(policy.processor)
        self._order = self._units.order(joints)
        self._inputs = camera_map(policy.processor.settings.cameras, self._settings.cameras, options.cameras)
        policy.warm_up()
        return policy

    def _joint_units(self, processor: Processor) -> JointUnits:
        joints = processor.settings.joints
        if not joints:
            raise BackendError(
                f"the checkpoint {self._settings.checkpoint} does not say in which units its joints are; set"
                " parameter model.units to degrees or -100..100 (LeRobot: use_degrees true or false), or rad."
            )
        if len(joints) != len(processor.action_normaliser):
            raise BackendError(
                f"the checkpoint gives {len(processor.action_normaliser)} values per step, it names"
                f" {len(joints)} joints."
            )
        return JointUnits(joints)

    def _infer(self, policy: CheckpointPolicy, observation: Observation) -> Chunk:
        started = time.perf_counter()
        frames = {name: observation.images[given].pixels for name, given in self._inputs.items()}
        state = self._units.values(np.asarray(observation.joint_positions)[self._order])
        going = self._going(policy.processor, observation)
        values, prepared = policy.act(frames, state, observation.instruction, going)
        positions = np.empty((len(values), len(self._order)))
        positions[:, self._order] = self._units.radians(values)
        return Chunk(
            origin=observation.stamp,
            times=np.arange(len(positions), dtype=np.float64) * policy.processor.step,
            positions=positions,
            latency_preprocess=prepared - started,
            latency_model=time.perf_counter() - prepared,
        )

    def _going(self, processor: Processor, observation: Observation) -> Going | None:
        """What the arm goes on to do, at the times of the new chunk's actions."""
        planned = observation.planned
        if planned is None:
            return None
        times = observation.stamp + np.arange(processor.config.action_head.action_horizon) * processor.step
        times = times[times <= planned.times[-1] + CLOSE]
        positions = planned.positions_at(times)[:, self._order]
        frozen = int(np.searchsorted(times, planned.frozen_until + CLOSE))
        return Going(self._units.values(positions), frozen, planned.hard)
