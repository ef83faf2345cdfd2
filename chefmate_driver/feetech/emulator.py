# SPDX-License-Identifier: Apache-2.0
"""Emulated servos on a pty: a client opens the path and finds a Feetech bus.

emulator = ServoEmulator(joints, plant)
with EmulatedPort(emulator, link=Path("/tmp/arm")) as port:
    FeetechBus("/tmp/arm").ping(1)
    port.play(FaultScript((Fault(FaultKind.DISCONNECT, start=0.1, duration=0.5),)))
"""

from __future__ import annotations

import fcntl
import heapq
import math
import os
import random
import select
import sys
import threading
import time
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path

from chefmate_driver.feetech.emulated_bus import Reply, ServoEmulator
from chefmate_driver.feetech.errors import BusPortBusyError, FeetechError
from chefmate_driver.feetech.faults import Fault, FaultEvent, FaultKind, Faults, FaultScript
from chefmate_driver.feetech.packet import BITS_PER_BYTE, PacketParser

__all__ = ["EmulatedPort", "Faults", "ServoEmulator", "Tap"]

# Another thread may keep the interpreter for this long before this one gets its turn; Python's default of 5
# ms would be half a control cycle. A reply takes three turns.
SWITCH_INTERVAL = 0.0001  # s
UNFINISHED_AFTER = 0.02  # s, a packet that stopped arriving is forgotten

Tap = Callable[[float, bytes], None]  # (s on the monotonic clock, raw bytes as the master wrote them)


