# SPDX-License-Identifier: Apache-2.0
"""What a cycle of the servo bus costs: six servos, registers 56 to 70 read, goals written.

The servos are emulated in a process of their own, on a wire paced at 1 Mbit/s. Beside FeetechBus the same
work is done by a client of a few lines that checks nothing, and by LeRobot's bus class where that is
installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import serial

from chefmate_driver.arm.emulated import EmulatedArmProcess
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech import bench_lerobot
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.faults import Fault, FaultKind, FaultScript
from chefmate_driver.feetech.packet import BITS_PER_BYTE, encode_sync_read, encode_sync_write
from chefmate_driver.feetech.registers import FEEDBACK_ADDRESS, FEEDBACK_SIZE, decode_feedback, register
from chefmate_driver.feetech.timing import TimingReport, cycle_sizes, diagnose_timing

IDS = (1, 2, 3, 4, 5, 6)
BAUDRATE = 1_000_000
WIRE = sum(cycle_sizes(len(IDS))) * BITS_PER_BYTE / BAUDRATE  # s
RATE = 200.0  # Hz, the goal
ADDED = 0.0003  # s over the wire, the goal
SPIN = 0.0002  # s for which the emulator burns its core before a reply is due
ROUNDS = 3  # the clients take turns, so that a busy minute of the machine meets all of them
LEROBOT_PYTHON = "CHEFMATE_LEROBOT_PYTHON"  # names a Python that has LeRobot, if this one has not
PATIENCE = 0.2  # s of reply timeout: when this machine stalls, that is a long cycle and not a lost one
SLOW_DELAY = 250  # register 7 as servos come from the factory, 500 us


@dataclass(frozen=True)
class CycleFigures:
    """Cycles of one client, one straight after the other. Times in ms."""

    client: str
    cycles: int
    p50: float
    p99: float
    added_p50: float  # over the wire

    @property
    def rate(self) -> float:
        """Hz, at the median."""
        return 1e3 / self.p50

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "rate": self.rate}

    def as_text(self) -> str:
        """One line."""
        return (
            f"  {self.client:34} p50 {self.p50:6.3f} ms, p99 {self.p99:6.3f} ms, "
            f"{self.added_p50:+.3f} ms over the wire, {self.rate:4.0f} Hz"
        )


@dataclass(frozen=True)
class PacedFigures:
    """Cycles on an absolute grid. missed: grid places that a cycle ran over.

    bare_missed: the same of the bare client, for as long, in turn with this: what the machine itself misses.
    """

    wanted: float  # Hz
    rate: float  # Hz
    cycles: int
    missed: int
    bare_missed: int

    @property
    def held(self) -> bool:
        """Whether the loop kept up: at most one cycle in a thousand more than the bare client ran over."""
        return self.missed <= self.bare_missed + 1 + self.cycles // 1000

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "held": self.held}


@dataclass(frozen=True)
class BusFigures:
    """First row: wire alone. Second row: 1 ms USB frames and factory return delays."""

    seconds: float
    clients: tuple[CycleFigures, ...]
    paced: PacedFigures
    slow_clients: tuple[CycleFigures, ...]
    diagnosis: TimingReport
    slow_paced: PacedFigures
    lerobot: str  # version, or why it is not in the comparison

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        added = next(row.added_p50 for row in self.clients if row.client == CHEFMATE)
        return {
            "seconds": self.seconds,
            "servos": len(IDS),
            "baudrate": BAUDRATE,
            "wire_ms": 1e3 * WIRE,
            "lerobot": self.lerobot,
            "wire": {
                "clients": [row.as_json() for row in self.clients],
                "paced": self.paced.as_json(),
                "goals": {"rate": RATE, "held": self.paced.held, "added_ms": 1e3 * ADDED, "added": added}
                | {"added_met": added <= 1e3 * ADDED},
            },
            "usb_1ms_return_delay_250": {
                "clients": [row.as_json() for row in self.slow_clients],
                "diagnosis": {**asdict(self.diagnosis), "return_delays": self.diagnosis.return_delays},
                "paced": self.slow_paced.as_json(),
            },
        }

    def as_text(self) -> str:
        """A few lines for people."""
        lines = [f"6 servos, registers 56-70 read and goals written, wire alone {1e3 * WIRE:.2f} ms"]
        lines += [row.as_text() for row in self.clients]
        lines += [_paced_text(self.paced), f"  LeRobot: {self.lerobot}"]
        lines += [f"with 1 ms USB frames and return delay {SLOW_DELAY}"]
        lines += [row.as_text() for row in self.slow_clients]
        lines += [f"  {cause.text}: {cause.mend}" for cause in self.diagnosis.causes]
        return "\n".join((*lines, _paced_text(self.slow_paced)))


CHEFMATE, BARE, LEROBOT = "chefmate", "bare client", "lerobot"


def measure_bus(seconds: float = 10.0, progress: Callable[[str], None] = lambda text: None) -> BusFigures:
    """Measures for about four times `seconds`. Raises DriverError if the emulator or LeRobot fails."""
    slow = FaultScript(
        (Fault(FaultKind.USB_QUANTISATION), Fault(FaultKind.RETURN_DELAY, amount=float(SLOW_DELAY)))
    )
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "servos"
        with EmulatedArmProcess(link, pace=BAUDRATE, spin=SPIN):
            progress("servo bus on a paced wire")
            clients, version = _compare(str(link), seconds, with_lerobot=True)
            paced = _paced(str(link), RATE, seconds)
        with EmulatedArmProcess(link, pace=BAUDRATE, spin=SPIN, script=slow):
            progress("servo bus behind slow USB, servos that wait")
            slow_clients, _ = _compare(str(link), seconds / 3.0, with_lerobot=False)
            with FeetechBus(str(link), reply_timeout=PATIENCE) as bus:
                diagnosis = diagnose_timing(bus, IDS)
            slow_paced = _paced(str(link), min(RATE, diagnosis.holdable_rate), seconds)
    return BusFigures(seconds, clients, paced, slow_clients, diagnosis, slow_paced, version)


def cycle(bus: FeetechBus) -> None:
    """What the arm's loop does on the bus in each cycle: everything read and decoded, goals written."""
    blocks = bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, IDS)
    if len(blocks) < len(IDS):
        raise DriverError(f"{bus.port}: servos {sorted(set(IDS) - set(blocks))} did not answer in the bench")
    feedback = {id: decode_feedback(block) for id, block in blocks.items()}
    bus.sync_write("goal_position", {id: feedback[id].position for id in IDS})


