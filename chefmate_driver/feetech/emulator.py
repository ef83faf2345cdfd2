# SPDX-License-Identifier: Apache-2.0
"""Emulated servos on a pty: a client opens the path and finds a Feetech bus.

emulator = ServoEmulator(joints, plant)
with EmulatedPort(emulator, link=Path("/tmp/arm")):
    FeetechBus("/tmp/arm").ping(1)
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import sys
import threading
import time
import tty
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chefmate_driver.feetech.emulated_servo import EmulatedServo, ServoJoint
from chefmate_driver.feetech.errors import BusPortBusyError, FeetechError
from chefmate_driver.feetech.packet import BROADCAST_ID, Instruction, Packet, PacketParser, encode
from chefmate_driver.feetech.plant import ServoPlant

# Another thread may keep the interpreter for this long before this one gets its turn; Python's default of 5
# ms would be half a control cycle. A reply takes three turns.
SWITCH_INTERVAL = 0.0001  # s
UNFINISHED_AFTER = 0.02  # s, a packet that stopped arriving is forgotten


@dataclass
class Faults:
    """What goes wrong between the servos and the wire. Change it while the emulator runs."""

    silent: set[int] = field(default_factory=set)  # ids that answer nothing
    drop: float = 0.0  # share of replies that get lost, 0..1
    corrupt: float = 0.0  # share of replies with one wrong byte, 0..1
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def apply(self, id: int, reply: bytes) -> bytes:
        """The reply as it comes out of the cable."""
        if id in self.silent or (self.drop and self.random.random() < self.drop):
            return b""
        if self.corrupt and self.random.random() < self.corrupt:
            place = self.random.randrange(len(reply))
            return (
                reply[:place] + bytes((reply[place] ^ (1 << self.random.randrange(8)),)) + reply[place + 1 :]
            )
        return reply


class ServoEmulator:
    """Servos that share one bus: instruction packets in, status packets out."""

    def __init__(
        self, joints: Sequence[ServoJoint], plant: ServoPlant, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`joints` in the plant's order, torque off."""
        self.servos = [EmulatedServo(joint, plant, index, clock) for index, joint in enumerate(joints)]
        self.faults = Faults()
        self.lock = threading.Lock()  # for whoever looks into the servos while the port's thread runs

    def answer(self, packet: Packet) -> bytes:
        """Executes one instruction packet; returns what the servos put on the wire."""
        with self.lock:
            return self._answer(packet)

    def _answer(self, packet: Packet) -> bytes:
        code, parameters = packet.code, packet.parameters
        if code == Instruction.SYNC_READ and len(parameters) >= 2:
            address, size = parameters[0], parameters[1]
            servos = {servo.id: servo for servo in self.servos}
            asked = (servos[id] for id in parameters[2:] if id in servos)
            return b"".join(self._reply(servo, servo.read(address, size)) for servo in asked)
        if code == Instruction.SYNC_WRITE and len(parameters) >= 2:
            self._sync_write(parameters[0], parameters[1], parameters[2:])
            return b""
        replies = []
        for servo in self.servos:
            if packet.id in (servo.id, BROADCAST_ID) and servo.id not in self.faults.silent:
                reply = self._execute(servo, code, parameters)
                if packet.id != BROADCAST_ID:
                    replies.append(reply)
        return b"".join(replies)

    def _sync_write(self, address: int, size: int, entries: bytes) -> None:
        servos = {servo.id: servo for servo in self.servos}
        for start in range(0, len(entries) - size, size + 1):
            id = entries[start]
            if id in servos and id not in self.faults.silent:
                servos[id].write(address, entries[start + 1 : start + 1 + size])

    def _execute(self, servo: EmulatedServo, code: int, parameters: bytes) -> bytes:
        if code == Instruction.PING:
            return self._reply(servo, b"")
        if code == Instruction.READ and len(parameters) == 2:
            return self._reply(servo, servo.read(parameters[0], parameters[1]))
        id = servo.id  # the answer to a change of id comes from the old one
        if code == Instruction.WRITE and parameters:
            servo.write(parameters[0], parameters[1:])
        elif code == Instruction.REG_WRITE and parameters:
            servo.register_write(parameters[0], parameters[1:])
        elif code == Instruction.ACTION:
            servo.action()
        else:
            return b""  # a servo ignores what it does not know
        if servo.get("response_level") == 0:
            return b""
        return self.faults.apply(id, encode(id, servo.status))

    def _reply(self, servo: EmulatedServo, data: bytes) -> bytes:
        return self.faults.apply(servo.id, encode(servo.id, servo.status, data))


class EmulatedPort:
    """A pty whose other end is a servo bus, with a stable path. A context manager, or `start` and `close`."""

    def __init__(self, emulator: ServoEmulator, link: Path | None = None) -> None:
        """`link`: symbolic link to the pty, made by `start` and removed by `close`."""
        self.emulator, self.link = emulator, link
        self.path = ""  # of the pty, once started
        self.requests = 0  # instruction packets seen
        self._parser = PacketParser()
        self._master = self._slave = self._lock_file = -1
        self._wake_read = self._wake_write = -1
        self._thread: threading.Thread | None = None

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
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)  # kept open: without any reader's end the master only reports errors
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._wake_read, self._wake_write = os.pipe()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))
        self._thread = threading.Thread(target=self._serve, name="servo-emulator", daemon=True)
        self._thread.start()
        if self.link is not None:
            fresh = self.link.with_name(f".{self.link.name}.{os.getpid()}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.path)
            fresh.replace(self.link)

    def close(self) -> None:
        """Ends the thread, closes the pty (clients see a lost port) and removes the link."""
        if self._thread is None:
            return
        os.write(self._wake_write, b"x")
        self._thread.join()
        self._thread = None
        if self.link is not None and self.link.is_symlink() and os.readlink(self.link) == self.path:
            self.link.unlink()
        for descriptor in (self._master, self._slave, self._wake_read, self._wake_write):
            os.close(descriptor)
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def _own_link(self, link: Path) -> None:
        """Makes sure that no running emulator uses this link; a dead one's link may be replaced."""
        if link.exists() and not link.is_symlink():
            raise FeetechError(
                f"{link} exists and is no symbolic link; choose another path for the emulated port"
            )
        link.parent.mkdir(parents=True, exist_ok=True)
        place = link.with_name(f".{link.name}.lock")
        self._lock_file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_file)
            self._lock_file = -1
            raise BusPortBusyError(
                f"{link} already belongs to a running servo emulator; stop that one or choose another path"
            ) from None

    def _serve(self) -> None:
        last = 0.0
        while True:
            ready, _, _ = select.select([self._master, self._wake_read], [], [])
            if self._wake_read in ready:
                return
            try:
                data = os.read(self._master, 4096)
            except BlockingIOError:
                continue
            now = time.monotonic()
            if self._parser.pending and now - last > UNFINISHED_AFTER:
                self._parser.clear()
            last = now
            reply = b""
            for packet in self._parser.feed(data):
                self.requests += 1
                reply += self.emulator.answer(packet)
            if reply:
                try:
                    os.write(self._master, reply)
                except BlockingIOError:
                    continue  # nobody reads and the buffer is full: the bytes are lost, as on a wire
