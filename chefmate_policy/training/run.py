# SPDX-License-Identifier: Apache-2.0
"""A training run from options to checkpoints: data checked, trainable set verified, then steps.

`train` is called by `chefmate train` in one process, or in each of several that torchrun or accelerate
started; the first of these writes and reports.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chefmate_policy.data.lerobot_layout import DatasetError
from chefmate_policy.data.mixture import Mixture
from chefmate_policy.data.sampling import Sampling
from chefmate_policy.data.shortcut import check_mixture
from chefmate_policy.training.batches import Columns, Loader, Preparation, Rows, square_side
from chefmate_policy.training.checkpoints import (
    RUN,
    Origin,
    Progress,
    checkpoint_folders,
    clean,
    differences,
    read_progress,
    restore,
    write_checkpoint,
)
from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.evaluation import Evaluation, Evaluator
from chefmate_policy.training.forward import (
    FlowLoss,
    PromptTable,
    checkpoint_layers,
    freeze_embeddings,
    keep_dtype,
)
from chefmate_policy.training.merge import write_merged
from chefmate_policy.training.metrics import Metrics
from chefmate_policy.training.optim import learning_rate, make_optimizer, rate_at
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.params import count
from chefmate_policy.training.provenance import made_of
from chefmate_policy.training.start import (
    Base,
    autocast_of,
    build_model,
    device_of,
    make_processor,
    open_base,
    software,
)
from chefmate_policy.training.stepping import Stepper, compile_layers
from chefmate_policy.training.trainable import Trainable, make_trainable
from chefmate_policy.training.verify import verify, verify_optimizer

__all__ = ["LAYERS", "Result", "train"]

Say = Callable[[str], None]
Watch = Callable[[int, int, dict[str, float]], None]  # step, steps, newest figures
# classes of which a model has several, for compilation
ASK_EVERY = 10  # steps between questions among processes
LAYERS = ("SiglipEncoderLayer", "Qwen3DecoderLayer", "_FeatureBlock", "DiTBlock")


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    reason: str  # "done", "hours" or "interrupted"
    step: int
    steps: int
    folder: Path  # the newest checkpoint
    merged: Path | None
    loss: float | None
    evaluation: Evaluation | None
    seconds: float  # of this session's steps
    samples_per_second: float

    def to_dict(self) -> dict[str, Any]:
        values = dict(vars(self))
        values["folder"] = str(self.folder)
        values["merged"] = str(self.merged) if self.merged else None
        values["evaluation"] = self.evaluation.to_dict() if self.evaluation else None
        return values


def train(
    options: TrainOptions,
    *,
    say: Say,
    stop: Callable[[], bool] = lambda: False,
    watch: Watch | None = None,
) -> Result:
    """Trains until `max_steps`, `hours` or `stop`; a checkpoint is written in each case.

    Raises PolicyError: data, base, options or disk, with what is wrong and the mend. What was written before
    stays whole.
    """
    with _processes(options) as together:
        run = _Run(options, together, say if together.rank == 0 else lambda line: None)
        return run.go(stop, watch)


class _Processes:
    """The processes of a run: one, or those that accelerate found."""

    def __init__(self, options: TrainOptions) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = device_of(options, int(os.environ.get("LOCAL_RANK", "0")))
        self.accelerator: Any = None
        if self.world > 1:
            from accelerate import Accelerator  # type: ignore[import-untyped]

            self.accelerator = Accelerator(
                cpu=self.device.type == "cpu",
                gradient_accumulation_steps=1,  # `Stepper` counts passes itself
            )
            self.device = self.accelerator.device

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *error: object) -> None:
        if self.accelerator is not None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def alike(self, parameters: Iterable[Tensor]) -> None:
        """All processes begin with the first one's weights."""
        if self.accelerator is not None:
            for parameter in parameters:
                torch.distributed.broadcast(parameter.data, 0)

    def first_ones(self, here: float) -> float:
        """The number that the first process has; all must ask."""
        if self.accelerator is None:
            return here
        value = torch.tensor([here], device=self.device, dtype=torch.float64)
        torch.distributed.broadcast(value, 0)
        return float(value.item())

    def any(self, here: bool) -> bool:
        """Whether it is so in any process; all must ask."""
        if self.accelerator is None:
            return here
        flag = torch.tensor([float(here)], device=self.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def mean(self, here: float) -> float:
        """Over the processes; all must ask."""
        if self.accelerator is None:
            return here
        value = torch.tensor([here], device=self.device)
        return float(self.accelerator.reduce(value, "mean").item())

    def wait(self) -> None:
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def _processes(options: TrainOptions) -> _Processes:
    return _Processes(options)


class _Run:
    """One session of a run."""

    def __init__(self, options: TrainOptions, together: _Processes, say: Say) -> None:
        self.options, self.together, self.say = options, together, say
        self.device, self.first = together.device, together.rank == 0
        self.output = Path(options.output_dir)
        self.before = self._earlier()
        self.mixture = open_mixture(options)
        train_part, self.held_out = self._split()
        check_mixture(self.mixture, allow_shortcut=options.allow_shortcut, report=say)
        self.fingerprints = self.mixture.fingerprints()
        base = open_base(options)
        self._check_resumable(base.origin)
        self.origin, self.base = base.origin, base
        datasets = {self.fingerprints[str(dataset.root)]: dataset for dataset in self.mixture.datasets}
        self.made_of = made_of(datasets, base.origin.folder)
        self.processor = make_processor(base, self.mixture, options)
        self.autocast = autocast_of(options, self.device)
        self.trainable = self._trainable(base)
        self.loader = Loader(
            train_part,
            square_side(base.config.vision.image_size),
            self.device,
            workers=options.dataloader_num_workers,
            ahead=options.dataloader_prefetch_factor,
            rank=together.rank,
            world=together.world,
        )
        self._set_up()

    def _earlier(self) -> tuple[Path, Progress] | None:
        """The checkpoint to go on from."""
        if self.first:
            clean(self.output)
        found = checkpoint_folders(self.output)
        if self.options.resume:
            if not found:
                raise TrainingError(f"{self.output} has no checkpoint to resume from; leave --resume out")
            return found[-1][1], read_progress(found[-1][1])
        if found:
            raise TrainingError(
                f"{self.output} has checkpoints of another run ({found[-1][1].name}); add --resume to go on"
                " with it, or choose another --output-dir"
            )
        return None

    def _split(self) -> tuple[Mixture, Mixture | None]:
        if not self.options.holdout:
            return self.mixture, None
        try:
            return self.mixture.split(self.options.holdout, self.options.seed)
        except DatasetError as error:
            raise TrainingError(f"{error}; set holdout to 0 to train on everything") from error

    def _check_resumable(self, origin: Origin) -> None:
        if self.before is None:
            return
        folder, progress = self.before
        changed = differences(progress.options, self.options)
        data = sorted(self.fingerprints.values()) != sorted(progress.data.values())
        if data:
            changed.append("the datasets' contents (fingerprints differ)")
        base = progress.base
        if base.get("sha256") != origin.sha256 or (origin.sha256 is None and base["name"] != origin.name):
            changed.append(f"the base (SHA-256 {base.get('sha256')} -> {origin.sha256}, {origin.name})")
        if changed:
            raise TrainingError(
                f"{folder} cannot be resumed, since its numbers would not be those of one run: "
                + "; ".join(changed)
                + ". Undo the changes, or start a new run with that checkpoint as base_model_path"
            )

    def _trainable(self, base: Base) -> Trainable:
        model = build_model(base, self.options, self.device)
        trainable = make_trainable(model, self.options)
        for line in count(trainable).lines():
            self.say(line)
        self.say(str(verify(trainable, autocast=self.autocast)))
        return trainable

    def _set_up(self) -> None:
        options, model = self.options, self.trainable.model
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as the reference
        null = options.prompt_dropout > 0
        prompts = PromptTable.of(
            self.processor.prompts, self.mixture.instructions, len(self.mixture.cameras), null
        ).to(self.device)
        freeze_embeddings(model, prompts, self.device)
        if self.autocast is not None:
            keep_dtype(model)
        if options.gradient_checkpointing:
            checkpoint_layers(model, compiled=options.compile)
        elif options.compile:
            compile_layers(model, LAYERS)
        columns = Columns.of(self.mixture, self.processor, self.device)
        null_row = len(self.mixture.instructions) if null else None
        self.prepare = Preparation(
            self.processor.config,
            columns,
            null=null_row,
            drop=options.prompt_dropout,
            augment=options.augment,
            one_prompt=options.plant == "batch-words",
        )
        self.loss = FlowLoss(model, prompts)
        on_graph = self.device.type == "cuda" and options.optimizer == "adamw"
        self.optimizer = make_optimizer(self.trainable.parameters, options, on_graph=on_graph)
        verify_optimizer(self.trainable, self.optimizer)
        self.start, self.spent = 0, 0.0
        if self.before is not None:
            folder, progress = self.before
            restore(folder, self.trainable, self.optimizer)
            self.start, self.spent = progress.step, progress.seconds
            self.say(f"resumed from {folder}: step {self.start} of {options.max_steps}")
        self.together.alike(self.trainable.parameters.values())
        self.stepper = Stepper(
            self.loss,
            self.prepare,
            self.trainable.parameters,
            self.optimizer,
            options,
            autocast=self.autocast,
            rank=self.together.rank,
            world=self.together.world,
            on_graph=on_graph,
        )
        self.evaluator: Evaluator | None = None
        if self.held_out is not None and self.first:
            others = self.loader.of(self.held_out)
            self.evaluator = Evaluator(self.held_out, others, self.prepare, self.loss, self.autocast)

    def go(self, stop: Callable[[], bool], watch: Watch | None) -> Result:
        options = self.options
        self.newest: dict[str, float] = {}
        self.rate = self.newest_spent = 0.0
        self.evaluation: Evaluation | None = None
        self.trainable.train()
        started = began = time.monotonic()
        step, reason, writing = self.start, "done", 0.0
        folder = self.before[0] if self.before else self.output
        batches = self._batches()
        metrics = Metrics(self.output, self.start) if self.first else None
        try:
            while step < options.max_steps:
                self.rate = self._rate(step, began)
                self.stepper(step, batches, self.rate)
                step += 1
                if step % options.log_steps == 0 or step == options.max_steps:
                    self._log(step, started, metrics, watch)
                elif watch is not None and self.device.type == "cpu":
                    watch(step, options.max_steps, self.newest)
                if self._asks(step):
                    spent = self._spent(began)
                    if self.together.any(stop()):
                        reason = "interrupted"
                    elif options.hours is not None and self.together.any(
                        spent + writing > options.hours * 3600
                    ):
                        reason = "hours"
                ends = step == options.max_steps or reason != "done"
                if (options.eval_steps and step % options.eval_steps == 0) or (
                    not options.eval_steps and (ends or step % options.save_steps == 0)
                ):
                    self._evaluate(step, metrics)
                if ends or step % options.save_steps == 0:
                    before = time.monotonic()
                    folder = self._save(step, started, last=ends) or folder
                    writing = 1.5 * (time.monotonic() - before)
                if ends:
                    break
        finally:
            self.loader.close()
            if metrics is not None:
                metrics.__exit__(None, None, None)
        seconds = time.monotonic() - started
        merged = self._merge() if options.merge and reason != "interrupted" else None
        samples = (step - self.start) * self._per_step()
        return Result(
            reason, step, options.max_steps, folder, merged, self.newest.get("loss"), self.evaluation,
            seconds, samples / seconds if seconds else 0.0,
        )  # fmt: skip

    def _spent(self, began: float) -> float:
        """s of the time that `hours` limits: of this session, or of the run where the rate follows it."""
        return time.monotonic() - began + (self.spent if self.options.schedule == "hours" else 0.0)

    def _asks(self, step: int) -> bool:
        """Whether the processes ask each other after this step; each time they wait for the devices."""
        return self.together.world == 1 or step % ASK_EVERY == 0 or step == self.options.max_steps

    def _rate(self, step: int, began: float) -> float:
        """The same in all processes, whose weights would drift apart."""
        options = self.options
        if options.schedule == "hours" and options.hours is not None:
            if self.together.world == 1 or step == self.start or self._asks(step):
                self.newest_spent = self.together.first_ones(self._spent(began))
            return rate_at(self.newest_spent / (options.hours * 3600), options)
        return learning_rate(step, options)

    def _per_step(self) -> int:
        options = self.options
        return options.batch_size * options.gradient_accumulation_steps * self.together.world

    def _batches(self) -> Iterator[Rows]:
        parts = self.options.gradient_accumulation_steps
        for number in itertools.count(self.start * parts):
            yield self.loader.batch(number, self.options.batch_size, self.together.rank, self.together.world)

    def _log(self, step: int, started: float, metrics: Metrics | None, watch: Watch | None) -> None:
        loss, norm = self.stepper.taken()
        loss = self.together.mean(loss)
        if loss != loss or loss in (float("inf"), -float("inf")):
            raise TrainingError(
                f"the loss is {loss} at step {step}; checkpoints before it are whole. Lower learning_rate"
                f" (now {self.options.learning_rate:g}), or look at the data with chefmate data inspect"
            )
        seconds = time.monotonic() - started
        self.newest = {
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": self.rate,
            "samples_per_second": (step - self.start) * self._per_step() / max(seconds, 1e-9),
            "seconds": self.spent + seconds,
        }
        if self.device.type == "cuda":
            self.newest["peak_memory_gb"] = torch.cuda.max_memory_reserved(self.device) / 1e9
        if metrics is not None:
            metrics.write(step, self.newest)
        if watch is not None and self.first:
            watch(step, self.options.max_steps, self.newest)

    def _evaluate(self, step: int, metrics: Metrics | None) -> None:
        if self.evaluator is not None:
            self.evaluation = self.evaluator()
            found = self.evaluation.to_dict()
            if metrics is not None:
                metrics.write(step, {"held_out": found})
            gap = "" if self.evaluation.gap is None else f", action gap {self.evaluation.gap:.3f}"
            self.say(f"step {step}: held-out loss {self.evaluation.loss:.4f}{gap}")
        self.together.wait()

    def _save(self, step: int, started: float, last: bool) -> Path | None:
        """Writes a checkpoint. One on the way that does not fit on the disk is reported and left out: the
        next may fit; the last one must."""
        folder: Path | None = None
        if self.first:
            progress = Progress(
                step=step,
                seconds=self.spent + time.monotonic() - started,
                options=self.options.to_dict(),
                base={},
                data=self.fingerprints,
                software=software(),
                figures={**self.newest, "held_out": self.evaluation.to_dict() if self.evaluation else None},
                made_of=self.made_of,
            )
            try:
                folder = write_checkpoint(
                    self.output, self.trainable, self.processor, self.optimizer, progress, self.origin,
                    self.options.save_total_limit,
                )  # fmt: skip
            except TrainingError as error:
                if last:
                    raise
                self.say(f"no checkpoint of step {step}; training goes on: {error}")
        self.together.wait()
        return folder

    def _merge(self) -> Path | None:
        if not self.first:
            return None
        folder = self.output / "merged"
        self.say(f"writing {folder}")
        write_merged(self.trainable, self.processor, self.base.checkpoint, folder)
        _, newest = checkpoint_folders(self.output)[-1]
        (folder / RUN).parent.mkdir()
        shutil.copyfile(newest / RUN, folder / RUN)
        return folder


def open_mixture(options: TrainOptions) -> Mixture:
    """The datasets that the options name. Raises DatasetError or TrainingError."""
    if not options.dataset_path:
        raise TrainingError("no data: give --dataset-path with one or more folders of LeRobot datasets")
    sampling = Sampling(
        balance_datasets=options.balance_dataset_weights,
        balance_trajectories=options.balance_trajectory_weights,
        balance_instructions=options.balance_instruction_weights,
        seed=options.seed,
    )
    return Mixture.open(
        [Path(path) for path in options.dataset_path],
        weights=options.dataset_weights or None,
        cameras=options.cameras,
        sampling=sampling,
    )
