# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of training on the GPU that is there: `python -m chefmate_policy.training.bench`.

Weights and data are random, sizes and steps are those of a run: rows drawn by the sampler, pictures of two
cameras on the device, crop and colours, passes, clipping, AdamW. Every row is a process of its own, so that
its peak memory is its own and an out-of-memory does not end the table. Memory is what torch reserved
(`torch.cuda.max_memory_reserved`, GB = 1e9 bytes, the context apart), from after the weights were drawn on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chefmate_policy.data.sampling import Run, Sampler, Sampling
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.groot.sizes import MEMBERS, PUBLISHED, member
from chefmate_policy.training.batches import Columns, Preparation, Rows, square_side
from chefmate_policy.training.forward import (
    FlowLoss,
    PromptTable,
    checkpoint_layers,
    freeze_embeddings,
    keep_dtype,
)
from chefmate_policy.training.optim import make_optimizer
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.start import autocast_of
from chefmate_policy.training.stepping import EAGER_STEPS, Stepper, compile_layers
from chefmate_policy.training.trainable import Trainable, make_trainable, slot_of

__all__ = ["ROWS", "Row", "main", "measure", "measure_here", "measure_options"]

Say = Callable[[str], None]
ALL_R32: dict[str, Any] = {"tune_llm": True, "tune_visual": True, "lora_rank": 32}
HEAD_R32: dict[str, Any] = {"lora_rank": 32}
LAYERS = ("SiglipEncoderLayer", "Qwen3DecoderLayer", "_FeatureBlock", "DiTBlock")


@dataclass(frozen=True)
class Row:
    """One configuration."""

    member: str
    batch: int
    options: dict[str, Any] = field(default_factory=dict)
    graph: bool = True
    compiled: bool = False
    again: bool = False  # activations are computed again
    limit: float | None = None  # GB that the process may take
    goal: str = ""

    @classmethod
    def of(cls, options: TrainOptions) -> Row:
        """A row of a run's options; a base that is no member counts as the published size."""
        name = options.base_model_path if options.base_model_path in MEMBERS else PUBLISHED
        again = options.gradient_checkpointing
        return cls(name, options.batch_size, compiled=options.compile, again=again)

    def train_options(self, device: str) -> TrainOptions:
        return TrainOptions(
            base_model_path=self.member,
            batch_size=self.batch,
            gradient_checkpointing=self.again,
            compile=self.compiled,
            device=device,
            **(self.options if self.member == PUBLISHED else {"tune_llm": True, "tune_visual": True}),
        )


ALL_B4, ALL_B16, HEAD_B16 = "<= 7 GB, <= 183 ms", "<= 12 GB, <= 253 ms", "<= 7 GB, <= 139 ms"
SMALL_GOAL = ">= 20,000 samples/s"
ROWS: dict[str, Row] = {
    "7m-graph": Row("small-7m", 1024, goal=SMALL_GOAL),
    "7m-compiled": Row("small-7m", 2048, compiled=True, goal=SMALL_GOAL),
    "3m-graph": Row("small-3m", 1024, goal=SMALL_GOAL),
    "3m-compiled": Row("small-3m", 2048, compiled=True, goal=SMALL_GOAL),
    "all-r32-b4-graph": Row(PUBLISHED, 4, ALL_R32, goal=ALL_B4),
    "all-r32-b4-again": Row(PUBLISHED, 4, ALL_R32, again=True, goal=ALL_B4),
    "all-r32-b16-again": Row(PUBLISHED, 16, ALL_R32, again=True, goal=ALL_B16),
    "all-r32-b16-both": Row(PUBLISHED, 16, ALL_R32, again=True, compiled=True, goal=ALL_B16),
    "head-r32-b16-graph": Row(PUBLISHED, 16, HEAD_R32, goal=HEAD_B16),
    "head-r32-b16-again": Row(PUBLISHED, 16, HEAD_R32, again=True, goal=HEAD_B16),
    "all-r32-b4-8gb": Row(PUBLISHED, 4, ALL_R32, again=True, limit=7.2, goal="fits 7.2 GB"),
    # not in the default table
    "all-r32-b1-again": Row(PUBLISHED, 1, ALL_R32, again=True),
    "all-r32-b16-compiled": Row(PUBLISHED, 16, ALL_R32, compiled=True, goal=ALL_B16),
    "all-r32-b8-again": Row(PUBLISHED, 8, ALL_R32, again=True),
    "all-r16-b8": Row(PUBLISHED, 8, ALL_R32 | {"lora_rank": 16}),
    "llm-r32-b4": Row(PUBLISHED, 4, {"tune_llm": True, "lora_rank": 32}),
    "llm-r16-b16-again": Row(PUBLISHED, 16, {"tune_llm": True, "lora_rank": 16}, again=True),
    "head-r16-b32": Row(PUBLISHED, 32, {"lora_rank": 16}),
    "head-whole-b8": Row(PUBLISHED, 8, {}),
    "7m-eager": Row("small-7m", 1024, graph=False),
    "3m-b4096": Row("small-3m", 4096, compiled=True),
    "7m-b4096": Row("small-7m", 4096, compiled=True),
}
DEFAULT = tuple(itertools.takewhile(lambda name: name != "all-r32-b1-again", ROWS))
SETS = {
    "small": tuple(name for name in DEFAULT if ROWS[name].member != PUBLISHED),
    "full": tuple(name for name in DEFAULT if ROWS[name].member == PUBLISHED),
    "fit": tuple(name for name in ROWS if name not in DEFAULT and ROWS[name].member == PUBLISHED),
}
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # older and newer name in torch
TIMEOUT = 200.0  # s of one row, compilation included
CAMERAS, JOINTS, EPISODE = 2, 6, 100
# tokens of the published prompt with an instruction of twelve: before, between and after the two images
BEFORE, BETWEEN, AFTER = 20, 7, 18


