# SPDX-License-Identifier: Apache-2.0
"""Trials of the obedience instrument in parallel processes: resumable, in an order that partial results can
be read in."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chefmate.errors import ChefmateError
from chefmate.obey_log import TrialLog
from chefmate.workers import DIED, become_worker, one_thread_each
from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_driver.kitchen.render import import_mujoco
from chefmate_policy.obedience.battery import BY_ID
from chefmate_policy.obedience.trial import Outcome, Trial

if TYPE_CHECKING:
    from chefmate.closed_loop import ClosedLoop, Driver

__all__ = ["Latency", "Policy", "measure", "run_trials", "watch_trials"]

TIMED = 60  # inferences that tell the latency
WARM = 3  # inferences before those
POLL = 0.2  # s between looks at ctrl-C
FRAME_EVERY, FRAMES, FRAME_SIZE = 1.0, 6, (240, 180)  # s; pictures of a trial; pixels


@dataclass(frozen=True)
class Policy:
    """What is tried: the node's backend, checkpoint and parameters, and how long it has, s.

    options: the backend's (`model.*`). pick: until the named slice must lie on the plate. idle: how long
    nothing must be touched.
    """

    backend: str
    checkpoint: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    pick: float = 25.0
    idle: float = 10.0
    kitchen: KitchenConfig | None = None

    def loop(self, watch: Callable[..., None] | None = None) -> ClosedLoop:
        """Twin and policy, ready. Raises BackendError, KitchenError."""
        import_mujoco()
        from chefmate.closed_loop import ClosedLoop, Limits

        limits = Limits(pick=self.pick, idle=self.idle)
        return ClosedLoop(
            self.backend,
            self.checkpoint,
            kitchen=self.kitchen,
            limits=limits,
            watch=watch,
            options=self.options,
        )


@dataclass(frozen=True)
class Latency:
    """What an inference takes, s, cameras' delay included: by how much physics goes on meanwhile."""

    usual: float
    slow: float  # in the rows that say so

    def of(self, trial: Trial) -> float:
        """In one trial."""
        return self.slow if BY_ID[trial.last.row].slow else self.usual


class StoppedError(Exception):
    """The work is to stop."""


def measure(policy: Policy) -> tuple[float, float]:
    """p50 and p95 of an inference on this machine, s, cameras' delay included, in a process of its own.

    Raises BackendError, KitchenError, ChefmateError: the process died.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _start_worker, (policy, context.Event())) as pool:
        try:
            return pool.submit(_measure).result()
        except BrokenProcessPool:
            raise ChefmateError("the policy's process died while loading: too little memory?") from None


def run_trials(
    trials: Sequence[Trial],
    policy: Policy,
    latency: Latency,
    log: TrialLog,
    workers: int,
    stopped: Callable[[], bool] = lambda: False,
    report: Callable[[int, Outcome], None] = lambda done, outcome: None,
    seed: int = 0,
) -> dict[int, Outcome]:
    """Runs what the log lacks; returns all outcomes of these trials.

    stopped: looked at a few times a second; report(trials done, last outcome). Raises ChefmateError: a
    worker died; BackendError, KitchenError: the policy or the twin cannot be loaded.
    """
    known = log.outcomes()
    done = {trial.number: known[trial.number] for trial in trials if trial.number in known}
    left = [trial for trial in trials if trial.number not in done]
    order = np.random.default_rng([seed, 31]).permutation(len(trials))
    place = {trials[int(index)].number: at for at, index in enumerate(order)}
    left.sort(key=lambda trial: place[trial.number])
    one_thread_each()
    for outcome in _run(left, policy, latency, max(1, min(workers, len(left))), stopped):
        log.append(outcome)
        done[outcome.number] = outcome
        report(len(done), outcome)
    return done


def _run(
    trials: Sequence[Trial],
    policy: Policy,
    latency: Latency,
    workers: int,
    stopped: Callable[[], bool],
) -> Iterator[Outcome]:
    if not trials:
        return
    context = multiprocessing.get_context("spawn")  # a graphics context does not survive a fork
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _start_worker, (policy, stop)) as pool:
        try:
            waiting: set[Future[Outcome | None]] = {
                pool.submit(_work, trial, latency.of(trial)) for trial in trials
            }
            while waiting and not stopped():
                ended, waiting = wait(waiting, POLL, return_when=FIRST_COMPLETED)
                for future in ended:
                    if (outcome := future.result()) is not None:
                        yield outcome
        except BrokenProcessPool:
            raise ChefmateError(DIED) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def watch_trials(
    trials: Sequence[Trial], policy: Policy, latency: Latency, folder: Path, workers: int
) -> list[list[str]]:
    """Runs trials for the eye: for each a few scene camera pictures, FOLDER/FILE, in their order.

    The same trial with the same latency goes as it went before. Raises as `run_trials` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(workers, len(trials)))
    with ProcessPoolExecutor(workers, context, _start_worker, (policy, context.Event())) as pool:
        try:
            asked = [pool.submit(_film, trial, latency.of(trial), folder) for trial in trials]
            return [future.result() for future in asked]
        except BrokenProcessPool:
            raise ChefmateError(DIED) from None


_at_work: dict[str, Any] = {}  # a worker's policy, closed loop and stop flag


def _start_worker(policy: Policy, stop: Any) -> None:
    become_worker()
    _at_work.update(policy=policy, stop=stop)


def _loop() -> ClosedLoop:
    """Loaded by the first task, so that the parent hears what is wrong."""
    if "loop" not in _at_work:
        _at_work["loop"] = _at_work["policy"].loop(_watch)
    loop: ClosedLoop = _at_work["loop"]
    return loop


def _watch(driver: Driver, trial: Trial) -> None:
    if _at_work["stop"].is_set():
        raise StoppedError
    film = _at_work.get("film")
    if film is not None and driver.now >= FRAME_EVERY * len(film):
        film.append(driver.studio.views()["scene"])


def _film(trial: Trial, latency: float, folder: Path) -> list[str]:
    import cv2  # here, for the `chefmate` command imports this module

    film: list[Any] = []
    _at_work["film"] = film
    _work(trial, latency)
    del _at_work["film"]
    files = []
    for number in sorted({round(at) for at in np.linspace(0, len(film) - 1, min(FRAMES, len(film)))}):
        small = cv2.resize(film[number], FRAME_SIZE, interpolation=cv2.INTER_AREA)
        file = folder / f"{trial.number}-{FRAME_EVERY * number:04.1f}s.png"
        cv2.imwrite(str(file), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        files.append(f"{folder.name}/{file.name}")
    return files


def _work(trial: Trial, latency: float) -> Outcome | None:
    with contextlib.suppress(StoppedError):
        loop = _loop()
        loop.driver.latency = latency
        started = time.perf_counter()
        outcome = loop.run(trial)
        return Outcome.from_dict(
            {
                **outcome.to_dict(),
                "more": {**outcome.more, "cost": round(time.perf_counter() - started, 2)},
            }
        )
    return None


def _measure() -> tuple[float, float]:
    driver = _loop().driver
    taken = [driver.timed() for _ in range(WARM + TIMED)][WARM:]
    return float(np.percentile(taken, 50)), float(np.percentile(taken, 95))
