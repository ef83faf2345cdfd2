# SPDX-License-Identifier: Apache-2.0
"""Master of a Feetech servo bus, on a serial port through pyserial.

One thread uses a bus at a time. Every reply's id, length and checksum are checked; requests are repeated a
bounded number of times; the error byte of each reply is kept in `status`, since a set bit still comes with
valid data.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import serial

from chefmate_driver.feetech.errors import (
    BusLostError,
    BusPortBusyError,
    BusProtocolError,
    FeetechError,
    PortNotFoundError,
    RegisterError,
    ServoMissingError,
)
from chefmate_driver.feetech.packet import (
    MAX_ID,
    OVERHEAD,
    Instruction,
    Packet,
    PacketParser,
    encode,
    encode_sync_read,
    encode_sync_write,
)
from chefmate_driver.feetech.ports import port_holder
from chefmate_driver.feetech.registers import Register, register

BITS_PER_BYTE = 10  # 8N1
WRITE_TIMEOUT = 0.1  # s; a full output buffer for this long means that the port is gone


class FeetechBus:
    """Verbs of the bus: ping, read, write, sync_read, sync_write. A context manager."""

    def __init__(
        self, port: str, baudrate: int = 1_000_000, *, reply_timeout: float = 0.01, retries: int = 2
    ) -> None:
        """Opens the port and locks it against others.

        reply_timeout: s of silence, beyond the bytes' own time on the wire, after which a reply counts as
        lost. retries: how often a request is repeated. Raises PortNotFoundError, BusPortBusyError or
        FeetechError.
        """
        self.port, self.baudrate = port, baudrate
        self.reply_timeout, self.retries = reply_timeout, retries
        self.errors: dict[int, int] = {}  # lost or corrupt replies by servo id
        self.status: dict[int, int] = {}  # error byte of the newest reply by servo id
        self.transactions = 0  # requests that got (or should have got) replies
        self.failures = 0  # transactions that failed after all repetitions
        self._parser = PacketParser()
        self._serial = _open(port, baudrate)
        self._descriptor: int = self._serial.fileno()
        self._heard = 0  # bytes received for the present request

    def __enter__(self) -> FeetechBus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the port. The servos keep doing what they were told."""
        self._serial.close()

    def ping(self, id: int) -> int:
        """Error byte of the servo. ServoMissingError or BusProtocolError if it does not answer."""
        self._request(encode(id, Instruction.PING), {id: 0}, f"ping of servo {id}")
        return self.status[id]

    def read(self, id: int, name: str) -> int:
        """Value of a register, decoded. Raises as `ping` does."""
        entry = register(name)
        return entry.decode(self.read_block(id, entry.address, entry.size))

    def read_block(self, id: int, address: int, size: int) -> bytes:
        """`size` bytes from `address`. Raises as `ping` does."""
        request = encode(id, Instruction.READ, bytes((address, size)))
        return self._request(request, {id: size}, f"read of register {address} of servo {id}")[id]

    def write(self, id: int, name: str, value: int) -> None:
        """Writes a register and waits for the servo's word. Raises as `ping` does, and RegisterError."""
        entry = _writable(name)
        request = encode(id, Instruction.WRITE, bytes((entry.address,)) + entry.encode(value))
        self._request(request, {id: 0}, f"write of {name} of servo {id}")

    def sync_read(self, name: str, ids: Sequence[int]) -> dict[int, int]:
        """Value of a register of several servos. ServoMissingError if one does not answer."""
        entry = register(name)
        blocks = self.sync_read_block(entry.address, entry.size, ids, patient=True)
        missing = [id for id in ids if id not in blocks]
        if missing:
            raise self._failure(f"sync read of {name}", missing)
        return {id: entry.decode(block) for id, block in blocks.items()}

    def sync_read_block(
        self, address: int, size: int, ids: Sequence[int], *, patient: bool = False
    ) -> dict[int, bytes]:
        """`size` bytes from `address` of several servos in one exchange, by id, without silent servos.

        Asks again, for the missing ones alone. If nothing at all came back it gives up unless `patient`, so
        that in a control loop a dead bus costs one timeout and not several.
        """
        found = self._exchange(encode_sync_read(address, size, ids), dict.fromkeys(ids, size))
        for _ in range(self.retries):
            missing = [id for id in ids if id not in found]
            if not missing or not (patient or found or self._heard):
                break
            found |= self._exchange(encode_sync_read(address, size, missing), dict.fromkeys(missing, size))
        if len(found) < len(ids):
            self.failures += 1
        return found

    def sync_write(self, name: str, values: Mapping[int, int]) -> None:
        """Writes a register of several servos at once. Nobody confirms it. RegisterError, BusLostError."""
        entry = _writable(name)
        self.sync_write_block(entry.address, {id: entry.encode(value) for id, value in values.items()})

    def sync_write_block(self, address: int, values: Mapping[int, bytes]) -> None:
        """Writes equally long bytes from `address` of several servos at once. BusLostError."""
        self._send(encode_sync_write(address, values))

    def scan(self, ids: Sequence[int] = range(1, MAX_ID)) -> list[int]:
        """Ids that answer a ping, each asked once."""
        return [id for id in ids if id in self._exchange(encode(id, Instruction.PING), {id: 0}, count=False)]

    def _request(self, request: bytes, sizes: dict[int, int], what: str) -> dict[int, bytes]:
        heard = 0
        for _ in range(self.retries + 1):
            found = self._exchange(request, sizes)
            if len(found) == len(sizes):
                return found
            heard += self._heard
        self.failures += 1
        self._heard = heard
        raise self._failure(what, [id for id in sizes if id not in found])

    def _failure(self, what: str, missing: list[int]) -> FeetechError:
        if self._heard:
            return BusProtocolError(
                f"{what} on {self.port}: {self._heard} bytes came back and none is a reply of servo "
                f"{', '.join(map(str, missing))}; is this a Feetech servo bus at {self.baudrate} baud, "
                "with one servo per id?"
            )
        return ServoMissingError(
            f"{what} on {self.port}: no answer from servo {', '.join(map(str, missing))} "
            f"at {self.baudrate} baud; check the servo supply, the cable and the ids"
        )

    def _exchange(self, request: bytes, sizes: Mapping[int, int], *, count: bool = True) -> dict[int, bytes]:
        """Sends a request; returns the payload of each timely reply of the size in `sizes`."""
        self.transactions += 1
        self._clear_input()
        self._send(request)
        expected = sum(OVERHEAD + size for size in sizes.values())
        wire = (len(request) + expected) * BITS_PER_BYTE / self.baudrate
        deadline = time.monotonic() + wire + self.reply_timeout
        found: dict[int, bytes] = {}
        self._heard = 0
        while len(found) < len(sizes):
            remaining = deadline - time.monotonic()
            if remaining <= 0.0:
                break
            for packet in self._receive(remaining):
                self._take(packet, sizes, found)
        for packet in self._parser.finish() if len(found) < len(sizes) else ():
            self._take(packet, sizes, found)
        if count:
            for id in sizes:
                if id not in found:
                    self.errors[id] = self.errors.get(id, 0) + 1
        return found

    def _take(self, packet: Packet, sizes: Mapping[int, int], found: dict[int, bytes]) -> None:
        # Anything else is noise, an echo, or a late reply to an earlier request.
        if packet.id in sizes and len(packet.parameters) == sizes[packet.id]:
            found[packet.id] = packet.parameters
            self.status[packet.id] = packet.code

    def _guard(self, action: Callable[[], object], verb: str) -> object:
        try:
            return action()
        except (OSError, serial.SerialException, termios.error) as error:
            raise BusLostError(
                f"{self.port} is lost ({verb}: {error}); check the USB cable, or the twin"
            ) from error

    def _send(self, data: bytes) -> None:
        self._guard(lambda: self._serial.write(data), "write")

    def _clear_input(self) -> None:
        self._parser.clear()
        self._guard(lambda: termios.tcflush(self._descriptor, termios.TCIFLUSH), "flush")

    def _receive(self, timeout: float) -> list[Packet]:
        """Packets completed by the bytes that arrive within `timeout` s."""
        # pyserial's own timeout sets up the port anew on each change, so waiting is done here.
        if not select.select([self._descriptor], [], [], timeout)[0]:
            return []
        try:
            data = os.read(self._descriptor, 4096)
        except BlockingIOError:
            return []
        except OSError as error:
            raise BusLostError(
                f"{self.port} is lost (read: {error}); check the USB cable, or the twin"
            ) from error
        if not data:
            raise BusLostError(f"{self.port} is lost (end of file); check the USB cable, or the twin")
        self._heard += len(data)
        return self._parser.feed(data)


