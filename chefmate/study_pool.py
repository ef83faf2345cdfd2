# SPDX-License-Identifier: Apache-2.0
"""Trials of many policies in one pool of processes, most important first."""

from __future__ import annotations

import heapq
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chefmate.errors import ChefmateError
from chefmate.workers import DIED, become_worker, one_thread_each
from chefmate_driver.errors import DriverError
from chefmate_policy.errors import PolicyError
from chefmate_policy.obedience.trial import Outcome, Trial

if TYPE_CHECKING:
    from chefmate.closed_loop import ClosedLoop

__all__ = ["Subject", "TrialPool"]

AHEAD = 2  # trials of each worker that are given out
KEPT = 3  # policies that a worker keeps loaded
RESTARTS = 3  # of the pool, after a worker died


@dataclass(frozen=True)
class Subject:
    """A policy that is tried. limits: arguments of Limits; latency: s of an inference in the twin. kitchen:
    the scene file, the same for all subjects of a pool."""

    name: str
    checkpoint: str
    options: Mapping[str, Any]
    latency: float
    limits: Mapping[str, float]
    kitchen: Path | None = None


@dataclass(order=True)
class _Wanted:
    """A trial in the queue; what is not to be compared is left out."""

    rank: tuple[int, int, int]
    subject: Subject = field(compare=False)
    trial: Trial = field(compare=False)


class TrialPool:
    """Processes that run trials. gpus: on which they draw, in turn; 0: on what the renderer chooses."""

    def __init__(self, workers: int, gpus: int = 0) -> None:
        one_thread_each()
        self._workers, self._gpus, self._restarts = workers, gpus, 0
        self._queue: list[_Wanted] = []
        self._running: dict[Future[Outcome], _Wanted] = {}
        self._given = 0
        self.failures: dict[str, str] = {}
        self._pool = self._begin()

    def give(self, subject: Subject, trials: Sequence[Trial], order: Sequence[int]) -> None:
        """Queues trials. order: of each trial, what comes before what over all policies."""
        for trial, first in zip(trials, order, strict=True):
            self._given += 1
            heapq.heappush(self._queue, _Wanted((first, self._given, trial.number), subject, trial))

    @property
    def idle(self) -> bool:
        """Nothing is queued, nothing runs."""
        return not self._queue and not self._running

    def turn(self, patience: float) -> list[tuple[str, Outcome]]:
        """Outcomes that came within `patience` s, each with its subject's name. Raises ChefmateError: workers
        die again and again."""
        self._fill()
        if not self._running:
            return []
        ended, _ = wait(self._running, patience, return_when=FIRST_COMPLETED)
        found: list[tuple[str, Outcome]] = []
        for future in ended:
            wanted = self._running.pop(future)
            try:
                found.append((wanted.subject.name, future.result()))
            except BrokenProcessPool:
                self._running[future] = wanted
                self._again()
                break
            except (PolicyError, DriverError, ChefmateError) as error:
                self.failures[wanted.subject.name] = str(error)
                self._queue = [item for item in self._queue if item.subject.name != wanted.subject.name]
                heapq.heapify(self._queue)
        self._fill()
        return found

    def close(self) -> None:
        """Leaves what is not begun, and ends the processes."""
        self._queue.clear()
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()

    def _begin(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a graphics context does not survive a fork
        counter = context.Value("i", 0)
        return ProcessPoolExecutor(self._workers, context, _start_worker, (counter, self._gpus))

    def _fill(self) -> None:
        while self._queue and len(self._running) < AHEAD * self._workers:
            wanted = heapq.heappop(self._queue)
            try:
                self._running[self._pool.submit(_work, wanted.subject, wanted.trial)] = wanted
            except BrokenProcessPool:
                heapq.heappush(self._queue, wanted)
                self._again()

    def _again(self) -> None:
        """A new pool; what the old one had is queued once more."""
        self._restarts += 1
        if self._restarts > RESTARTS:
            raise ChefmateError(DIED)
        for wanted in self._running.values():
            heapq.heappush(self._queue, wanted)
        self._running.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._begin()


_at_work: dict[str, Any] = {}  # a worker's closed loop, and its drivers by policy


def _start_worker(counter: Any, gpus: int) -> None:
    become_worker()
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if gpus > 1:
        os.environ["MUJOCO_EGL_DEVICE_ID"] = str(number % gpus)


def _work(subject: Subject, trial: Trial) -> Outcome:
    loop = _loop(subject)
    return loop.run(trial)


def _loop(subject: Subject) -> ClosedLoop:
    """The worker's twin, with the subject's driver."""
    import torch

    from chefmate_driver.kitchen.config import KitchenConfig
    from chefmate_driver.kitchen.render import import_mujoco

    import_mujoco()
    from chefmate.closed_loop import ClosedLoop, Driver, Limits

    torch.set_num_threads(1)
    given: dict[str, Any] = {"latency": subject.latency, "options": subject.options}
    drivers: dict[str, Driver] = _at_work.setdefault("drivers", {})
    if "loop" not in _at_work:
        kitchen = KitchenConfig.load(subject.kitchen)
        _at_work["loop"] = ClosedLoop("local", subject.checkpoint, kitchen=kitchen, **given)
        drivers[subject.name] = _at_work["loop"].driver
    loop: ClosedLoop = _at_work["loop"]
    if subject.name not in drivers:
        drivers[subject.name] = Driver(loop.studio, "local", subject.checkpoint, **given)
        if len(drivers) > KEPT:
            drivers.pop(next(iter(drivers))).close()
    loop.driver = drivers[subject.name]
    loop.limits = Limits(**subject.limits)
    return loop