class EmulatedPort:
    """A pty whose other end is a servo bus, with a stable path. A context manager, or `start` and `close`.

    `tap` sees each chunk of bytes from the master before anything parses it, in the port's own thread; it
    must return soon and must not raise. It may be set at any time.
    """

    def __init__(
        self,
        emulator: ServoEmulator,
        link: Path | None = None,
        *,
        tap: Tap | None = None,
        pace: int = 0,
        spin: float = 0.0,
    ) -> None:
        """`link`: symbolic link to the pty, made by `start` and removed by `close`.

        pace: baud rate of the wire that bytes in both directions take their time on; 0: they take none. spin:
        s before a reply is due in which the port's thread burns its core instead of sleeping, for exact
        timing; only where it has a process and a core of its own.
        """
        self.emulator, self.link, self.tap = emulator, link, tap
        self.reply_tap: Tap | None = None  # as `tap`, for what goes to the master; may be set at any time
        self.pace, self.spin = pace, spin
        self.path = ""  # of the pty, once started
        self.requests = 0  # instruction packets seen
        self.connected = False  # whether the pty is there: False during FaultKind.DISCONNECT
        self.events: list[FaultEvent] = []  # what the played scripts did so far
        self._parser = PacketParser()
        self._master = self._slave = self._lock_file = -1
        self._wake_read, self._wake_write = -1, -1
        self._thread: threading.Thread | None = None
        self._closing = False
        self._scripts: deque[FaultScript] = deque()  # handed over to the port's thread
        self._agenda: list[
            tuple[float, int, bool, Fault]
        ] = []  # heap: time, number, whether it begins, fault
        self._number = 0
        self._outgoing: deque[tuple[float, bytes]] = deque()  # time when due, bytes
        self._line_free = 0.0  # s, when the wire has carried everything so far
        self._heard = 0.0  # s, when the newest bytes came

    def __enter__(self) -> EmulatedPort:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Opens the pty and answers from a thread of its own. FeetechError if the link's place is taken."""
        if self._thread is not None:
            raise FeetechError("this emulated port is already open")
        if self.link is not None:
            self._own_link(self.link)
        self._closing = False
        self._wake_read, self._wake_write = os.pipe()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))
        self._connect()
        self._thread = threading.Thread(target=self._serve, name="servo-emulator", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, closes the pty (clients see a lost port) and removes the link."""
        if self._thread is None:
            return
        self._closing = True
        os.write(self._wake_write, b"x")
        self._thread.join()
        self._thread = None
        self._disconnect()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def play(self, script: FaultScript) -> None:
        """Starts a script now, besides those that run already. `events` tells what happened when."""
        self._scripts.append(script)
        if self._thread is not None:
            os.write(self._wake_write, b"x")

    @property
    def quiet(self) -> bool:
        """Whether no fault is active and none is to come."""
        return not (self._scripts or self._agenda or self.emulator.faults.active)

    def _connect(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)  # kept open: without any reader's end the master only reports errors
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._parser.clear()
        self._outgoing.clear()
        self.connected = True
        if self.link is not None:
            fresh = self.link.with_name(f".{self.link.name}.{os.getpid()}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.path)
            fresh.replace(self.link)

    def _disconnect(self) -> None:
        if not self.connected:
            return
        self.connected = False
        self._outgoing.clear()  # replies that are due later have nowhere to go
        if self.link is not None and self.link.is_symlink() and os.readlink(self.link) == self.path:
            self.link.unlink()
        os.close(self._master)
        os.close(self._slave)

    def _own_link(self, link: Path) -> None:
        """Makes sure that no running emulator uses this link; a dead one's link may be replaced."""
        if link.exists() and not link.is_symlink():
            raise FeetechError(
                f"{link} exists and is no symbolic link; choose another path for the emulated port"
            )
        place = link.with_name(f".{link.name}.lock")
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise FeetechError(
                f"{link} cannot be made ({error.filename}: {error.strerror}); choose another path for the "
                "emulated port"
            ) from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_file)
            self._lock_file = -1
            raise BusPortBusyError(
                f"{link} already belongs to a running servo emulator; stop that one or choose another path"
            ) from None

    def _serve(self) -> None:
        while not self._closing:
            self._deliver()
            self._run_agenda()
            watched = [self._master, self._wake_read] if self.connected else [self._wake_read]
            ready, _, _ = select.select(watched, [], [], self._patience())
            if self._wake_read in ready:
                os.read(self._wake_read, 64)
            elif ready:
                self._take()

    def _patience(self) -> float | None:
        """s until something is due without any bytes coming in; None: nothing is."""
        due = [self._outgoing[0][0] - self.spin] if self._outgoing else []
        if self._agenda:
            due.append(self._agenda[0][0])
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _take(self) -> None:
        """Bytes from the master: each packet is executed, and its replies get their time."""
        try:
            data = os.read(self._master, 4096)
        except BlockingIOError:
            return
        now = time.monotonic()
        if self.tap is not None:
            self.tap(now, data)
        if self._parser.pending and now - self._heard > UNFINISHED_AFTER:
            self._parser.clear()
        self._heard = now
        at_once = b""
        start = max(now, self._line_free)
        self._line_free = start + self._wire_time(len(data))
        for packet in self._parser.feed(data):
            self.requests += 1
            for reply in self.emulator.answer(packet):
                due = self._due(reply)
                if due <= now and not self._outgoing:
                    at_once += reply.data
                elif reply.data:
                    self._outgoing.append((due, reply.data))
        if at_once:
            self._write(at_once)

    def _wire_time(self, size: int) -> float:
        return size * BITS_PER_BYTE / self.pace if self.pace else 0.0

    def _due(self, reply: Reply) -> float:
        """When the host gets a reply that is sent once the line is silent."""
        self._line_free += reply.delay + self._wire_time(reply.size)
        due = self._line_free + reply.late
        if self._outgoing:
            due = max(due, self._outgoing[-1][0])
        grid = self.emulator.faults.grid
        return math.ceil(due / grid) * grid if grid else due

    def _deliver(self) -> None:
        """Writes the replies that are due."""
        while self._outgoing:
            left = self._outgoing[0][0] - time.monotonic()
            if left > self.spin:
                return
            while left > 0.0:
                left = self._outgoing[0][0] - time.monotonic()
            self._write(self._outgoing.popleft()[1])

    def _write(self, data: bytes) -> None:
        if self.reply_tap is not None:
            self.reply_tap(time.monotonic(), data)
        try:
            os.write(self._master, data)
        except BlockingIOError:
            pass  # nobody reads and the buffer is full: the bytes are lost, as on a wire

    def _run_agenda(self) -> None:
        while self._scripts:
            script, began = self._scripts.popleft(), time.monotonic()
            with self.emulator.lock:
                self.emulator.faults.random = random.Random(script.seed)
            for fault in script.faults:
                self._plan(began + fault.start, True, fault)
                if fault.duration < math.inf:
                    self._plan(began + fault.start + fault.duration, False, fault)
        while self._agenda and self._agenda[0][0] <= time.monotonic():
            _, _, begins, fault = heapq.heappop(self._agenda)
            if begins:
                self.emulator.begin(fault)
            else:
                self.emulator.end(fault)
            if fault.kind is FaultKind.DISCONNECT and begins:
                self._disconnect()
            elif fault.kind is FaultKind.DISCONNECT and not self.emulator.faults.has(fault.kind):
                self._connect()
            self.events.append(FaultEvent(time.monotonic(), fault, begins))

    def _plan(self, when: float, begins: bool, fault: Fault) -> None:
        self._number += 1
        heapq.heappush(self._agenda, (when, self._number, begins, fault))
