# SPDX-License-Identifier: Apache-2.0
"""Emulated servos on a pty, and a bus on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_ros.share import share_file

TWIN = share_file("config", "calibration", "twin.json")


@pytest.fixture
def plant() -> SimplePlant:
    return SimplePlant([0.0] * 6)


@pytest.fixture
def port(tmp_path: Path, plant: SimplePlant) -> Iterator[EmulatedPort]:
    with emulated_arm(TWIN, plant, tmp_path / "servos") as opened:
        yield opened


@pytest.fixture
def bus(port: EmulatedPort) -> Iterator[FeetechBus]:
    with FeetechBus(str(port.link), reply_timeout=0.5) as opened:
        yield opened
