# SPDX-License-Identifier: Apache-2.0
"""What a check found, and what the checks look at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class Level(str, Enum):
    """How bad it is: an ERROR keeps something from working, a WARNING may."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One line of the report. mend: a command, or what to do; empty where nothing is to be done."""

    check: str
    level: Level
    message: str
    mend: str = ""


@dataclass(frozen=True)
class Machine:
    """The places and settings that the checks look at, so that a test can show them others.

    port, leader: serial ports to be looked into; empty: the adapters that servo boards have. calibration,
    leader_calibration: LeRobot file or id; empty: all that are found.
    """

    port: str = ""
    leader: str = ""
    calibration: str = ""
    leader_calibration: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    dev: Path = Path("/dev")
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    shm: Path = Path("/dev/shm")
    rules: tuple[Path, ...] = (
        Path("/etc/udev/rules.d"),
        Path("/run/udev/rules.d"),
        Path("/usr/lib/udev/rules.d"),
        Path("/lib/udev/rules.d"),
    )


def ok(check: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Level.OK, message)


def info(check: str, message: str, mend: str = "") -> Finding:
    """Good to know."""
    return Finding(check, Level.INFO, message, mend)


def warning(check: str, message: str, mend: str) -> Finding:
    """May do harm."""
    return Finding(check, Level.WARNING, message, mend)


def error(check: str, message: str, mend: str) -> Finding:
    """Does not work."""
    return Finding(check, Level.ERROR, message, mend)