def _compare(port: str, seconds: float, *, with_lerobot: bool) -> tuple[tuple[CycleFigures, ...], str]:
    times: dict[str, list[float]] = {BARE: [], CHEFMATE: []}
    version = "not in this row"
    for _ in range(ROUNDS):
        for client, work in CLIENTS.items():
            with work(port) as one_cycle:
                times[client] += _back_to_back(one_cycle, seconds / ROUNDS)
        if with_lerobot:
            version = _lerobot_times(port, seconds / ROUNDS, times)
    return tuple(_figures(client, found) for client, found in times.items()), version


def _figures(client: str, times: list[float]) -> CycleFigures:
    middle = statistics.median(times)
    p99 = sorted(times)[int(0.99 * len(times))]
    return CycleFigures(client, len(times), 1e3 * middle, 1e3 * p99, 1e3 * (middle - WIRE))


def _back_to_back(work: Callable[[], None], seconds: float) -> list[float]:
    starts = [time.perf_counter()]
    while starts[-1] - starts[0] < seconds:
        work()
        starts.append(time.perf_counter())
    return [end - start for start, end in pairwise(starts)]


@contextmanager
def _bare(port: str) -> Iterator[Callable[[], None]]:
    """A cycle of the least that a Python client can do: no checks, no decoding but the positions."""
    request = encode_sync_read(FEEDBACK_ADDRESS, FEEDBACK_SIZE, IDS)
    wanted = cycle_sizes(len(IDS))[1]
    size = wanted // len(IDS)
    goal = register("goal_position").address
    with serial.Serial(port, BAUDRATE, timeout=0, exclusive=True) as opened:
        descriptor = opened.fileno()

        def work() -> None:
            os.write(descriptor, request)
            data = b""
            while len(data) < wanted:
                if not select.select([descriptor], [], [], 0.5)[0]:
                    raise DriverError(f"{port}: {len(data)} of {wanted} bytes came in the bench")
                data += os.read(descriptor, 4096)
            places = {id: data[5 + place * size : 7 + place * size] for place, id in enumerate(IDS)}
            os.write(descriptor, encode_sync_write(goal, places))

        yield work


