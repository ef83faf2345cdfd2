# SPDX-License-Identifier: Apache-2.0
"""The work of `chefmate study`: which commands make what, which trials are run of it, what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from chefmate.errors import ChefmateError
from chefmate.obey_log import TrialLog, policy_digest
from chefmate.study_pool import Subject, TrialPool
from chefmate.study_steps import RUNNING, WAITING, Machine, Step, Steps
from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import Stock
from chefmate_policy.obedience.battery import digest
from chefmate_policy.obedience.sayings import Kitchen
from chefmate_policy.obedience.study import (
    BASE,
    LOOK,
    LOOK_BASE,
    UNTUNED,
    Run,
    Study,
    write_kitchen,
    write_start,
)
from chefmate_policy.obedience.study_trials import base_plan, figures, plan
from chefmate_policy.obedience.trial import Outcome, Trial
from chefmate_policy.training.checkpoints import Origin
from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.params import PUBLISHED_ID, planned

__all__ = ["Limits", "Work"]

PART_CORES = 16  # of a dataset's processes
TRAIN_CORES = 3  # of a training on a GPU
LOOK_CORES = 1
FIRST = 20  # trials of each run that come before the rest of any


@dataclass(frozen=True)
class Limits:
    """s; None: none. total: of all; reserve: of it, for trials after the trainings; cell: of one training's
    steps."""

    total: float | None = None
    reserve: float = 0.0
    cell: float | None = None


class Work:
    """Everything that is made in one folder. `turn` again and again until `ended`, then `close`.

    Raises ChefmateError: the folder holds another study.
    """

    def __init__(
        self, study: Study, out: Path, limits: Limits, machine: Machine, say: Callable[[str], None]
    ) -> None:
        self.study, self.out, self.limits, self.machine, self.say = study, out, limits, machine, say
        self._started = time.monotonic()
        self._begin()
        self._data_steps: list[str] = []
        self.steps = Steps(list(self._steps()), machine, out / "logs", say)
        kitchen = KitchenConfig.load(self._kitchen)
        stock, phrasings = Stock(kitchen.tray.slots, dict(kitchen.stock)), Phrasings.load(self._phrasings)
        own = Kitchen(study.ingredients, stock, phrasings)
        trials = plan(Kitchen(tuple(kitchen.stock), stock, phrasings), study.trials, study.pair)
        self._plans = {BASE: base_plan(own, study.trials), UNTUNED: trials}
        self._plans |= {run.name: trials for run in study.runs}
        self._outcomes: dict[str, dict[int, Outcome]] = {}
        self._logs: dict[str, TrialLog] = {}
        self._failures: dict[str, str] = {}
        self._pool: TrialPool | None = None
        self._told, self._closed = 0, False
        self._shares: dict[tuple[str, bool], dict[str, int]] = {}
        say(f"{len(study.runs)} runs of {len(study.cells)} cells, LoRA rank {study.rank}, {machine}")

    # --- what is made ---------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Notes the plan, or goes on with an equal one; cells may come and go."""
        told = {key: value for key, value in self.study.raw.items() if key != "cells"}
        file = self.out / "plan.json"
        if not file.exists():
            file.write_text(json.dumps(told, indent=1), "utf-8")
        elif json.loads(file.read_text("utf-8")) != json.loads(json.dumps(told)):
            raise ChefmateError(f"{self.out} was begun with another study; name another folder")
        if not (self.out / "start").exists():
            write_start(self.study, self.out / "start")
        self._kitchen, self._phrasings = write_kitchen(self.study, self.out)

    def _steps(self) -> Iterator[Step]:
        """In the order in which they are begun where there is room."""
        study, data = self.study, self.out / "data"
        for part, name in enumerate(study.datasets):
            yield self._data(name, data / name, part)
        for run in study.runs:
            options = study.train_options(
                run, self._policy(BASE), data / run.cell.data, self._run_folder(run.name), self.limits.cell
            )
            yield self._training(run, options)
        yield self._look(BASE, LOOK_BASE, None)
        yield self._look(UNTUNED, LOOK, None)
        for run in study.runs:
            yield self._look(run.name, LOOK, run)

    def _data(self, name: str, folder: Path, part: int) -> Step:
        cores = min(self.machine.cores, PART_CORES)
        command = [sys.executable, "-m", "chefmate.data_generate", str(folder), "--workers", str(cores)]
        command += [*self.study.data_arguments(name), "--json"]
        command += ["--kitchen", str(self._kitchen), "--phrasing-table", str(self._phrasings)]
        self._data_steps.append(name)
        made = folder / "meta" / "info.json"
        return Step(name, tuple(command), made, cores=cores, renders=part, tries=2)

    def _training(self, run: Run, options: dict[str, Any]) -> Step:
        file = self.out / "runs" / f"{run.name}.yaml"
        file.parent.mkdir(exist_ok=True)
        if not self._on_gpus:
            options = {**options, "device": "cpu"}
        if any(self._run_folder(run.name).glob("checkpoint-*")):
            options = {**options, "resume": True}
        file.write_text(yaml.safe_dump(options, sort_keys=False), "utf-8")
        cores = TRAIN_CORES if self._on_gpus else self.machine.cores
        command = (sys.executable, "-m", "chefmate.train", str(file))
        made = self._policy(run.name) / "training" / "run.json"
        return Step(run.name, command, made, (run.cell.data,), 1, cores, tries=2)

    def _look(self, name: str, data: str, run: Run | None) -> Step:
        """The offline checks; of the base where run is None."""
        options, made = self.study.model_options(run), self.out / "looks" / f"{name}.json"
        made.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "chefmate.study_look", str(self._policy(name))]
        command += [str(self.out / "data" / data), str(made), "--embodiment", options["embodiment"]]
        command += ["--guidance", str(options.get("guidance", 1.0))]
        needs = (data, *([name] if run else []))
        return Step(f"look-{name}", tuple(command), made, needs, cores=LOOK_CORES, late=True)

    @property
    def _on_gpus(self) -> bool:
        return self.machine.gpus > 0

    def _run_folder(self, name: str) -> Path:
        return self.out / "runs" / name

    def _policy(self, name: str) -> Path:
        return self.out / "start" if name in (BASE, UNTUNED) else self._run_folder(name) / "merged"

    def _made(self, name: str) -> bool:
        """Whether there is a policy to be tried."""
        return name in (BASE, UNTUNED) or self.steps.done(name)

    # --- going on -------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """There is nothing left to do, or no time to do it."""
        spent, total = time.monotonic() - self._started, self.limits.total
        if total is not None and spent > total:
            return True
        tried = len(self._outcomes) == self._there() and (self._pool is None or self._pool.idle)
        return self.steps.ended and tried

    def turn(self, patience: float) -> None:
        """Looks after everything for about `patience` s."""
        spent, total = time.monotonic() - self._started, self.limits.total
        in_time = total is None or spent < total - self.limits.reserve
        self.steps.turn(begin=in_time)
        if not in_time:
            self.steps.stop("stopped, for the time was over", late=False)
        if self.steps.ended or (self._on_gpus and not self._generating):  # else others need the cores first
            for name in self._plans:
                if self._made(name) and name not in self._outcomes:
                    self._give(name)
        if self._pool is None or self._pool.idle:
            time.sleep(patience)
            return
        for name, outcome in self._pool.turn(patience):
            self._outcomes[name][outcome.number] = outcome
            self._logs[name].append(outcome)
        self._failures |= {f"trials of {name}": why for name, why in self._pool.failures.items()}
        done = sum(map(len, self._outcomes.values()))
        if done >= self._told + 100:
            self._told = done
            self.say(f"{done} of {sum(len(self._plans[name]) for name in self._outcomes)} trials")

    def close(self) -> None:
        """Ends what runs; what is done is kept."""
        if self._closed:
            return
        self._closed = True
        self.steps.close()
        if self._pool is not None:
            self._pool.close()

    @property
    def _generating(self) -> bool:
        return any(self.steps.state[name] in (WAITING, RUNNING) for name in self._data_steps)

    def _there(self) -> int:
        return sum(self._made(name) for name in self._plans)

    def _give(self, name: str) -> None:
        """Queues the trials of a policy that the log lacks."""
        trials, counts = self._plans[name], self.study.trials
        run = {run.name: run for run in self.study.runs}.get(name)
        checkpoint, options = str(self._policy(name)), self.study.model_options(run)
        limits = {"pick": counts.pick, "idle": counts.idle_seconds}
        log = TrialLog(self.out / "trials" / name)
        log.folder.mkdir(parents=True, exist_ok=True)
        policy = policy_digest("local", checkpoint)
        log.begin(
            {
                "policy": policy,
                "model": options,
                "limits": limits,
                "latency": counts.latency,
                "trials": digest(trials),
            }
        )
        known = log.outcomes()
        self._logs[name] = log
        self._outcomes[name] = {
            trial.number: known[trial.number] for trial in trials if trial.number in known
        }
        left = [trial for trial in trials if trial.number not in known]
        if not left:
            return
        if self._pool is None:
            spare = self.machine.places // 2
            self._pool = TrialPool(max(1, self.machine.cores - spare), self.machine.gpus)
        subject = Subject(name, checkpoint, options, counts.latency, limits, self._kitchen)
        main = 2 * (counts.base_pairs if name == BASE else counts.pairs)
        self._pool.give(subject, left, [_order(trial, main) for trial in left])

    # --- what came of it ------------------------------------------------------------------------------------

    def results(self) -> dict[str, Any]:
        """For JSON."""
        rows = []
        groups: list[tuple[str, Any, list[Run]]] = [(name, None, []) for name in (BASE, UNTUNED)]
        groups += [(c.name, c, [run for run in self.study.runs if run.cell == c]) for c in self.study.cells]
        for row, cell, runs in groups:
            names = [run.name for run in runs] or [row]
            ran = {
                name: (self._plans[name], self._outcomes[name]) for name in names if name in self._outcomes
            }
            rows.append(
                {
                    "cell": row,
                    "data": cell.data if cell else row,
                    "trainable": cell.trainable if cell else "-",
                    "prompt": cell.prompt if cell else "image-first",
                    "plant": cell.plant if cell else "none",
                    "guidance": cell.guidance if cell else 1.0,
                    "parameters": self._parameters(runs[0]) if runs else None,
                    "runs": [self._run(name) for name in names],
                    "figures": figures(ran, self.study.pair),
                }
            )
        failures = {**self.steps.failures, **self._failures}
        missing = {
            name: len(trials) - len(self._outcomes.get(name, {}))
            for name, trials in self._plans.items()
            if len(self._outcomes.get(name, {})) < len(trials)
        }
        return {
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": f"{self.machine.gpus} GPUs, {self.machine.cores} cores ({platform.machine()})",
            "seconds": round(time.monotonic() - self._started, 1),
            "rank": self.study.rank,
            "own": list(self.study.ingredients),
            "pair": list(self.study.pair),
            "base_sha256": Origin.of(BASE, self.out / "start").sha256,
            "published_rank": self.study.raw["published_rank"],
            "trials": vars(self.study.trials),
            "datasets": self._datasets(),
            "rows": rows,
            "step_seconds": self.steps.seconds,
            "failures": failures,
            "missing": missing,  # trials by run
        }

    def _datasets(self) -> dict[str, Any]:
        found = {}
        for folder in sorted((self.out / "data").glob("*")):
            info = folder / "meta" / "info.json"
            if info.exists():
                told = json.loads(info.read_text("utf-8"))
                found[folder.name] = {
                    "episodes": told["total_episodes"],
                    "frames": told["total_frames"],
                    "sha256": hashlib.sha256(_bytes(folder / "meta" / "chefmate.json")).hexdigest(),
                }
        return found

    def _run(self, name: str) -> dict[str, Any]:
        """How a training went, and what the offline checks found."""
        found: dict[str, Any] = {"name": name, "state": self.steps.state.get(name, "given")}
        file = self._policy(name) / "training" / "run.json"
        if name not in (BASE, UNTUNED) and file.exists():
            told = json.loads(file.read_text("utf-8"))
            options = told["options"]
            each = options["batch_size"] * options["gradient_accumulation_steps"]
            found |= {
                "seed": options["seed"],
                "steps": told["step"],
                "of": options["max_steps"],
                "samples": told["step"] * each,
                "seconds": round(told["seconds"], 1),
                "loss": told["figures"].get("loss"),
                "held_out": (told["figures"].get("held_out") or {}).get("loss"),
                "base": told["base"].get("sha256"),
                "software": told["software"],
            }
        look = self.out / "looks" / f"{name}.json"
        if look.exists():
            checks = json.loads(look.read_text("utf-8"))["checks"]
            found["look"] = {
                check["check"]: {
                    "verdict": check["verdict"],
                    "line": check["line"].replace(f"{self.out.resolve()}/", ""),  # of one machine
                    "figures": check["figures"] if check["check"] == "gap" else None,
                }
                for check in checks
            }
        return found

    def _parameters(self, run: Run) -> dict[str, dict[str, int]]:
        """What trains: here, and with the published model under the same options at its own rank."""
        key = run.cell.trainable
        options = self.study.train_options(run, self.out / "start", Path("data"), Path("out"))
        published = {**options, "base_model_path": PUBLISHED_ID}
        if options["lora_rank"]:
            published["lora_rank"] = self.study.raw["published_rank"]
        for where, given in ((False, options), (True, published)):
            if (key, where) not in self._shares:
                self._shares[key, where] = _trained(given)
        return {"here": self._shares[key, False], "published": self._shares[key, True]}


def _order(trial: Trial, main: int) -> int:
    """What comes first over all runs: the beginning of the `main` first trials, their rest, then others."""
    return 0 if trial.number < min(FIRST, main) else 1 if trial.number < main else 2


def _trained(options: Mapping[str, Any]) -> dict[str, int]:
    """Raises ChefmateError."""
    try:
        total = planned(TrainOptions.from_dict(dict(options))).total
    except TrainingError as error:
        raise ChefmateError(str(error)) from error
    return {"trained": total.trainable, "held": total.held}


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else os.fsencode(file)
