# SPDX-License-Identifier: Apache-2.0
"""How late the arm node's goals leave, against its absolute time grid.

The node runs as it is, in a process of its own; its servos are emulated in another, where each chunk of
bytes is stamped when it comes out of the pty. A bare loop that only sleeps on a grid of the same rate, with
the same scheduling, runs beside it: what that one loses, no loop can keep.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.timing import real_time_priority

PRIORITY = 40  # of the loop, config/arm.yaml's realtime_priority
WITNESS_PRIORITY = 50  # above the loop: the clock that it is measured by must not be late itself
SETTLE = 1.0  # s of motion before the figures begin: imports, first allocations
START_UP = 60.0  # s for the node to come up on a busy machine
GOALS_OF = 0.97  # share of the window's places that must have a goal, else something was not measured
SWING, PERIOD = 0.3, 4.0  # rad and s of the sine that the shoulder pan follows meanwhile


@dataclass(frozen=True)
class Lateness:
    """One loop against its grid. Times in ms."""

    p50: float
    p99: float
    worst: float
    cycles: int
    missed: int  # places of the grid without a cycle that began before the next place

    @classmethod
    def of(cls, stamps: Sequence[float], phase: float, period: float, begin: float, end: float) -> Lateness:
        """stamps: s, one for each cycle; phase: s, any place of the grid; begin, end: s, what counts."""
        first, last = math.ceil((begin - phase) / period), math.floor((end - phase) / period)
        late: dict[int, float] = {}
        for stamp in stamps:
            place = math.floor((stamp - phase) / period)
            if first <= place < last:
                late.setdefault(place, stamp - phase - place * period)
        if not late:
            raise ArmError("no cycle fell into the time that was measured")
        ordered = sorted(late.values())
        return cls(
            p50=1e3 * ordered[len(ordered) // 2],
            p99=1e3 * ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)],
            worst=1e3 * ordered[-1],
            cycles=len(ordered),
            missed=last - first - len(ordered),
        )


@dataclass(frozen=True)
class LoopFigures:
    """One measurement."""

    rate: float  # Hz
    load: str  # "idle" or "one busy core"
    seconds: float
    scheduling: str  # what the loop's thread got
    driver: Lateness
    bare: Lateness
    # The same goals when the node hands their first byte to the kernel; what `driver` has more is the pty's
    # and the witness's: the kernel moves a pty's bytes in a worker of normal priority.
    written: Lateness | None = None

    @property
    def goal(self) -> float:
        """ms, p99 that is promised."""
        return 1.0 if self.load == "idle" else 2.0

    @property
    def met(self) -> bool:
        """Whether both promises are kept: p99, and at most one missed cycle more than the bare loop."""
        return self.driver.p99 <= self.goal and self.driver.missed <= self.bare.missed + 1

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "p99_goal": self.goal, "met": self.met}

    def as_text(self) -> str:
        """One line."""
        driver, bare, written = self.driver, self.bare, self.written
        handed = f" (written p50 {written.p50:.3f} p99 {written.p99:.3f})" if written else ""
        return (
            f"{self.rate:g} Hz, {self.load}, {self.seconds:g} s ({self.scheduling}): p50 {driver.p50:.3f} "
            f"p99 {driver.p99:.3f} worst {driver.worst:.2f} ms{handed}, missed {driver.missed}; "
            f"bare loop p50 {bare.p50:.3f} p99 {bare.p99:.3f} worst {bare.worst:.2f} ms, "
            f"missed {bare.missed}; p99 goal "
            f"{self.goal:g} ms: {'met' if self.met else 'MISSED'}"
        )


def measure_loop(rate: float, seconds: float, *, busy: bool, priority: int = PRIORITY) -> LoopFigures:
    """Runs the node for `seconds` at `rate` Hz. busy: beside a process that burns one core. priority: of
    SCHED_FIFO for both loops, 0 for none. ArmError if a part of the measurement fails."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        witness = _Child(stack, "witness", str(folder / "arm"))
        witness.expect("ready", 20.0)
        driver = _Child(stack, "driver", str(folder), str(rate), str(seconds), str(priority))
        begin = float(driver.expect("moving", START_UP))
        if busy:
            _Child(stack, "burner")
        bare = _Child(stack, "bare", str(rate), str(begin + SETTLE + seconds), str(priority))
        seen = driver.result(seconds + SETTLE + 30.0)
        beside = bare.result(30.0)
        stamps = witness.ask_result(20.0)
    begin += SETTLE
    figures = LoopFigures(
        rate,
        "one busy core" if busy else "idle",
        seconds,
        seen["scheduling"],
        Lateness.of(stamps, seen["phase"], 1.0 / rate, begin, begin + seconds),
        Lateness.of(beside["stamps"], beside["phase"], 1.0 / rate, begin, begin + seconds),
        Lateness.of(seen["written"], seen["phase"], 1.0 / rate, begin, begin + seconds),
    )
    if figures.driver.cycles < GOALS_OF * rate * seconds:
        raise ArmError(
            f"only {figures.driver.cycles} goals in {seconds:g} s at {rate:g} Hz: "
            f"{seen['state']} {seen['reason']}"
        )
    return figures


