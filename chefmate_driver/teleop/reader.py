# SPDX-License-Identifier: Apache-2.0
"""Reads a leader arm at a steady rate in a thread of its own, and finds it again after it was unplugged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from chefmate_driver.arm.timing import Grid
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.errors import BusProtocolError, ServoMissingError
from chefmate_driver.teleop.leader import Leader, Reading

# s between attempts to find a lost leader. Longer than the silence (0.25 s) after which the arm ends
# teleoperation, so that a leader that comes back never drives before somebody engages it again.
RECONNECT = 0.5


class ReaderState(Enum):
    """What the thread does."""

    STOPPED = "stopped"
    READING = "reading"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class ReaderStatus:
    """Figures of the reader. rate: Hz over the last second. age: s since the newest reading, None before the
    first. errors: replies lost or corrupt, of this connection. losses: how often the leader was lost."""

    state: ReaderState
    reason: str
    rate: float
    age: float | None
    readings: int
    errors: int
    losses: int


class LeaderReader:
    """Delivers complete readings, and nothing while there are none."""

    def __init__(
        self,
        open_leader: Callable[[], Leader],
        *,
        rate: float,
        answer_timeout: float,
        deliver: Callable[[Reading], None],
        say: Callable[[bool, str], None],
    ) -> None:
        """open_leader: also after a loss. rate: Hz. answer_timeout: s without a complete reading after which
        the leader counts as lost. deliver: called in the thread with each reading. say: called in the thread
        with each loss (False) and each return (True)."""
        self._open, self._answer_timeout = open_leader, answer_timeout
        self._deliver, self._say = deliver, say
        self._rate = rate
        self._grid = Grid(rate)
        self._leader: Leader | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._state, self._reason = ReaderState.STOPPED, ""
        self._readings = self._losses = 0
        self._heard: float | None = None

    def connect(self) -> None:
        """Finds the leader. Raises what opening raises."""
        self._leader = self._open()

    def start(self) -> None:
        """Begins to read. A reader runs once."""
        self._grid = Grid(self._rate)
        self._heard = time.monotonic()
        self._state = ReaderState.READING
        self._thread = threading.Thread(target=self._run, name="leader", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and frees the port."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._free()
        self._state = ReaderState.STOPPED

    def status(self) -> ReaderStatus:
        """The figures now. May be called from any thread."""
        leader, heard = self._leader, self._heard
        return ReaderStatus(
            self._state,
            self._reason,
            self._grid.statistics()[0] if self._state is ReaderState.READING else 0.0,
            time.monotonic() - heard if heard is not None and self._readings else None,
            self._readings,
            leader.errors if leader is not None else 0,
            self._losses,
        )

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._read_on()
            except DriverError as error:
                self._lost(str(error))
                self._find_again()

    def _read_on(self) -> None:
        """Until stopped. Raises what ends the connection."""
        leader = self._leader
        assert leader is not None
        while not self._stop.is_set():
            self._grid.wait()
            now = time.monotonic()
            try:
                reading = leader.read()
            except (ServoMissingError, BusProtocolError):
                if now - (self._heard or now) > self._answer_timeout:
                    raise
                continue  # a lost reply: this reading is left out
            self._heard = time.monotonic()
            self._readings += 1
            self._deliver(reading)

    def _lost(self, reason: str) -> None:
        self._state, self._reason = ReaderState.LOST, reason
        self._losses += 1
        self._free()
        self._say(False, reason)

    def _find_again(self) -> None:
        while not self._stop.wait(RECONNECT):
            try:
                self._leader = self._open()
            except DriverError as error:
                self._reason = str(error)
                continue
            self._grid, self._heard = Grid(self._rate), time.monotonic()
            self._state, self._reason = ReaderState.READING, ""
            self._say(True, "the leader answers again; teleoperation goes on only when it is engaged anew")
            return

    def _free(self) -> None:
        if self._leader is not None:
            self._leader.close()
            self._leader = None
