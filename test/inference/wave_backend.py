# SPDX-License-Identifier: Apache-2.0
"""A real, small backend for node tests: swings the first joint, and does on demand what backends do wrong.

The instruction's words choose: "wave", "last wave", "slow", "raise", "nan", "hang", "nothing".
"""

from __future__ import annotations

import threading

import numpy as np

from chefmate_policy.inference.backend import BackendError, BackendSettings, Chunk, Observation


class Wave:
    """Chunks of 1 s whose first joint goes to +0.1 rad times the instruction's number."""

    needs_joint_states = True
    needs_expert_state = False
    needs_images = False

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._released = threading.Event()

    @property
    def model_id(self) -> str:
        return f"wave:{self._settings.options.get('name', 'plain')}"

    def load(self) -> None:
        if self._settings.checkpoint == "missing":
            raise BackendError("checkpoint 'missing' does not exist; give a folder.")

    def infer(self, observation: Observation) -> Chunk:
        words = observation.instruction.split()
        if "slow" in words:
            self._released.wait(0.5)
        if "raise" in words:
            raise ValueError("no such joint angle")
        if "hang" in words:
            self._released.wait(4.0)
        if "nothing" in words:
            return Chunk(observation.start, np.zeros(0), np.zeros((0, 6)), done=True)
        times = np.arange(0.0, 1.01, 0.1)
        goal = observation.start_positions.copy()
        goal[0] = np.nan if "nan" in words else 0.1 * observation.instruction_number
        share = times[:, None]
        return Chunk(
            origin=observation.start,
            times=times,
            positions=(1.0 - share) * observation.start_positions + share * goal,
            done="last" in words,
            phase="waving",
        )

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self._released.set()


class Looking(Wave):
    """Also looks at its cameras; its first joint goes to the mean of the scene camera's red, 0..1, its second
    one to where the observation has it."""

    needs_images = True

    def infer(self, observation: Observation) -> Chunk:
        chunk = super().infer(observation)
        chunk.positions[-1, 0] = float(observation.images["scene"].pixels[:, :, 0].mean()) / 255.0
        chunk.positions[-1, 1] = observation.joint_positions[1]
        return chunk