class _Child:
    """A part of the measurement in a process of its own; it ends with the stack."""

    def __init__(self, stack: ExitStack, *words: str) -> None:
        self.name = words[0]
        environment = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # ctrl-C is the parent's affair
        )
        stack.callback(self._end)

    def expect(self, word: str, timeout: float) -> str:
        """The rest of the line that begins with `word`."""
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        try:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if line.startswith(word):
                    return line[len(word) :].strip()
        finally:
            timer.cancel()
        raise ArmError(
            f"the benchmark's {self.name} process ended, or hung for {timeout:g} s, before {word!r}"
        )

    def result(self, timeout: float) -> Any:
        """What it prints at its end."""
        return json.loads(self.expect("result", timeout))

    def ask_result(self, timeout: float) -> Any:
        """Tells it to end; what it prints then."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.result(timeout)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def _say(word: str, value: object = "") -> None:
    print(word, value, flush=True)


def _witness(link: str) -> None:
    """The servos, and when each goal came out of the pty."""
    from chefmate_driver.arm.calibration import find_calibration
    from chefmate_driver.arm.emulated import emulated_arm
    from chefmate_driver.feetech.plant import SimplePlant

    stamps: list[float] = []

    def tap(now: float, data: bytes) -> None:
        # A goal: sync write (0x83) from register 42, the first packet of the chunk.
        if len(data) > 6 and data[4] == 0x83 and data[5] == 42:
            stamps.append(now)

    real_time_priority(WITNESS_PRIORITY)  # the port's thread inherits it
    port = emulated_arm(find_calibration("twin"), SimplePlant([0.0, -1.0, 0.8, 0.8, 0.0, 0.3]), Path(link))
    port.tap = tap
    with port:
        _say("ready")
        sys.stdin.read()
    _say("result", json.dumps(stamps))


def _driver(folder: str, rate: str, seconds: str, priority: str) -> None:
    """The node itself, following a sine."""
    from chefmate_driver.arm.controller import ArmState
    from chefmate_driver.arm.ending import EndRequest, run
    from chefmate_driver.arm.node import ArmNode
    from chefmate_driver.arm.servos import ArmServos

    written: list[float] = []

    genuine = ArmServos.send

    def send(servos: ArmServos, goals: Mapping[int, bytes]) -> None:
        written.append(time.monotonic())
        genuine(servos, goals)

    ArmServos.send = send  # type: ignore[method-assign, assignment]
    parameters = {
        "port": f"{folder}/arm",
        "calibration": "twin",
        "rate": rate,
        "torque_on_start": "true",
        "park_on_shutdown": "false",
        "realtime_priority": priority,
        "black_box_folder": folder,
    }
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    made: list[ArmNode] = []

    def make(end: EndRequest) -> ArmNode:
        made.append(ArmNode(end))
        return made[0]

    def follow() -> None:
        duration = float(seconds) + 2.0 * SETTLE
        while not made or made[0].loop is None or made[0].loop.controller.state is not ArmState.HOLDING:
            time.sleep(0.01)
        node = made[0]
        node.take_trajectory(_sine(duration))
        _say("moving", time.monotonic())
        time.sleep(duration - 0.5 * SETTLE)
        loop = node.loop
        assert loop is not None
        result = {
            "phase": loop.grid.due,
            "scheduling": loop.scheduling,
            "state": loop.controller.state.value,
            "reason": loop.controller.reason,
            "written": written,
        }
        _say("result", json.dumps(result))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=follow, daemon=True).start()
    run(make, ["--ros-args", *words])


def _sine(duration: float) -> Any:
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    from chefmate_driver.arm.model import JOINT_NAMES

    message = JointTrajectory(joint_names=list(JOINT_NAMES))
    for index in range(1, round(duration / 0.1) + 1):
        due = 0.1 * index
        angle = SWING * math.sin(2.0 * math.pi * due / PERIOD) * min(due, 1.0)
        point = JointTrajectoryPoint(positions=[angle, -1.0, 0.8, 0.8, 0.0, 0.3])
        point.time_from_start.sec = int(due)
        point.time_from_start.nanosec = round((due - int(due)) * 1e9)
        message.points.append(point)
    return message


def _bare(rate: str, until: str, priority: str) -> None:
    """A loop that does nothing but keep its grid."""
    real_time_priority(int(priority))
    period, stamps = 1.0 / float(rate), []
    due = phase = time.monotonic()
    while due < float(until) + 1.0:
        due += period
        now = time.monotonic()
        if due > now:
            time.sleep(due - now)
            now = time.monotonic()
        due += int((now - due) / period) * period
        stamps.append(now)
    _say("result", json.dumps({"phase": phase, "stamps": stamps}))


def _burner() -> None:
    while True:
        pass


def _main(name: str, words: list[str]) -> None:
    parts: dict[str, Callable[..., None]] = {
        "witness": _witness,
        "driver": _driver,
        "bare": _bare,
        "burner": _burner,
    }
    parts[name](*words)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
