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

from chefmate_policy.groot.checkpoint import Checkpoint, load_model, load_processor, open_checkpoint
from chefmate_policy.groot.errors import InputError
from chefmate_policy.groot.guidance import MOST, Prefix, PrefixGuide
from chefmate_policy.groot.model import Parts
from chefmate_policy.groot.processor import Processor
from chefmate_policy.groot.prompt import PromptForm
from chefmate_policy.inference.backend import BackendError
from chefmate_policy.inference.engine import Engine
from chefmate_policy.inference.options import read_calibration
from chefmate_policy.inference.tasks import TaskEngine, task_folders, task_of
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
    compiled: bool = False  # blocks by torch.compile; loading then takes up to a minute longer
    prefix_weight: float = MOST  # real-time chunking: limit of the guidance weight
    jacobian: bool = False  # real-time chunking: errors pulled back through the model; dearer
    tasks: tuple[str, ...] = ()  # task=adapter, each on this checkpoint; the one that the words name acts


@dataclass(frozen=True)
class Going:
    """What is left of the chunk before, in the dataset's terms, on the new chunk's steps."""

    actions: NDArray[np.float64]  # (M, D)
    frozen: int  # of them, that the arm does whatever the new chunk says
    hard: bool


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
        opened: dict[str | None, Checkpoint] = {None: open_checkpoint(checkpoint, base=options.base or None)}
        for task, folder in task_folders(options.tasks).items():
            opened[task] = open_checkpoint(folder, base=checkpoint)
        changes: dict[str, Any] = {}
        if options.prompt:
            changes["prompt"] = PromptForm.of(options.prompt)
        if options.units:
            changes["joints"] = so101_units(joints, options.units, read_calibration(options.calibration))
        self._processors = {
            task: load_processor(source, options.embodiment, device=device, **changes)
            for task, source in opened.items()
            if task is not None or not options.tasks  # where there are tasks, the base does not act
        }
        self.processor: Processor = next(iter(self._processors.values()))
        same_terms(self._processors)

        def build(task: str | None) -> Engine:
            slot = self.processor.slot
            model = load_model(opened[task], Parts.used(slot), device=device, dtype=DTYPES[name])
            if threads := options.threads or (1 if size_of(model) < SMALL else 0):
                torch.set_num_threads(threads)
            steps = options.denoising_steps or None
            return Engine(model, slot=slot, steps=steps, guidance=options.guidance, compiled=options.compiled)

        self._tasks = TaskEngine(build, [task for task in opened if task is not None])
        self._most, self._jacobian, self._cuda = options.prefix_weight, options.jacobian, cuda
        self._seed, self._noise = options.seed, torch.Generator()

    def warm_up(self) -> None:
        """The first inference is slow (kernels, graphs); its time belongs to loading."""
        video = self.processor.metadata.video
        frames = {
            name: np.zeros((video[name].height, video[name].width, 3), np.uint8)
            for name in self.processor.settings.cameras
        }
        for task, processor in self._processors.items():
            state = np.zeros(len(processor.state_normaliser))
            actions, _ = self._act(task, frames, state, "")
            if self._cuda and np.isfinite(actions).all():  # graphs of its own
                self._act(task, frames, state, "", Going(actions[:2], 1, hard=False))

    def reseed(self, seed: int) -> None:
        """The noise of the chunks to come, where `seed` of the options does not fix it."""
        self._noise.manual_seed(seed)

    def act(
        self,
        frames: Mapping[str, NDArray[np.uint8]],
        state: ArrayLike,
        instruction: str | None,
        going: Going | None = None,
    ) -> tuple[NDArray[np.float64], float]:
        """Actions (H, D) in the dataset's units, and when the inputs were ready (perf_counter).

        frames: by camera, (height, width, 3). state: (D,) in the dataset's units. instruction: None is the
        null prompt. Where there are tasks, the adapter acts whose task the instruction names. going: what the
        actions are to go on from. Raises InputError.
        """
        task = None if instruction is None else task_of(instruction, self._tasks.tasks)
        if task not in self._processors:
            raise InputError(f"{instruction!r} names none of the tasks {', '.join(self._tasks.tasks)}")
        return self._act(task, frames, state, instruction, going)

    def _act(
        self,
        task: str | None,
        frames: Mapping[str, NDArray[np.uint8]],
        state: ArrayLike,
        instruction: str | None,
        going: Going | None = None,
    ) -> tuple[NDArray[np.float64], float]:
        processor, engine = self._processors[task], self._tasks.use(task)
        cameras = len(processor.settings.cameras)
        pixels = processor.images(frames)
        inputs = processor.state(state)
        prompts = (processor.prompts.prompt(words, cameras) for words in (instruction, None))
        prompt = engine.prompt(*(torch.tensor(each.ids) for each in prompts))
        head = processor.config.action_head
        if self._seed >= 0:
            self._noise.manual_seed(self._seed)
        noise = torch.randn(head.action_horizon, head.action_dim, generator=self._noise)
        guide = None
        if going is not None and len(going.actions):
            left = processor.action_normaliser.normalise(torch.as_tensor(going.actions))
            prefix = Prefix(left, going.frozen, going.hard, self._most, self._jacobian)
            guide = PrefixGuide(prefix, head.action_horizon, head.action_dim, engine.device)
        prepared = time.perf_counter()
        output = engine(pixels, inputs, prompt, noise, guide=guide).to("cpu", torch.float64)
        return processor.actions(output).numpy(), prepared


def same_terms(processors: Mapping[str | None, Processor]) -> None:
    """Raises BackendError where adapters of tasks look through other cameras or speak of other joints."""
    first, *others = processors.items()
    for task, processor in others:
        for what in ("cameras", "joints"):
            mine, its = getattr(first[1].settings, what), getattr(processor.settings, what)
            if mine != its:
                raise BackendError(
                    f"the adapters of tasks {first[0]!r} and {task!r} have other {what}: {mine} and {its};"
                    " adapters that are run together must be trained on one robot."
                )
        if processor.step != first[1].step:
            raise BackendError(f"the adapters of tasks {first[0]!r} and {task!r} have other frame rates.")


def size_of(model: torch.nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
