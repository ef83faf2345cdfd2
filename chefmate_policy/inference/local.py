# SPDX-License-Identifier: Apache-2.0
"""A GR00T N1.5 checkpoint as a backend, in the node's own process.

The chunk is laid on the clock of the observation: action 0 is due when the cameras looked, and the following
ones come at the dataset's rate, so what the latency has made late is skipped and the rest is in time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chefmate_policy.errors import PolicyError
from chefmate_policy.groot.checkpoint import load_model, load_processor, open_checkpoint
from chefmate_policy.groot.model import Parts
from chefmate_policy.groot.processor import Processor
from chefmate_policy.groot.prompt import PromptForm
from chefmate_policy.inference.backend import BackendError, BackendSettings, Chunk, Observation
from chefmate_policy.inference.engine import Engine
from chefmate_policy.units import JointUnits, so101_units

SMALL = 50_000_000  # parameters; below it a second thread costs more than it gives beside the running graph
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LocalOptions:
    """The node's parameters `model.*` that this backend knows."""

    device: str = "auto"  # cuda where there is one, else cpu
    dtype: str = "auto"  # bfloat16 on cuda, float32 on cpu
    base: str = ""  # base checkpoint of an adapter, where the one that it names is elsewhere
    embodiment: str = "new_embodiment"
    cameras: tuple[str, ...] = ()  # checkpoint's camera=input, for example front=scene; empty: equal names
    units: str = ""  # of the body joints, where the checkpoint does not say: degrees, -100..100, rad
    calibration: str = ""  # LeRobot's calibration file of this arm; -100..100 needs it
    prompt: str = ""  # plain, reference_server, instruction_first; empty: as the checkpoint says
    denoising_steps: int = 0  # 0: as the checkpoint says
    guidance: float = 1.0  # weight of the instruction against the null prompt; 1: off
    seed: int = -1  # of the noise, the same for every chunk; -1: drawn anew each time
    threads: int = 0  # of torch on the CPU; 0: one for a small model, else torch's choice

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> LocalOptions:
        """From the node's parameters. Raises BackendError naming one that is unknown or of another type."""
        known = {field.name: field for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in known:
                raise BackendError(f"parameter model.{name} is unknown; known are {', '.join(known)}.")
            default: Any = known[name].default
            try:
                values[name] = tuple(value) if isinstance(default, tuple) else type(default)(value)
            except (TypeError, ValueError):
                raise BackendError(
                    f"parameter model.{name} is {value!r}, expected {type(default).__name__}."
                ) from None
        return cls(**values)


class LocalBackend:
    """See the module."""

    needs_images = True
    needs_joint_states = True
    needs_expert_state = False

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._noise = torch.Generator()

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
        self._options = LocalOptions.of(self._settings.options)
        try:
            self._load()
        except torch.OutOfMemoryError as error:
            raise BackendError(f"the checkpoint does not fit into the GPU's memory: {error}") from error
        except PolicyError as error:
            raise BackendError(str(error)) from error

    def infer(self, observation: Observation) -> Chunk:
        """One chunk at the dataset's rate, from when the cameras looked.

        Raises:
            BackendError: not loaded, out of memory, or the observation does not fit the checkpoint.
        """
        if self._engine is None:
            raise BackendError("the checkpoint is not loaded.")
        try:
            return self._infer(self._engine, observation)
        except torch.OutOfMemoryError as error:
            raise BackendError(f"out of GPU memory: {error}") from error

    def cancel(self) -> None:
        """Nothing to do: an inference cannot be cut short, and no plan is kept."""

    def close(self) -> None:
        """Frees the model."""
        self._engine = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self) -> None:
        options = self._options
        cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
        self._device = torch.device("cuda" if cuda else "cpu" if options.device == "auto" else options.device)
        name = options.dtype if options.dtype != "auto" else "bfloat16" if cuda else "float32"
        if name not in DTYPES:
            raise BackendError(f"parameter model.dtype is {name!r}; use one of {', '.join(DTYPES)}.")
        checkpoint = open_checkpoint(self._settings.checkpoint, base=options.base or None)
        changes: dict[str, Any] = {}
        if options.prompt:
            changes["prompt"] = PromptForm.of(options.prompt)
        if options.units:
            changes["joints"] = so101_units(self._settings.joints, options.units, self._calibration())
        self._processor = load_processor(checkpoint, options.embodiment, device=self._device, **changes)
        self._units = self._joint_units(self._processor)
        self._order = self._units.order(self._settings.joints)
        self._inputs = camera_map(self._processor.settings.cameras, self._settings.cameras, options.cameras)
        model = load_model(
            checkpoint, Parts.used(self._processor.slot), device=self._device, dtype=DTYPES[name]
        )
        if threads := options.threads or (1 if size_of(model) < SMALL else 0):
            torch.set_num_threads(threads)
        self._engine = Engine(
            model,
            slot=self._processor.slot,
            steps=options.denoising_steps or None,
            guidance=options.guidance,
        )
        self._warm_up(self._engine)

    def _calibration(self) -> Any:
        if not self._options.calibration:
            return None
        path = Path(self._options.calibration).expanduser()
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BackendError(f"parameter model.calibration: {path} cannot be read: {error}") from error

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

    def _warm_up(self, engine: Engine) -> None:
        """The first inference is slow (kernels, graphs); its time belongs to loading."""
        processor = self._processor
        frames = {
            name: np.zeros((camera.height, camera.width, 3), np.uint8)
            for name, camera in processor.metadata.video.items()
            if name in self._inputs
        }
        self._act(engine, frames, np.zeros(len(self._order)), "")

    def _infer(self, engine: Engine, observation: Observation) -> Chunk:
        started = time.perf_counter()
        frames = {name: observation.images[given].pixels for name, given in self._inputs.items()}
        positions, prepared = self._act(engine, frames, observation.joint_positions, observation.instruction)
        ended = time.perf_counter()
        return Chunk(
            origin=observation.stamp,
            times=np.arange(len(positions), dtype=np.float64) * self._processor.step,
            positions=positions,
            latency_preprocess=prepared - started,
            latency_model=ended - prepared,
        )

    def _act(
        self, engine: Engine, frames: Mapping[str, Any], joints: Any, instruction: str
    ) -> tuple[Any, float]:
        """Positions (H, n), rad, in the node's joint order, and when the inputs were ready (perf_counter)."""
        processor, cameras = self._processor, len(self._inputs)
        pixels = processor.images(frames)
        state = processor.state(self._units.values(np.asarray(joints)[self._order]))
        prompt = engine.prompt(self._ids(instruction, cameras), self._ids(None, cameras))
        head = processor.config.action_head
        if self._options.seed >= 0:
            self._noise.manual_seed(self._options.seed)
        noise = torch.randn(head.action_horizon, head.action_dim, generator=self._noise)
        prepared = time.perf_counter()
        output = engine(pixels, state, prompt, noise).to("cpu", torch.float64)
        values = processor.actions(output).numpy()
        positions = np.empty((len(values), len(self._order)))
        positions[:, self._order] = self._units.radians(values)
        return positions, prepared

    def _ids(self, instruction: str | None, cameras: int) -> torch.Tensor:
        return torch.tensor(self._processor.prompts.prompt(instruction, cameras).ids)


def size_of(model: torch.nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def camera_map(wanted: tuple[str, ...], given: tuple[str, ...], entries: tuple[str, ...]) -> dict[str, str]:
    """Checkpoint's camera -> the node's input.

    entries: camera=input; without them the names must be equal. Raises BackendError naming what is left over.
    """
    pairs = dict.fromkeys(wanted, "") | {name: name for name in wanted if name in given}
    for entry in entries:
        camera, equals, source = (part.strip() for part in entry.partition("="))
        if not equals or camera not in wanted or source not in given:
            raise BackendError(
                f"parameter model.cameras: {entry!r} must be camera=input, with a camera of the checkpoint"
                f" ({', '.join(wanted)}) and an input of the node ({', '.join(given) or 'none'})."
            )
        pairs[camera] = source
    lacking = [name for name, source in pairs.items() if not source]
    if lacking:
        raise BackendError(
            f"the checkpoint looks through {', '.join(wanted)}; the node has"
            f" {', '.join(given) or 'no camera'}: set parameter model.cameras, for example"
            f" [{lacking[0]}={(given or ('scene',))[0]}]."
        )
    return pairs
