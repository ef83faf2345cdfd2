# SPDX-License-Identifier: Apache-2.0
"""The emulated arm of the campaign, in a process of its own, and a record of everything on its wire."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.timing import real_time_priority
from chefmate_driver.campaign.recording import Chunk, Direction, Mark, Recording
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.errors import FeetechError
from chefmate_driver.feetech.faults import Fault, FaultKind, FaultScript
from chefmate_driver.feetech.plant import SimplePlant

PRIORITY = 50  # of SCHED_FIFO, above the driver's loop
START_UP = 60.0  # s, of which imports on a busy machine take most
ANSWER = 10.0  # s for the other process to do what it was asked


class EmulatedServos:
    """Six servos behind a pty, made anew for each run."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there,), daemon=True)
        self._process.start()
        there.close()
        if not self._here.poll(START_UP):
            raise FeetechError(f"the campaign's servo process did not come up within {START_UP:g} s")
        self._here.recv()

    def close(self) -> None:
        """Ends the process."""
        self._here.close()
        self._process.join(2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def begin(self, calibration: Path, link: Path, pose: Sequence[float]) -> None:
        """A fresh arm at `pose` (rad), torque off, on a pty at `link`."""
        self._ask("begin", str(calibration), str(link), list(pose))

    def play(self, fault: Fault, seed: int) -> None:
        """Starts a script of this one fault now."""
        self._ask("play", FaultScript((fault,), seed).to_json())

    def events(self) -> list[tuple[float, bool]]:
        """When faults began (True) and ended (False), s, CLOCK_MONOTONIC."""
        return [(time, began) for time, began in self._ask("events")]

    def end(self) -> tuple[Recording, int]:
        """Takes the arm away; what was on its wire, and how many replies or commands were spoiled."""
        chunks, reconnections, spoiled = self._ask("end")
        recording = Recording([Chunk(when, Direction(who), data) for when, who, data in chunks])
        for when in reconnections:
            recording.mark(when, Mark.PORT_OPENED)
        return recording, spoiled

    def _ask(self, *words: Any) -> Any:
        try:
            self._here.send(words)
            if not self._here.poll(ANSWER):
                raise FeetechError(
                    f"the campaign's servo process did not answer {words[0]!r} for {ANSWER:g} s"
                )
            good, answer = self._here.recv()
        except (EOFError, ConnectionError) as error:
            raise FeetechError(f"the campaign's servo process died at {words[0]!r}") from error
        if not good:
            raise FeetechError(f"the campaign's servo process: {answer}")
        return answer


class _Bench:
    """What the process keeps between two words."""

    def __init__(self) -> None:
        self.port: EmulatedPort | None = None
        self.chunks: list[tuple[float, str, bytes]] = []

    def begin(self, calibration: str, link: str, pose: list[float]) -> None:
        self.chunks = []
        port = emulated_arm(Path(calibration), SimplePlant(pose), Path(link))
        port.tap = lambda now, data: self.chunks.append((now, Direction.COMMAND.value, data))
        port.reply_tap = lambda now, data: self.chunks.append((now, Direction.REPLY.value, data))
        port.start()
        self.port = port

    def play(self, script: str) -> None:
        assert self.port is not None
        self.port.play(FaultScript.from_json(script))

    def events(self) -> list[tuple[float, bool]]:
        assert self.port is not None
        return [(event.time, event.began) for event in self.port.events]

    def end(self) -> tuple[list[tuple[float, str, bytes]], list[float], int]:
        port, self.port = self.port, None
        assert port is not None
        port.close()
        back = [event.time for event in port.events if event.fault.kind is FaultKind.DISCONNECT]
        return self.chunks, back, sum(port.emulator.faults.counts.values())


def _serve(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the parent's affair
    # A witness that is late itself would accuse the driver; the port's thread inherits this.
    real_time_priority(PRIORITY)
    bench = _Bench()
    pipe.send("ready")
    while True:
        try:
            word, *rest = pipe.recv()
        except (EOFError, ConnectionError):
            break
        try:
            pipe.send((True, getattr(bench, word)(*rest)))
        except Exception as error:  # told to whoever asked
            pipe.send((False, repr(error)))
    if bench.port is not None:
        bench.port.close()
