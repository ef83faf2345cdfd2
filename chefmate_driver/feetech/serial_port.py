# SPDX-License-Identifier: Apache-2.0
"""The serial port below the bus: opened, locked, at low latency; raw bytes in and out."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import termios
import time

import serial

from chefmate_driver.feetech.adapter import request_low_latency
from chefmate_driver.feetech.errors import BusLostError, BusPortBusyError, FeetechError, PortNotFoundError
from chefmate_driver.feetech.ports import port_holder

WRITE_TIMEOUT = 0.1  # s; a full output buffer for this long means that the port is gone
GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL  # the other end, or the device
PTYS = "/dev/pts/"
CHUNK = 4096  # bytes, more than the kernel's buffer of a terminal holds


class SerialPort:
    """Bytes of one serial device, which no other program may use meanwhile. One thread at a time."""

    def __init__(self, port: str, baudrate: int) -> None:
        """Raises PortNotFoundError, BusPortBusyError or FeetechError."""
        self.port = port
        self._serial = _open(port, baudrate)
        self._descriptor: int = self._serial.fileno()
        self.low_latency = request_low_latency(self._descriptor, port)
        self._readable = select.poll()
        self._readable.register(self._descriptor, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._descriptor, select.POLLOUT)

    def close(self) -> None:
        """Frees the port."""
        self._serial.close()

    def set_baudrate(self, baudrate: int) -> None:
        """Changes the rate of the open port. FeetechError."""
        try:
            self._serial.baudrate = baudrate
        except (serial.SerialException, OSError, termios.error, ValueError) as error:
            raise FeetechError(f"{self.port} cannot run at {baudrate} baud: {error}") from error

    def write(self, data: bytes) -> None:
        """Hands all bytes to the device. BusLostError."""
        # The descriptor itself, since pyserial's write waits with a further system call after each.
        view = memoryview(data)
        deadline = 0.0
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + WRITE_TIMEOUT
                if now >= deadline or not self._writable.poll(1e3 * (deadline - now)):
                    raise self._lost("write", f"takes no bytes for {WRITE_TIMEOUT:g} s") from None
            except OSError as error:
                raise self._lost("write", error) from error

    def read(self, timeout: float) -> bytes:
        """Bytes that are there or arrive within `timeout` s; none after that. BusLostError."""
        if timeout > 0.0 and not self._readable.poll(1e3 * timeout):
            return b""
        try:
            data = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise self._lost("read", error) from error
        if not data and any(events & GONE for _, events in self._readable.poll(0)):
            raise self._lost("read", "end of file")
        return data

    def _lost(self, verb: str, why: object) -> BusLostError:
        return BusLostError(f"{self.port} is lost ({verb}: {why}); check the USB cable, or the twin")


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
    if not os.path.realpath(port).startswith(PTYS):
        # Keeps out programs that lock nothing. Not on a pty: there the flag would outlive a killed process.
        fcntl.ioctl(opened.fileno(), termios.TIOCEXCL)
    return opened
