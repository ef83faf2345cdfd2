# SPDX-License-Identifier: Apache-2.0
"""An SO-ARM 101 of emulated servos, for the twin and for tests: plant angles and ticks meet through a
calibration."""

from __future__ import annotations

from pathlib import Path

from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.emulator import EmulatedPort, ServoEmulator, Tap
from chefmate_driver.feetech.plant import ServoPlant


def emulated_arm(
    calibration: Path,
    plant: ServoPlant,
    link: Path | None = None,
    *,
    tap: Tap | None = None,
    pace: int = 0,
    spin: float = 0.0,
) -> EmulatedPort:
    """A servo bus, not yet started, in front of a plant with the arm's six joints.

    The servos hold the homing offsets and limits of the file, as after LeRobot's calibration. `link`, `tap`,
    `pace`, `spin`: see EmulatedPort.
    """
    emulator = ServoEmulator(ArmUnits(read_calibration(calibration)).joints, plant)
    return EmulatedPort(emulator, link, tap=tap, pace=pace, spin=spin)
