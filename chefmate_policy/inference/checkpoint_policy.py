# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of GR00T N1.5 ready to act, in its dataset's terms: cameras, units and keys are its own.

The local backend and the policy server put their own terms around it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from chefmate_policy.groot.checkpoint import load_model, load_processor, open_checkpoint
from chefmate_policy.groot.model import Parts
from chefmate_policy.groot.processor import Processor
from chefmate_policy.groot.prompt import PromptForm
from chefmate_policy.inference.backend import BackendError
from chefmate_policy.inference.engine import Engine
from chefmate_policy.inference.options import read_calibration
from chefmate_policy.units import so101_units

__all__ = ["CheckpointOptions", "CheckpointPolicy"]

SMALL = 50_000_000  # parameters; below it a second thread costs more than it gives beside the running graph
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class CheckpointOptions:
    """How a checkpoint is loaded and run."""

    device: str = "auto"  # cuda where there is one, else cpu
    dtype: str = "auto"  # bfloat16 on cuda, float32 on cpu
    base: str = ""  # base checkpoint of an adapter, where the one that it names is elsewhere
    embodiment: str = "new_embodiment"
    units: str = ""  # of the body joints, where the checkpoint does not say: degrees, -100..100, rad
    calibration: str = ""  # LeRobot's calibration file of this arm; -100..100 needs it
    prompt: str = ""  # plain, reference_server, instruction_first; empty: as the checkpoint says
    denoising_steps: int = 0  # 0: as the checkpoint says
    guidance: float = 1.0  # weight of the instruction against the null prompt; 1: off
    seed: int = -1  # of the noise, the same for every chunk; -1: drawn anew each time
    threads: int = 0  # of torch on the CPU; 0: one for a small model, else torch's choice


class CheckpointPolicy:
    """Loads on construction: opens the checkpoint and brings it to the device.

    Args:
        checkpoint: folder or hub id.
        joints: of the state's and action's dimensions, for `options.units`.

    Raises:
        PolicyError: what is missing or does not fit, and the mend.
    """

    def __init__(self, checkpoint: str, options: CheckpointOptions, joints: tuple[str, ...]) -> None:
        cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
        device = torch.device("cuda" if cuda else "cpu" if options.device == "auto" else options.device)
        name = options.dtype if options.dtype != "auto" else "bfloat16" if cuda else "float32"
        if name not in DTYPES:
            raise BackendError(f"parameter model.dtype is {name!r}; use one of {', '.join(DTYPES)}.")
        opened = open_checkpoint(checkpoint, base=options.base or None)
        changes: dict[str, Any] = {}
        if options.prompt:
            changes["prompt"] = PromptForm.of(options.prompt)
        if options.units:
            changes["joints"] = so101_units(joints, options.units, read_calibration(options.calibration))
        self.processor: Processor = load_processor(opened, options.embodiment, device=device, **changes)
        model = load_model(opened, Parts.used(self.processor.slot), device=device, dtype=DTYPES[name])
        if threads := options.threads or (1 if size_of(model) < SMALL else 0):
            torch.set_num_threads(threads)
        self._engine = Engine(
            model, slot=self.processor.slot, steps=options.denoising_steps or None, guidance=options.guidance
        )
        self._seed, self._noise = options.seed, torch.Generator()

    def warm_up(self) -> None:
        """The first inference is slow (kernels, graphs); its time belongs to loading."""
        video = self.processor.metadata.video
        frames = {
            name: np.zeros((video[name].height, video[name].width, 3), np.uint8)
            for name in self.processor.settings.cameras
        }
        self.act(frames, np.zeros(len(self.processor.state_normaliser)), "")

    def act(
        self, frames: Mapping[str, NDArray[np.uint8]], state: ArrayLike, instruction: str
    ) -> tuple[NDArray[np.float64], float]:
        """Actions (H, D) in the dataset's units, and when the inputs were ready (perf_counter).

        frames: by camera, (height, width, 3). state: (D,) in the dataset's units. Raises InputError.
        """
        processor, engine, cameras = self.processor, self._engine, len(self.processor.settings.cameras)
        pixels = processor.images(frames)
        inputs = processor.state(state)
        prompt = engine.prompt(self._ids(instruction, cameras), self._ids(None, cameras))
        head = processor.config.action_head
        if self._seed >= 0:
            self._noise.manual_seed(self._seed)
        noise = torch.randn(head.action_horizon, head.action_dim, generator=self._noise)
        prepared = time.perf_counter()
        output = engine(pixels, inputs, prompt, noise).to("cpu", torch.float64)
        return processor.actions(output).numpy(), prepared

    def _ids(self, instruction: str | None, cameras: int) -> torch.Tensor:
        return torch.tensor(self.processor.prompts.prompt(instruction, cameras).ids)


def size_of(model: torch.nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
