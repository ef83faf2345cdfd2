# SPDX-License-Identifier: Apache-2.0
"""Options of `chefmate obey`, read and checked."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chefmate import graph
from chefmate.errors import ArgumentError
from chefmate.obey_log import policy_digest
from chefmate.obey_trials import Policy
from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import Stock
from chefmate_policy.obedience import battery
from chefmate_policy.obedience.sayings import Kitchen
from chefmate_policy.obedience.trial import NULL, Trial

__all__ = ["LATENCIES", "Wanted", "add"]

INTERVAL = 0.04  # half-width; 219 trials a row, and goals ask for 200
QUICK_PICK, QUICK_IDLE = 20.0, 6.0  # s
QUICK_SECONDS = 330.0  # of trials, so that all of it takes less than ten minutes
LATENCIES = ("p50", "p95")


def add(command: argparse.ArgumentParser) -> None:
    """Options of the command."""
    command.add_argument("policy", help="as in `up`: kitchen, expert, folder or hub id, tcp://host:port")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")
    command.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="folder of figures, trials and page (default out/obey-NAME)",
    )
    command.add_argument("--quick", action="store_true", help="fewer trials: 10 minutes on two cores")
    many = command.add_mutually_exclusive_group()
    many.add_argument(
        "--interval",
        type=float,
        default=INTERVAL,
        help=f"half-width of a row's interval at a share of 0.9: how many trials (default {INTERVAL})",
    )
    many.add_argument("--trials", type=int, metavar="N", help="trials of a row instead")
    command.add_argument("--rows", nargs="+", metavar="ROW", choices=tuple(battery.BY_ID), help="these alone")
    command.add_argument("--seed", type=int, default=0, help="of scenes, words and noise (default 0)")
    command.add_argument(
        "--seconds", type=float, help="stop the trials after that; figures are of what is done (--quick: 330)"
    )
    command.add_argument("--workers", type=int, help="processes (default: as many as cores)")
    command.add_argument(
        "--latency",
        default="p50",
        help="what an inference takes in the twin: p50 or p95 as measured here, or s (default p50)",
    )
    command.add_argument("--checks", choices=("all", "offline", "trials"), default="all", help="default all")
    command.add_argument(
        "--graph", type=int, default=0, metavar="N", help="trials to repeat in the real graph"
    )
    command.add_argument(
        "--graph-rows",
        nargs="+",
        default=["named"],
        metavar="ROW",
        choices=tuple(battery.BY_ID),
        help="of these (default named)",
    )
    command.add_argument("--data", type=Path, help="dataset that the policy was trained on, for more checks")
    command.add_argument(
        "--base", default="", help="base checkpoint, where the policy's own note is elsewhere"
    )
    command.add_argument("--device", default="auto", help="cuda, cpu (default: cuda where there is one)")
    command.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="parameters model.* of the backend, for example guidance=1.5",
    )
    command.add_argument(
        "--kitchen", type=Path, help="scene of the twin (default: config/kitchen_scene.yaml)"
    )
    command.add_argument(
        "--phrasings", type=Path, help="words and what is held out (default: config/phrasings.yaml)"
    )


@dataclass(frozen=True)
class Wanted:
    """The command line, read and checked."""

    name: str
    policy: Policy
    folder: Path
    plan: tuple[Trial, ...]
    per_row: int | None
    kitchen: Kitchen
    workers: int
    seconds: float  # of trials
    options: argparse.Namespace

    @classmethod
    def of(cls, options: argparse.Namespace) -> Wanted:
        """Raises ArgumentError, KitchenError, PhrasingError."""
        parameters = graph.policy_parameters(options.policy)
        kitchen = KitchenConfig.load(options.kitchen)
        backend, checkpoint = parameters["backend"], parameters.get("checkpoint", "")
        limits = {"pick": QUICK_PICK, "idle": QUICK_IDLE} if options.quick else {}
        table = Kitchen(
            tuple(kitchen.stock),
            Stock(kitchen.tray.slots, dict(kitchen.stock)),
            Phrasings.load(options.phrasings),
        )
        per_row = _per_row(options)
        _latency(options.latency)
        rows = options.rows or [row.id for row in battery.ROWS if row.about != NULL or backend == "local"]
        name = Path(options.policy).name or options.policy
        return cls(
            name,
            Policy(
                backend,
                checkpoint,
                _model_options(options, backend),
                kitchen=kitchen if options.kitchen else None,
                **limits,
            ),
            options.report or _folder(name, options.quick),
            battery.plan(table, options.seed, per_row, rows),
            per_row,
            table,
            options.workers or len(os.sched_getaffinity(0)),
            options.seconds or (QUICK_SECONDS if options.quick else math.inf),
            options,
        )

    def about(self, latency: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the outcomes, to tell whether trials can go on."""
        return {
            "policy": policy_digest(self.policy.backend, self.policy.checkpoint),
            "model": dict(self.policy.options),
            "limits": {"pick": self.policy.pick, "idle": self.policy.idle},
            "seed": self.options.seed,
            "per_row": self.per_row,
            "rows": sorted({trial.last.row for trial in self.plan}),
            "trials": battery.digest(self.plan),
            "kitchen": str(self.policy.kitchen or ""),
            "latency": latency,
        }


def _folder(name: str, quick: bool) -> Path:
    """Where the report goes unless told."""
    safe = re.sub(r"[^\w.-]+", "_", name)
    return Path("out") / f"obey-{safe}{'-quick' if quick else ''}"


def _per_row(options: argparse.Namespace) -> int | None:
    """Trials of a row; None: quick mode's."""
    if options.trials is not None:
        if options.trials < 1:
            raise ArgumentError(f"--trials {options.trials}: at least 1")
        return int(options.trials)
    if options.quick:
        return None
    try:
        return battery.trials_for(options.interval)
    except ValueError as error:
        raise ArgumentError(f"--interval: {error}") from None


def _model_options(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """The backend's `model.*` parameters."""
    found: dict[str, Any] = {}
    for entry in options.model:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise ArgumentError(f"--model {entry!r}: write NAME=VALUE")
        found[name] = value.split(",") if "," in value else value
    if backend == "local":
        found |= {"device": options.device} if options.device != "auto" else {}
        found |= {"base": options.base} if options.base else {}
    return found


def _latency(text: str) -> str | float:
    """p50, p95 or s. Raises ArgumentError."""
    if text in LATENCIES:
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 5.0:
        raise ArgumentError(f"--latency {text}: use p50, p95 or 0 to 5 s")
    return value