def synthetic_prompts(config: GrootConfig, count: int = 8) -> PromptTable:
    """Prompts of real lengths, some shorter, so that pads are there as in a run."""
    random, image = np.random.default_rng(0), config.image_token_index
    tokens = config.vision.tokens

    def words(number: int) -> list[int]:
        return [int(value) for value in random.integers(image + 1, image + 500, number)]

    if image > config.text.vocab_size - 600:  # published: image tokens stand at the vocabulary's end

        def words(number: int) -> list[int]:
            return [int(value) for value in random.integers(10, 100_000, number)]

    rows = []
    for number in range(count):
        row = words(BEFORE) + [image] * tokens + words(BETWEEN) + [image] * tokens
        rows.append(row + words(AFTER - number % 4))
    return PromptTable(rows, image, 0)


class Synthetic:
    """Random data in a run's form."""

    def __init__(self, config: GrootConfig, frames: int, device: torch.device) -> None:
        head, side = config.action_head, square_side(config.vision.image_size)
        random = torch.Generator(device).manual_seed(0)
        self.pictures = torch.randint(
            256, (frames, CAMERAS, side, side, 3), dtype=torch.uint8, device=device, generator=random
        )
        states, actions = (torch.zeros(frames, width) for width in (head.state_dim, head.action_dim))
        states[:, :JOINTS].uniform_(-1, 1)
        actions[:, :JOINTS].uniform_(-1, 1)
        ends = torch.arange(frames) // EPISODE * EPISODE + EPISODE
        texts = torch.arange(frames) // EPISODE % 8
        self.columns = Columns(
            states.to(device), actions.to(device), ends.clamp(max=frames).to(device), texts.to(device), JOINTS
        )
        runs = [
            Run(0, number, number % 8, start, min(start + EPISODE, frames))
            for number, start in enumerate(range(0, frames, EPISODE))
        ]
        self.sampler, self.device = Sampler(runs, Sampling()), device

    def batches(self, size: int) -> Iterator[Rows]:
        for number in itertools.count():
            draw = self.sampler.draw(number * size, size)
            both = torch.from_numpy(np.column_stack((draw.rows, draw.words.view(np.int64))))
            if self.device.type == "cuda":
                both = both.pin_memory().to(self.device, non_blocking=True)
            yield Rows(both[:, 0], both[:, 1:], self.pictures, True)


def build(row: Row, options: TrainOptions, device: torch.device) -> Trainable:
    """The row's model with random weights."""
    config = member(row.member)
    with torch.device("meta"):
        model = Groot(config, Parts.used(slot_of(config, options.embodiment_tag)))
    wanted = torch.bfloat16 if row.member == PUBLISHED and autocast_of(options, device) else torch.float32
    model = initialise(model.to(wanted).to_empty(device=device), 0)
    return make_trainable(model, options)


