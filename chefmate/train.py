# SPDX-License-Identifier: Apache-2.0
"""`chefmate train`: a training run, with progress."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from chefmate import train_options
from chefmate.interrupting import interruptible
from chefmate_policy.errors import PolicyError

INTERRUPTED = 130
PLAIN_PERIOD = 20.0  # s between lines where there is no terminal for a bar
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # older and newer name in torch


def add(command: argparse.ArgumentParser) -> None:
    """Options of the command."""
    train_options.add(command)
    command.add_argument("--json", action="store_true", help="the result as one JSON document")


def train(options: argparse.Namespace) -> int:
    """Trains; 0: done, or stopped by --hours; 130: ctrl-C, after a checkpoint was written."""
    wanted = train_options.read(options)
    if wanted.num_gpus > 1 and "WORLD_SIZE" not in os.environ:
        return _in_processes(wanted.num_gpus)
    for name in ALLOCATOR:  # what torch has reserved grows instead of being reserved anew
        os.environ.setdefault(name, "expandable_segments:True")

    from chefmate_policy.training.run import train as run

    first = os.environ.get("RANK", "0") == "0"
    with interruptible() as interrupt, _Bar(quiet=options.json or not first) as bar:
        result = run(wanted, say=bar.say, stop=interrupt, watch=bar.watch)
    if not first:
        return INTERRUPTED if result.reason == "interrupted" else 0
    if options.json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        why = {"hours": f"stopped by --hours {wanted.hours}", "interrupted": "interrupted"}
        print(
            f"{why.get(result.reason, 'done')}: step {result.step} of {result.steps},"
            f" {result.samples_per_second:.1f} samples/s; drive with it:\n"
            f"    chefmate up --policy {result.merged or result.folder}"
        )
        if result.step < result.steps:
            print("go on: the same command with --resume")
    return INTERRUPTED if result.reason == "interrupted" else 0


class _Bar:
    """Progress of the steps, and lines above it; on standard error, plain where that is no terminal."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._plain = not quiet and not self._console.is_terminal
        self._task = self._progress.add_task("", total=None, figures="", visible=False)
        self._started, self._said = False, -PLAIN_PERIOD

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def watch(self, step: int, steps: int, figures: dict[str, float]) -> None:
        text = ""
        if figures:
            text = f"loss {figures['loss']:.4f}, {figures['samples_per_second']:.1f} samples/s"
        if not self._started:
            self._started = True
            self._progress.start()
        self._progress.update(self._task, completed=step, total=steps, figures=text, visible=True)
        now = time.monotonic()
        if self._plain and figures and (step == steps or now - self._said > PLAIN_PERIOD):
            self._said = now
            self.say(f"step {step} of {steps}: {text}")


def _in_processes(count: int) -> int:
    """The same command under torchrun, a process per GPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={count}", "-m", "chefmate.train", *own_arguments(sys.argv)]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def own_arguments(argv: Sequence[str]) -> list[str]:
    """What stands behind `chefmate train`, or behind `python -m chefmate.train`."""
    return list(argv[1:] if Path(argv[0]).name == Path(__file__).name else argv[2:])


def main() -> int:
    """Without ROS and without the `chefmate` command: `python -m chefmate.train CONFIG`."""
    parser = argparse.ArgumentParser(prog="python -m chefmate.train")
    add(parser)
    try:
        return train(parser.parse_args())
    except PolicyError as error:
        print(f"train: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
