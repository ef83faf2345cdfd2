# SPDX-License-Identifier: Apache-2.0
"""`chefmate bench loop` and `chefmate bench faults`: the driver's punctuality, its conduct under faults."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from chefmate.errors import ArgumentError
from chefmate.interrupting import interruptible
from chefmate_driver.arm.bench import measure_loop
from chefmate_driver.campaign.pool import carry_out
from chefmate_driver.campaign.run import Result
from chefmate_driver.campaign.table import as_json, breaks, class_of, rows
from chefmate_policy.intervals import rate, words

RATES = (100.0, 200.0)  # Hz, of the loop's measurements
SHOWN = 20  # failed runs that are printed in words


def bench_loop(seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Lateness at each rate, idle and beside a busy core; `seconds` each."""
    measured = []
    with interruptible() as interrupt:
        for rate_hz in RATES:
            for busy in (False, True):
                if interrupt.asked:
                    break
                figures = measure_loop(rate_hz, seconds, busy=busy)
                say(figures.as_text())
                measured.append(figures)
        interrupted = interrupt.asked
    return {
        "measurements": [figures.as_json() for figures in measured],
        "met": all(figures.met for figures in measured),
        "interrupted": interrupted,
    }


def bench_faults(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """The campaign's runs. Wire recordings of runs that broke a promise go to a folder.

    Raises:
        ArgumentError: --runs or --workers is not positive, or --seed is negative.
    """
    for name, least in (("runs", 1), ("seed", 0), ("workers", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ArgumentError(f"--{name} {value} is less than {least}.")
    folder = options.out or Path("out") / datetime.now().strftime("bench-%Y-%m-%dT%H-%M-%S")
    with interruptible() as interrupt:
        return _campaign(options, folder / "faults", say, lambda: interrupt.asked)


def _campaign(
    options: argparse.Namespace, folder: Path, say: Callable[[str], None], stop: Callable[[], bool]
) -> dict[str, Any]:
    runs, quiet = options.runs, options.json
    console = Console(stderr=True, quiet=quiet)
    seeds = range(options.seed, options.seed + runs)
    results: list[Result] = []
    begun = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not sys.stderr.isatty()) as progress:
        bar = progress.add_task("faults", total=runs)
        for result in carry_out(seeds, workers=options.workers, failures=folder, stop=stop):
            results.append(result)
            progress.advance(bar)
            if broken := breaks(result, class_of(result)):
                progress.console.print(f"seed {result.seed} ({result.fault}): {'; '.join(broken[:3])}")
    document = as_json(results)
    document["seconds"] = time.monotonic() - begun
    document["interrupted"] = len(results) < runs
    if results:
        for name in ("violations", "hangs", "unnamed"):
            document[f"{name}_rate"] = rate(document[name], len(results))
        say(table(results))
        for name in ("violations", "hangs", "unnamed"):
            say(f"runs with {name}: {words(document[f'{name}_rate'])}")
        for run in document["failed"][:SHOWN]:
            say(f"seed {run['seed']} ({run['fault']}, {run['motion']}): {'; '.join(run['breaks'][:3])}")
        if document["failed"]:
            say(f"recordings in {folder}; once more: chefmate bench faults --runs 1 --seed SEED")
    return document


def table(results: list[Result]) -> str:
    """A text table, a row for each class."""
    drawn = Table(box=None, pad_edge=False)
    heads = ("fault", "runs", "viol.", "hangs", "unnamed", "failed", "stopped", "reaction ms", "recovery s")
    for index, head in enumerate(heads):
        drawn.add_column(head, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows(results):
        drawn.add_row(
            row.fault,
            *map(
                str, (row.runs, row.violations, row.hangs, row.unnamed, row.problems + row.late, row.stopped)
            ),
            _pair(row.reaction, 1e3, 0),
            _pair(row.recovery, 1.0, 2),
        )
    text = io.StringIO()
    Console(width=110, file=text).print(drawn)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _pair(spread: tuple[float, float] | None, scale: float, digits: int) -> str:
    """Median and longest."""
    if spread is None:
        return "-"
    return " / ".join(f"{scale * value:.{digits}f}" for value in spread)
