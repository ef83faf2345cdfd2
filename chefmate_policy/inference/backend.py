# SPDX-License-Identifier: Apache-2.0
"""The small interface behind which a policy decides, and the table of those that exist.

A backend gets one observation and returns one action chunk. It knows nothing of ROS, of threads or of the
arm: the node gives it observations that are fresh and complete, runs it in one worker thread, and checks what
it returns.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError

Array = NDArray[np.float64]


class BackendError(PolicyError):
    """A backend cannot be loaded, failed, or returned something that must not reach an arm.

    The policy faults: it holds until the instruction changes.
    """


class BackendUnavailableError(BackendError):
    """A backend cannot answer now (a server that does not reply). The policy holds and asks again."""


@dataclass(frozen=True)
class CameraFrame:
    """One picture of one camera, decoded only when a backend looks at it (in the worker's thread)."""

    stamp: float
    """Capture time, s since the epoch."""
    decode: Callable[[], NDArray[np.uint8]]

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8, red, green, blue.

        Raises:
            PolicyError: the message cannot be read (encoding, sizes); the message says which.
        """
        return self.decode()


@dataclass(frozen=True)
class Planned:
    """What the arm goes on to do unless another chunk comes, for a backend that lets its chunk go on from it
    (real-time chunking)."""

    times: Array
    """(k,) s since the epoch, increasing."""
    positions: Array
    """(k, n) rad, in the node's joint order; linear between points."""
    frozen_until: float
    """s since the epoch: until then the arm does this whatever the new chunk says."""
    hard: bool = False
    """Only the frozen part is to be kept, exactly; else all of it, softly."""

    def positions_at(self, times: Array) -> Array:
        """(m, n) rad at some times of (m,), held before the first and after the last point."""
        columns = [np.interp(times, self.times, column) for column in self.positions.T]
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Observation:
    """What one inference starts from. Times are s since the epoch, joints in the node's order, rad and
    rad/s."""

    instruction: str
    instruction_number: int
    stamp: float
    """Capture time of the oldest input."""
    stamps: Mapping[str, float]
    """Capture time of each input, by input name (joint_states, camera names, expert_state)."""
    now: float
    """When the inference was asked for."""
    start: float
    """When the chunk takes over: now plus the lead while a chunk runs, else now."""
    start_positions: Array
    """(n,) where the arm's command will be at `start`: on the running chunk, or the measured pose while none
    runs."""
    joint_positions: Array
    """(n,) measured, when the oldest picture was taken; the newest for a backend that needs no pictures."""
    joint_velocities: Array
    """(n,) measured, of the same moment; zero where the arm does not report them."""
    images: Mapping[str, CameraFrame] = field(default_factory=dict)
    """By camera name; empty for a backend that needs none."""
    expert_state: Any = None
    """chefmate_msgs/ExpertState of the twin, only for a backend that asks for it."""
    planned: Planned | None = None
    """Only while a chunk runs, and only in a mode of chunking that makes use of it."""


@dataclass(frozen=True)
class Chunk:
    """One action chunk. Empty `times` are allowed only with `done`: there is nothing to do."""

    origin: float
    """Time to which `times` are relative, s since the epoch. Points that are past when the chunk is ready are
    skipped."""
    times: Array
    """(k,) s, at least 0, strictly increasing."""
    positions: Array
    """(k, n) rad, in the node's joint order."""
    velocities: Array | None = None
    """(k, n) rad/s, or None: the arm then goes in straight lines from point to point."""
    done: bool = False
    """True: after this chunk there is nothing left to do for the instruction."""
    phase: str = ""
    """What the backend is about, for people; may be empty."""
    latency_preprocess: float = 0.0
    """s, of this inference."""
    latency_model: float = 0.0
    """s, of this inference."""


@dataclass(frozen=True)
class BackendSettings:
    """What the node's parameters say about the backend."""

    joints: tuple[str, ...]
    cameras: tuple[str, ...]
    """Names under which the images come."""
    checkpoint: str = ""
    """Folder, file, hub id or address, as the backend understands it; may be empty."""
    execution_horizon: float = 0.5
    """s of each chunk that are executed before the next one takes over."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The node's `model.*` parameters, without that prefix."""


class Backend(Protocol):
    """One policy. Constructed with BackendSettings, must not do anything slow or fallible there."""

    needs_images: bool
    """True: `Observation.images` is filled. False: the node only watches that the cameras live."""
    needs_joint_states: bool
    needs_expert_state: bool
    # A backend may also say `goes_on = True`: it makes use of `Observation.planned` (see chunking.goes_on).

    @property
    def model_id(self) -> str:
        """Backend and checkpoint, for example expert:kitchen; goes into every chunk and status."""

    def load(self) -> None:
        """Becomes ready to infer. May take minutes. Called once, in the node's main thread.

        Raises:
            BackendError: what is missing or wrong, and what to do.
        """

    def infer(self, observation: Observation) -> Chunk:
        """One chunk for one observation. Called from one worker thread, never twice at a time.

        Raises:
            BackendUnavailableError: no answer now, ask again later.
            Exception: anything else faults the policy until the instruction changes.
        """

    def cancel(self) -> None:
        """The running inference's result will be discarded: end early where that is easy. Called from another
        thread, also when no inference runs. Internal plans for the old instruction are to be forgotten
        too."""

    def close(self) -> None:
        """Frees what load took."""


BACKENDS: Mapping[str, str] = {
    "expert": "chefmate_policy.inference.expert:ExpertBackend",
    "local": "chefmate_policy.inference.local:LocalBackend",
    "server": "chefmate_policy.inference.server_backend:ServerBackend",
}
"""Backend name -> "module:class"."""


def create_backend(name: str, settings: BackendSettings) -> Backend:
    """Makes the backend of that name; a "module:class" outside the table is accepted as it is. Does not load
    it.

    Raises:
        BackendError: no such backend, or its module cannot be imported.
    """
    target = BACKENDS.get(name, name)
    module_name, colon, class_name = target.partition(":")
    if not colon:
        known = ", ".join(sorted(BACKENDS))
        raise BackendError(f"backend {name!r} does not exist; use one of: {known}, or module:class.")
    try:
        module = importlib.import_module(module_name)
        backend_class: Callable[[BackendSettings], Backend] = getattr(module, class_name)
    except (ImportError, AttributeError) as error:
        raise BackendError(f"backend {name!r}: cannot import {target} ({error}).") from error
    return backend_class(settings)


def checked(chunk: Chunk, joints: int, now: float) -> Chunk:
    """The same chunk, if it may go to an arm.

    Raises:
        BackendError: wrong shapes, times that do not increase, or a value that is not finite.
        BackendUnavailableError: the chunk's last point is past.
    """
    times, positions = chunk.times, chunk.positions
    if times.ndim != 1 or positions.shape != (times.size, joints):
        raise BackendError(
            f"the chunk's times have shape {times.shape} and its positions {positions.shape}; "
            f"expected (k,) and (k, {joints})."
        )
    if chunk.velocities is not None and chunk.velocities.shape != positions.shape:
        raise BackendError(
            f"the chunk's velocities have shape {chunk.velocities.shape}, its positions {positions.shape}."
        )
    if not np.isfinite(chunk.origin):
        raise BackendError(f"the chunk's origin is {chunk.origin}.")
    if times.size == 0:
        if chunk.done:
            return chunk
        raise BackendError("the chunk is empty, though its backend is not done.")
    if not np.all(np.isfinite(times)) or times[0] < 0.0 or np.any(np.diff(times) <= 0.0):
        raise BackendError(f"the chunk's times must be finite, from 0, and increase: {times[:8].tolist()}.")
    for what, values in (("position", positions), ("velocity", chunk.velocities)):
        if values is not None and not np.all(np.isfinite(values)):
            row, column = (int(index) for index in np.argwhere(~np.isfinite(values))[0])
            raise BackendError(
                f"the chunk has a {what} of {values[row, column]} at point {row}, joint {column}."
            )
    late = now - (chunk.origin + float(times[-1]))
    if late >= 0.0:
        raise BackendUnavailableError(
            f"the chunk was over {late:.2f} s before it was ready: the backend is too slow."
        )
    return chunk
