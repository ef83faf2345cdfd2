# SPDX-License-Identifier: Apache-2.0
"""Many runs, several at a time, under a watchdog."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from multiprocessing.connection import Connection, wait
from pathlib import Path

from chefmate_driver.campaign.plan import plan
from chefmate_driver.campaign.run import Result, Run
from chefmate_driver.campaign.servos import EmulatedServos
from chefmate_driver.errors import DriverError

LONGEST_RUN = 30.0  # s; a run takes about 3, and one that does not recover gives up before
START_UP = 60.0  # s for a worker's imports on a busy machine


class _Worker:
    """A process that carries runs out one after the other."""

    def __init__(self, folder: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, folder))
        self._process.start()
        there.close()
        self.seed: int | None = None
        self.deadline = 0.0

    def give(self, seed: int) -> None:
        fresh = self.deadline == 0.0
        self.seed, self.deadline = seed, time.monotonic() + LONGEST_RUN + (START_UP if fresh else 0.0)
        self.pipe.send(seed)

    def close(self, *, kill: bool = False) -> None:
        self.pipe.close()
        if not kill:
            self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def carry_out(
    seeds: Sequence[int],
    *,
    workers: int | None = None,
    failures: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """Results of the seeds' runs as they come.

    workers: runs at a time; None: two for each core, since a run mostly waits. failures: folder for the wire
    recordings of runs that broke a promise. stop: asked between results; True ends the campaign early.
    """
    left = list(seeds)
    count = min(workers or 2 * (os.cpu_count() or 1), len(left))
    pool = [_Worker(failures) for _ in range(count)]
    try:
        for worker in pool:
            worker.give(left.pop(0))
        while any(worker.seed is not None for worker in pool) and not stop():
            busy = [worker for worker in pool if worker.seed is not None]
            ready = wait([worker.pipe for worker in busy], timeout=0.5)
            for worker in busy:
                result = _outcome(worker, worker.pipe in ready)
                if result is None:
                    continue
                yield result
                if result.hang.startswith("the run"):
                    worker.close(kill=True)
                    pool[pool.index(worker)] = worker = _Worker(failures)
                worker.seed = None
                if left:
                    worker.give(left.pop(0))
    finally:
        for worker in pool:
            worker.close(kill=worker.seed is not None)


def _outcome(worker: _Worker, ready: bool) -> Result | None:
    """What a worker said, or that it hangs or died; None: it is at work."""
    assert worker.seed is not None
    if ready:
        try:
            return worker.pipe.recv()
        except EOFError:
            return _lost(worker.seed, "the run's process died")
    if time.monotonic() > worker.deadline:
        return _lost(worker.seed, f"the run took more than {LONGEST_RUN:g} s")
    return None


def _lost(seed: int, why: str) -> Result:
    drawn = plan(seed)
    return Result(seed, drawn.fault.kind.value, drawn.motion.value, hang=why)


def _work(pipe: Connection, failures: Path | None) -> None:
    from chefmate_driver.arm.calibration import find_calibration
    from chefmate_driver.campaign.table import breaks
    from chefmate_ros.share import share_file

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # ctrl-C reaches the whole group; the parent ends its workers
    calibration, parameters = find_calibration("twin"), share_file("config", "arm.yaml")
    servos: EmulatedServos | None = None
    with tempfile.TemporaryDirectory() as folder:
        while True:
            try:
                drawn = plan(pipe.recv())
            except (EOFError, ConnectionError):
                break
            servos = servos or EmulatedServos()
            run = Run(drawn, servos, Path(folder), calibration, parameters)
            try:
                result = run.carry_out()
            except (DriverError, FutureTimeoutError) as error:
                result = Result(drawn.seed, drawn.fault.kind.value, drawn.motion.value, problem=repr(error))
                servos.close()  # the next run gets fresh ones
                servos = None
            if failures is not None and breaks(result, drawn.fault_class):
                failures.mkdir(parents=True, exist_ok=True)
                run.recording.save(failures / f"seed-{drawn.seed}.jsonl")
            pipe.send(result)
    if servos is not None:
        servos.close()