@contextmanager
def _chefmate(port: str) -> Iterator[Callable[[], None]]:
    """A cycle of FeetechBus."""
    with FeetechBus(port, reply_timeout=PATIENCE) as bus:
        yield lambda: cycle(bus)


CLIENTS = {BARE: _bare, CHEFMATE: _chefmate}


def _lerobot_times(port: str, seconds: float, times: dict[str, list[float]]) -> str:
    """Adds LeRobot's cycles to `times`; returns its version, or why it is left out."""
    python = os.environ.get(LEROBOT_PYTHON)
    if not python and importlib.util.find_spec("lerobot") is None:
        return f"not installed here ({LEROBOT_PYTHON} may name a Python that has it)"
    done = subprocess.run(
        [python or sys.executable, bench_lerobot.__file__, port, str(seconds)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise DriverError(f"LeRobot's bus failed in the bench: {done.stderr[-400:]}")
    document = json.loads(done.stdout.splitlines()[-1])
    times.setdefault(LEROBOT, []).extend(document["cycles"])
    times.setdefault(f"{LEROBOT}, positions alone", []).extend(document["public_cycles"])
    return str(document["version"])


def _paced(port: str, rate: float, seconds: float) -> PacedFigures:
    """Both clients on the grid, in turn."""
    cycles, missed, spent = dict.fromkeys(CLIENTS, 0), dict.fromkeys(CLIENTS, 0), 0.0
    for _ in range(ROUNDS):
        for client, work in CLIENTS.items():
            with work(port) as one_cycle:
                done, over, took = _on_grid(one_cycle, rate, seconds / ROUNDS)
            cycles[client] += done
            missed[client] += over
            spent += took if client == CHEFMATE else 0.0
    return PacedFigures(rate, cycles[CHEFMATE] / spent, cycles[CHEFMATE], missed[CHEFMATE], missed[BARE])


def _on_grid(work: Callable[[], None], rate: float, seconds: float) -> tuple[int, int, float]:
    """Cycles done, grid places run over, s that it took. After running over, the next place is waited for."""
    period, places = 1.0 / rate, int(seconds * rate)
    start = time.monotonic()
    done = missed = place = 0
    while place < places:
        if (left := start + place * period - time.monotonic()) > 0.0:
            time.sleep(left)
        work()
        done += 1
        reached = int((time.monotonic() - start) / period)
        missed += max(0, reached - place)
        place = max(reached, place) + 1
    if (left := start + place * period - time.monotonic()) > 0.0:
        time.sleep(left)
    return done, missed, time.monotonic() - start


def _paced_text(paced: PacedFigures) -> str:
    held = "held" if paced.held else "NOT held"
    return (
        f"  loop at {paced.wanted:.0f} Hz {held}: {paced.rate:.1f} Hz, "
        f"{paced.missed} of {paced.cycles} cycles ran over (bare client: {paced.bare_missed})"
    )