def measure_here(
    row: Row, seconds: float, device: torch.device, options: TrainOptions | None = None
) -> dict[str, Any]:
    """Figures of one row in this process. options: in place of the row's own."""
    started = time.perf_counter()
    cuda = device.type == "cuda"
    if cuda and row.limit is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(row.limit * 1e9 / total)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    options = options or row.train_options(device.type)
    trainable = build(row, options, device)
    model, config = trainable.model, trainable.model.config
    prompts = synthetic_prompts(config).to(device)
    freeze_embeddings(model, prompts, device)
    keep_dtype(model)
    if row.again:
        checkpoint_layers(model, compiled=row.compiled)
    elif row.compiled:
        compile_layers(model, LAYERS)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    data = Synthetic(config, 20_000 if cuda and row.member != PUBLISHED else 400, device)
    prepare = Preparation(config, data.columns, null=None, drop=0.0, augment=True)
    on_graph = cuda and row.graph
    stepper = Stepper(
        FlowLoss(model, prompts),
        prepare,
        trainable.parameters,
        make_optimizer(trainable.parameters, options, on_graph=on_graph),
        options,
        autocast=autocast_of(options, device),
        on_graph=on_graph,
    )
    trainable.train()
    batches, step = data.batches(row.batch), itertools.count()
    for _ in range(EAGER_STEPS + 2):
        stepper(next(step), batches)
    first, _ = stepper.taken()
    ready = time.perf_counter() - started
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or count < 5:
        for _ in range(5):
            stepper(next(step), batches)
        count += 5
        if cuda:
            torch.cuda.current_stream().synchronize()  # once in five steps: the clock has to be believed
    loss, _ = stepper.taken()
    spent = time.perf_counter() - began
    figures: dict[str, Any] = {
        "ms_per_step": 1e3 * spent / count,
        "samples_per_second": row.batch * count / spent,
        "steps": count,
        "seconds_to_ready": ready,
        "loss": [first, loss],
        "trained": sum(tensor.numel() for tensor in trainable.parameters.values()),
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
    }
    if cuda:
        figures["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
        figures["peak_allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
        figures["pictures_gb"] = data.pictures.numel() / 1e9
    return figures


def measure_options(options: TrainOptions, seconds: float = 4.0) -> dict[str, Any]:
    """Figures of a run's options on the GPU that is there, from a process of its own."""
    command = [sys.executable, "-m", "chefmate_policy.training.bench", "--device", "cuda"]
    command += ["--seconds", str(seconds), "--options", json.dumps(options.to_dict())]
    return _finished(command)


def _finished(command: list[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment())
    except subprocess.TimeoutExpired:
        return {"error": f"not ready within {TIMEOUT:g} s"}
    try:
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return failure(done)
    return figures if done.returncode == 0 else failure(done)


def measure(
    names: Sequence[str], seconds: float, device: str, say: Say, out: Path | None = None
) -> dict[str, Any]:
    """The table; rows that fail say why. out: written after each row, so that nothing is lost."""
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(device),
        "rows": {},
    }
    for name in names:
        row = ROWS[name]
        started = time.perf_counter()
        command = [sys.executable, "-m", "chefmate_policy.training.bench", "--row", name]
        command += ["--seconds", str(seconds), "--device", device]
        figures = _finished(command)
        about = {"member": row.member, "batch": row.batch, "goal": row.goal, "limit_gb": row.limit}
        found["rows"][name] = about | figures | {"process_seconds": time.perf_counter() - started}
        say(line(name, found["rows"][name]))
        if out is not None:
            out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def environment() -> dict[str, str]:
    """Of a row's process: torch grows what it has reserved instead of reserving anew."""
    return os.environ | dict.fromkeys(ALLOCATOR, "expandable_segments:True")


def failure(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    said = done.stderr.strip().splitlines()
    return {"error": said[-1][:300] if said else f"exit code {done.returncode}", "trace": said[-25:]}


def line(name: str, figures: dict[str, Any]) -> str:
    """A row for a terminal."""
    if "error" in figures:
        return f"{name:22s} {figures['error']}"
    memory = f"{figures['peak_reserved_gb']:6.2f} GB" if "peak_reserved_gb" in figures else ""
    return (
        f"{name:22s} {figures['ms_per_step']:8.1f} ms/step {figures['samples_per_second']:9.0f} samples/s"
        f" {memory}  ready in {figures['seconds_to_ready']:.0f} s  {figures['goal']}"
    )


def machine(device: str) -> str:
    if device == "cuda" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}"
    return f"{platform.processor() or platform.machine()}, torch {torch.__version__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table on standard error and one JSON document on standard output."""
    parser = argparse.ArgumentParser(prog="python -m chefmate_policy.training.bench", description=__doc__)
    known = ", ".join([*SETS, *ROWS])
    parser.add_argument("names", nargs="*", help=f"rows or sets: {known} (default: small full)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (default 8)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="file for the JSON, written after each row")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # one row in this process
    parser.add_argument(
        "--options", help=argparse.SUPPRESS
    )  # its TrainOptions as JSON, for any configuration
    options = parser.parse_args(arguments)
    if options.options:
        given = TrainOptions.from_dict(json.loads(options.options))
        row = Row.of(given)
        print(json.dumps(measure_here(row, options.seconds, torch.device(options.device), given)))
        return 0
    if options.row:
        print(json.dumps(measure_here(ROWS[options.row], options.seconds, torch.device(options.device))))
        return 0
    chosen = [name for given in options.names or ("small", "full") for name in SETS.get(given, (given,))]
    unknown = [name for name in chosen if name not in ROWS]
    if unknown:
        parser.error(f"no rows {', '.join(unknown)}; there are {known}")

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    found = measure(chosen, options.seconds, options.device, say, options.out)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