def _writable(name: str) -> Register:
    entry = register(name)
    if not entry.writable:
        raise RegisterError(f"{name} (register {entry.address}) is read-only")
    return entry


def _open(port: str, baudrate: int) -> serial.Serial:
    if not os.path.exists(port):
        raise PortNotFoundError(
            f"{port} does not exist; plug the arm in, or set the parameter `port` (ls /dev/serial/by-id)"
        )
    try:
        # exclusive: a flock on the device, which every pyserial user that asks for it respects.
        opened = serial.Serial(port, baudrate, timeout=0, write_timeout=WRITE_TIMEOUT, exclusive=True)
    except (serial.SerialException, OSError, termios.error, ValueError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY):
            raise BusPortBusyError(f"{port} is in use by {port_holder(port)}; stop that first") from error
        if number in (errno.EACCES, errno.EPERM):
            raise FeetechError(
                f"no permission to open {port}; run: sudo usermod -aG dialout $USER, then log in again"
            ) from error
        raise FeetechError(f"{port} cannot be opened as a serial port at {baudrate} baud: {error}") from error
    if not os.path.realpath(port).startswith("/dev/pts/"):
        # Keeps out programs that lock nothing. Not on a pty: there the flag would outlive a killed process.
        fcntl.ioctl(opened.fileno(), termios.TIOCEXCL)
    return opened
