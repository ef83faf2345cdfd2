# SPDX-License-Identifier: Apache-2.0
"""Steps of the study that are commands: each in a process of its own, as many at a time as GPUs and cores
allow. A step whose product is there is done; one that fails says why, and what does not need it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from chefmate.workers import die_with_parent

__all__ = ["RUNNING", "WAITING", "Machine", "Step", "Steps"]

DONE, FAILED, WAITING, RUNNING = "done", "failed", "waiting", "running"
PATIENCE = 10.0  # s from the polite signal to the other one
TAIL = 400  # characters of a log that say what went wrong
MOST_THREADS = 8  # of one process's numeric libraries


@dataclass(frozen=True)
class Step:
    """One command. made: the folder or file that is there once it is done. needs: names of steps before it.

    gpus: places on GPUs. cores: that it keeps busy. renders: number of the GPU that draws for it. late: may
    begin and run when the time of the others is over. tries: how often it is begun.
    """

    name: str
    command: tuple[str, ...]
    made: Path
    needs: tuple[str, ...] = ()
    gpus: int = 0
    cores: int = 1
    renders: int = 0
    late: bool = False
    tries: int = 1


@dataclass(frozen=True)
class Machine:
    """What there is. jobs: trainings at a time on one GPU."""

    gpus: int
    cores: int
    jobs: int = 1

    @property
    def places(self) -> int:
        return self.gpus * self.jobs


@dataclass
class _At:
    """A step at work."""

    process: subprocess.Popen[bytes]
    places: tuple[int, ...]
    started: float
    told: float | None = None  # when it was told to end


@dataclass
class Steps:
    """Runs steps. `turn` is called again and again from one thread."""

    steps: Sequence[Step]
    machine: Machine
    logs: Path
    say: Callable[[str], None]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        self.state = {step.name: DONE if step.made.exists() else WAITING for step in self.steps}
        self.seconds: dict[str, float] = {}
        self.failures: dict[str, str] = {}
        self._at: dict[str, _At] = {}
        self._tries: Counter[str] = Counter()
        self._by_name = {step.name: step for step in self.steps}

    @property
    def ended(self) -> bool:
        """Nothing runs and nothing will."""
        return not self._at and WAITING not in self.state.values()

    def done(self, name: str) -> bool:
        return self.state[name] == DONE

    def turn(self, begin: bool = True) -> None:
        """Looks after what runs, and begins what can. begin: False: nothing new is begun."""
        for name, at in list(self._at.items()):
            if at.process.poll() is not None:
                self._end(name, at)
            elif at.told is not None and time.monotonic() - at.told > PATIENCE:
                _signal(at.process, signal.SIGKILL)
        for step in self.steps:
            if self.state[step.name] != WAITING:
                continue
            broken = [need for need in step.needs if self.state[need] == FAILED]
            if broken:
                self._fail(step.name, f"left out, for {broken[0]} failed")
            elif not begin and not (step.late and all(self.done(need) for need in step.needs)):
                self._fail(step.name, "left out, for the time was over")
            elif all(self.done(need) for need in step.needs):
                self._try(step)

    def stop(self, why: str, late: bool = True) -> None:
        """Ends what runs. late: also what may run late."""
        for name, at in self._at.items():
            if at.told is None and (late or not self._by_name[name].late):
                self.failures[name] = why
                at.told = time.monotonic()
                _signal(at.process, signal.SIGTERM)

    def close(self) -> None:
        """Ends what runs, and waits for it; the rest is left out."""
        for name, state in self.state.items():
            if state == WAITING:
                self._fail(name, "left out")
        self.stop("stopped")
        while self._at:
            self.turn(begin=False)
            time.sleep(0.05)

    def _try(self, step: Step) -> None:
        """Begins a step if there is room: it always has room where nothing else runs."""
        wanted = min(step.gpus, self.machine.places)
        taken = [place for at in self._at.values() for place in at.places]
        free = [place for place in range(self.machine.places) if place not in taken]
        cores = self.machine.cores - sum(self._by_name[name].cores for name in self._at)
        if self._at and (len(free) < wanted or cores < step.cores):
            return
        load = [sum(place % self.machine.gpus == gpu for place in taken) for gpu in range(self.machine.gpus)]
        free.sort(key=lambda place: (load[place % self.machine.gpus], place))
        places = tuple(free[:wanted])
        log = self.logs / f"{step.name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, **self._devices(step, places)},
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGTERM),
            )
        self._at[step.name] = _At(process, places, time.monotonic())
        self.state[step.name] = RUNNING
        self._tries[step.name] += 1
        self.say(f"{step.name}: begun")

    def _devices(self, step: Step, places: Sequence[int]) -> dict[str, str]:
        threads = str(min(MOST_THREADS, max(1, step.cores)))
        found = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
        if not self.machine.gpus:
            return found
        gpus = sorted({place % self.machine.gpus for place in places})
        found["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        if not gpus and self.machine.gpus > 1:
            found["MUJOCO_EGL_DEVICE_ID"] = str(step.renders % self.machine.gpus)
        return found

    def _end(self, name: str, at: _At) -> None:
        del self._at[name]
        seconds = time.monotonic() - at.started
        if at.process.returncode == 0 and self._by_name[name].made.exists():
            self.state[name], self.seconds[name] = DONE, round(seconds, 1)
            self.failures.pop(name, None)
            self.say(f"{name}: done in {seconds:.0f} s")
            return
        log = (self.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip()
        why = self.failures.get(name) or f"exit {at.process.returncode}: {log[-TAIL:]}"
        if at.told is None and self._tries[name] < self._by_name[name].tries:
            self.state[name] = WAITING
            self.say(f"{name}: once more, after {why}")
        else:
            self._fail(name, why)

    def _fail(self, name: str, why: str) -> None:
        self.state[name], self.failures[name] = FAILED, why
        self.say(f"{name}: {why}")


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the step and its children: it leads a session of its own."""
    if process.poll() is None:
        os.killpg(process.pid, number)
