# SPDX-License-Identifier: Apache-2.0
"""`chefmate study OUT`: why fine-tunes ignore words: data, fine-tunes of one base, and trials of all.

Also `python -m chefmate.study`, where ROS 2 and the `chefmate` command are not installed. What is done is
kept in OUT; the same command goes on with the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chefmate.errors import ArgumentError, ChefmateError
from chefmate_driver.errors import DriverError
from chefmate_policy.errors import PolicyError

if TYPE_CHECKING:
    from chefmate.study_work import Work

__all__ = ["add", "main", "study"]

INTERRUPTED = 130
CONFIG = ("config", "study/obedience.yaml")
RESULTS, PAGE, PICTURE = "results.json", "study.md", "study.png"
TURN = 0.2  # s
WRITE_EVERY = 15.0  # s


def add(command: argparse.ArgumentParser) -> None:
    """Options of the command."""
    command.add_argument("out", type=Path, help="folder of everything that is made; resumable")
    command.add_argument("--config", type=Path, help="the study (default config/study/obedience.yaml)")
    command.add_argument(
        "--cells", metavar="A,B", help="cells alone whose names have one of these parts (default all)"
    )
    command.add_argument("--quick", action="store_true", help="a few steps of everything: does it run?")
    command.add_argument(
        "--report", action="store_true", help="from OUT/results.json alone: table and picture again"
    )
    command.add_argument("--gpus", type=int, help="GPUs to train on (default all there are)")
    command.add_argument("--jobs", type=int, default=1, help="trainings at a time on one GPU (default 1)")
    command.add_argument("--workers", type=int, help="processes (default: as many as cores)")
    limits = command.add_argument_group("limits, s (default: none, the counts of the study's file decide)")
    limits.add_argument("--seconds", type=float, help="of all; what is not begun is left out")
    limits.add_argument(
        "--reserve", type=float, default=0.0, help="of --seconds, kept for trials after the trainings"
    )
    limits.add_argument("--cell-seconds", type=float, help="of each fine-tune's steps, unfinished then")
    command.add_argument("--json", action="store_true", help="results.json on standard output")


def study(options: argparse.Namespace) -> int:
    """0: everything is done; 1: something failed or was left out, and what is there is reported.

    Raises ChefmateError, PolicyError, DriverError; KeyboardInterrupt after ctrl-C or SIGTERM.
    """
    from chefmate.progress import progress

    say = progress(options.json)
    if options.report:
        return _report(options, _read(options.out / RESULTS), 0)
    from chefmate.interrupting import interruptible
    from chefmate.study_work import Limits, Work
    from chefmate_policy.locking import held_alone
    from chefmate_policy.obedience.study import Study
    from chefmate_ros.share import share_file

    only = tuple(part for part in (options.cells or "").split(",") if part)
    plan = Study.load(options.config or share_file(*CONFIG), quick=options.quick, only=only)
    limits = Limits(options.seconds, options.reserve, options.cell_seconds)
    options.out.mkdir(parents=True, exist_ok=True)
    busy = ChefmateError(f"another process works in {options.out} already")
    with held_alone(options.out / "lock", busy), interruptible() as interrupt:
        work = Work(plan, options.out, limits, _machine(options), say)
        written = 0.0
        try:
            while not work.ended:
                interrupt.check()
                work.turn(TURN)
                if time.monotonic() - written > WRITE_EVERY:
                    written = time.monotonic()
                    _write(options, work)
        finally:
            work.close()
            results = _write(options, work)
    return _report(options, results, 1 if results["failures"] or results["missing"] else 0)


def _machine(options: argparse.Namespace) -> Any:
    from chefmate.study_steps import Machine

    gpus = options.gpus
    if gpus is None:
        import torch

        gpus = torch.cuda.device_count()
    if gpus < 0 or options.jobs < 1:
        raise ArgumentError(f"--gpus {gpus} --jobs {options.jobs}: GPUs from 0 on, jobs from 1 on")
    return Machine(gpus, options.workers or len(os.sched_getaffinity(0)), options.jobs)


def _write(options: argparse.Namespace, work: Work) -> dict[str, Any]:
    results = {"command": " ".join(["chefmate study", *sys.argv[_own(sys.argv) :]]), **work.results()}
    file = options.out / RESULTS
    part = file.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1), "utf-8")
    os.replace(part, file)
    return results


def _own(argv: list[str]) -> int:
    return 1 if argv and Path(argv[0]).name == Path(__file__).name else 2


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ChefmateError(f"{file} cannot be read: {error}") from error
    return found


def _report(options: argparse.Namespace, results: dict[str, Any], status: int) -> int:
    """Table and picture of what is there."""
    from chefmate_policy.obedience.study_report import draw, page

    text = page(results)
    (options.out / PAGE).write_text(text, "utf-8")
    try:
        draw(results, options.out / PICTURE)
    except ModuleNotFoundError as error:  # a machine for training may lack it: `--report` elsewhere
        print(f"no picture: {error.name} is not installed", file=sys.stderr)
    print(json.dumps(results, indent=1) if options.json else text)
    return status


def main() -> int:
    """Entry point without the `chefmate` command: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m chefmate.study", description=__doc__)
    add(parser)
    try:
        return study(parser.parse_args())
    except (ChefmateError, DriverError, PolicyError) as error:
        print(f"chefmate study: {error}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentError) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
