# SPDX-License-Identifier: Apache-2.0
"""The USB adapter between computer and servo bus: how soon it hands over what it received."""

from __future__ import annotations

import array
import fcntl
import os
import termios
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

ASYNC_LOW_LATENCY = 0x2000  # linux/tty_flags.h
SERIAL_STRUCT_FLAGS = 4  # place of `flags` in struct serial_struct, counted in ints (linux/serial.h)
SLOW_TIMER = 1  # ms; an FTDI adapter's latency timer above this costs time in each cycle (its default is 16)


class LatencyMode(Enum):
    """What the adapter's driver offers."""

    LOW = "low"  # low-latency mode is on
    NORMAL = "normal"  # the driver has the mode, and it is off
    NONE = "none"  # the driver has no such mode: it hands bytes over as USB frames bring them


@dataclass(frozen=True, slots=True)
class AdapterLatency:
    """How a serial device hands over bytes."""

    port: str
    driver: str  # kernel driver, "pty" for a terminal pair, "" if unknown
    mode: LatencyMode
    timer: int | None  # ms, latency timer of adapters that have one (FTDI)
    timer_file: Path  # where that is set

    @property
    def slow(self) -> bool:
        """Whether a setting of the adapter delays replies."""
        return self.mode is LatencyMode.NORMAL or (self.timer is not None and self.timer > SLOW_TIMER)

    @property
    def text(self) -> str:
        """One line for people, with the mend if there is one."""
        name = self.driver or "unknown driver"
        if self.timer is not None and self.timer > SLOW_TIMER:
            return (
                f"{self.port} ({name}) collects bytes for up to {self.timer} ms; run: "
                f"echo {SLOW_TIMER} | sudo tee {self.timer_file}"
            )
        if self.mode is LatencyMode.NORMAL:
            return f"{self.port} ({name}) is not in low-latency mode; run: setserial {self.port} low_latency"
        if self.mode is LatencyMode.NONE:
            return f"{self.port} ({name}) has no low-latency mode, and needs none: USB frames set the pace"
        return f"{self.port} ({name}) is in low-latency mode"


def timer_file(port: str, sysfs: Path = Path("/sys")) -> Path:
    """The file that holds the latency timer of a port's adapter; only FTDI adapters have it."""
    return sysfs / "class/tty" / Path(os.path.realpath(port)).name / "device/latency_timer"


def driver_name(port: str, sysfs: Path = Path("/sys")) -> str:
    """Kernel driver of a port, such as ftdi_sio, ch341-uart or cdc_acm; empty if unknown."""
    device = os.path.realpath(port)
    if device.startswith("/dev/pts/"):
        return "pty"
    link = sysfs / "class/tty" / Path(device).name / "device/driver"
    return Path(os.path.realpath(link)).name if link.exists() else ""


def adapter_latency(descriptor: int, port: str, sysfs: Path = Path("/sys")) -> AdapterLatency:
    """What the open port's adapter does now; changes nothing."""
    place = timer_file(port, sysfs)
    return AdapterLatency(port, driver_name(port, sysfs), _mode(descriptor), _timer(place), place)


def request_low_latency(descriptor: int, port: str, sysfs: Path = Path("/sys")) -> AdapterLatency:
    """Asks the open port's adapter for low latency, where it knows such a thing; returns what holds then.

    An FTDI adapter takes its timer down to 1 ms with the flag. CH340 and CDC-ACM adapters have neither.
    """
    settings = _settings(descriptor)
    if settings is not None and not settings[SERIAL_STRUCT_FLAGS] & ASYNC_LOW_LATENCY:
        settings[SERIAL_STRUCT_FLAGS] |= ASYNC_LOW_LATENCY
        try:
            fcntl.ioctl(descriptor, termios.TIOCSSERIAL, settings)
        except OSError:
            pass  # refused: what is reported below says so
    return adapter_latency(descriptor, port, sysfs)


def _settings(descriptor: int) -> array.array[int] | None:
    """The kernel's serial_struct; None where the driver has none."""
    settings = array.array("i", [0] * 32)
    try:
        fcntl.ioctl(descriptor, termios.TIOCGSERIAL, settings)
    except OSError:
        return None
    return settings


def _mode(descriptor: int) -> LatencyMode:
    settings = _settings(descriptor)
    if settings is None:
        return LatencyMode.NONE
    return LatencyMode.LOW if settings[SERIAL_STRUCT_FLAGS] & ASYNC_LOW_LATENCY else LatencyMode.NORMAL


def _timer(place: Path) -> int | None:
    try:
        return int(place.read_text())
    except (OSError, ValueError):
        return None
