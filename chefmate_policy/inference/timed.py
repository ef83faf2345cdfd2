# SPDX-License-Identifier: Apache-2.0
"""A backend of known inference time, for benches: `backend:=chefmate_policy.inference.timed:TimedBackend`.

Parameters: `model.seconds` of each inference, `model.look` (true: it gets images and decodes them),
`model.log`, a file in which it notes when each inference began and ended.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chefmate_policy.inference.backend import Array, BackendSettings, Chunk, Observation
from chefmate_policy.inference.options import options_of

SWING = 0.02  # rad, of the first joint about its first position
PERIOD = 4.0  # s of a swing
HORIZON, STEP = 16, 1.0 / 30.0  # as N1.5's chunks


@dataclass(frozen=True)
class TimedOptions:
    """Parameters `model.*`."""

    seconds: float = 0.05  # of an inference
    look: bool = False  # decode the cameras' images
    log: str = ""  # file of "start end number" lines, s since the epoch; empty: none


class TimedBackend:
    """See the module. Its chunks swing the first joint by a hand's breadth at most."""

    needs_joint_states = True
    needs_expert_state = False

    def __init__(self, settings: BackendSettings) -> None:
        self._options = options_of(TimedOptions, settings.options)
        self.needs_images = self._options.look
        self._closed = threading.Event()
        self._rest: Array | None = None

    @property
    def model_id(self) -> str:
        """timed: and the time of an inference."""
        return f"timed:{self._options.seconds:g}"

    def load(self) -> None:
        """Nothing to load."""

    def infer(self, observation: Observation) -> Chunk:
        """A chunk of N1.5's length, `seconds` later. What looking costs comes on top, as preprocessing."""
        began, started = time.time(), time.perf_counter()
        for frame in observation.images.values():
            frame.pixels.shape  # noqa: B018 - decodes it
        prepared = time.perf_counter()
        self._closed.wait(self._options.seconds)
        if self._rest is None:
            self._rest = np.array(observation.joint_positions)
        times: Array = np.arange(HORIZON, dtype=np.float64) * STEP
        positions = np.tile(self._rest, (HORIZON, 1))
        positions[:, 0] += SWING * np.sin((observation.start + times) * 2.0 * np.pi / PERIOD)
        modelled = time.perf_counter() - prepared
        if self._options.log:
            with Path(self._options.log).open("a", encoding="utf-8") as log:
                log.write(f"{began:.6f} {time.time():.6f} {observation.instruction_number}\n")
        return Chunk(
            origin=observation.start,
            times=times,
            positions=positions,
            latency_preprocess=prepared - started,
            latency_model=modelled,
        )

    def cancel(self) -> None:
        """Nothing to do: the time of an inference is to be known."""

    def close(self) -> None:
        """Ends a running inference."""
        self._closed.set()
