# SPDX-License-Identifier: Apache-2.0
"""The one converter between servo ticks, radians (ROS side) and LeRobot's units (model side).

LeRobot, motors/motors_bus.py, with v in ticks, m and M the calibrated range:
  degrees      (v - (m + M) / 2) * 360 / 4095          body joints; drive_mode is ignored, nothing is clamped
  -100..100    200 * (v - m) / (M - m) - 100           body joints; clamped, drive_mode 1 negates
  0..100       100 * (v - m) / (M - m)                 gripper, always; clamped, drive_mode 1 mirrors; 0 is
  closed
Radians are LeRobot's degrees for the body (so its 4095, not 4096, is kept) and 0..100 laid onto the URDF's
limits for the gripper. LeRobot truncates on the way to ticks; this converter rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.calibration import Calibration, JointCalibration
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.model import GRIPPER, JOINTS, LOWER, UPPER
from chefmate_driver.feetech.registers import MAX_POSITION

Vector = NDArray[np.float64]
TICKS_PER_RADIAN = MAX_POSITION / (2.0 * math.pi)  # LeRobot's scale


class LeRobotUnit(Enum):
    """Unit of the body joints in a LeRobot dataset; the gripper is 0..100 in both."""

    DEGREES = "degrees"
    RANGE = "-100..100"


@dataclass(frozen=True, slots=True)
class JointUnits:
    """One joint: ticks = zero + ticks_per_radian * rad."""

    name: str
    calibration: JointCalibration
    zero: float  # ticks at 0 rad
    ticks_per_radian: float  # negative where the gripper is mirrored

    @classmethod
    def of(cls, index: int, calibration: JointCalibration) -> JointUnits:
        """Units of joint `index` (0-based, joint order)."""
        joint = JOINTS[index]
        if index != GRIPPER:
            middle = (calibration.range_min + calibration.range_max) / 2.0
            return cls(joint.name, calibration, middle, TICKS_PER_RADIAN)
        scale = (calibration.range_max - calibration.range_min) / (joint.upper - joint.lower)
        if calibration.drive_mode:
            return cls(joint.name, calibration, calibration.range_max + joint.lower * scale, -scale)
        return cls(joint.name, calibration, calibration.range_min - joint.lower * scale, scale)

    @property
    def id(self) -> int:
        """Servo id."""
        return self.calibration.id

    @property
    def homing_offset(self) -> int:
        """ticks; present = actual - offset."""
        return self.calibration.homing_offset

    @property
    def range_min(self) -> int:
        """ticks."""
        return self.calibration.range_min

    @property
    def range_max(self) -> int:
        """ticks."""
        return self.calibration.range_max

    def ticks(self, radians: float) -> float:
        """Position of an angle, not rounded."""
        return self.zero + self.ticks_per_radian * radians

    def radians(self, ticks: float) -> float:
        """Angle of a position."""
        return (ticks - self.zero) / self.ticks_per_radian


class ArmUnits:
    """All six joints at once; every array is (6,) in joint order."""

    def __init__(self, calibration: Calibration) -> None:
        """From a calibration with all six joints."""
        self.joints = [JointUnits.of(index, calibration[joint.name]) for index, joint in enumerate(JOINTS)]
        self.ids = [joint.id for joint in self.joints]
        self.zero: Vector = np.array([joint.zero for joint in self.joints])  # ticks
        self.ticks_per_radian: Vector = np.array([joint.ticks_per_radian for joint in self.joints])
        self._low: Vector = np.array([joint.range_min for joint in self.joints], dtype=np.float64)
        self._high: Vector = np.array([joint.range_max for joint in self.joints], dtype=np.float64)
        self._mirrored = np.array([joint.calibration.drive_mode == 1 for joint in self.joints])

    def limits(self) -> tuple[Vector, Vector]:
        """Lower and upper limits, rad: what both the URDF and the calibrated range allow. ArmError if that is
        nothing."""
        first, second = self.radians(self._low), self.radians(self._high)
        lower = np.maximum(LOWER, np.minimum(first, second))
        upper = np.minimum(UPPER, np.maximum(first, second))
        for joint, low, high in zip(self.joints, lower, upper, strict=True):
            if low >= high:
                raise ArmError(
                    f"{joint.name}: calibrated range and URDF limits do not overlap; calibrate again"
                )
        return lower, upper

    def radians(self, ticks: Sequence[float] | Vector) -> Vector:
        """Angles, rad, of positions in ticks."""
        return (np.asarray(ticks, dtype=np.float64) - self.zero) / self.ticks_per_radian

    def ticks(self, radians: Sequence[float] | Vector) -> list[int]:
        """Positions, whole ticks in 0..4095, of angles in rad."""
        exact = self.zero + self.ticks_per_radian * np.asarray(radians, dtype=np.float64)
        return [int(value) for value in np.clip(np.rint(exact), 0, MAX_POSITION)]

    def to_lerobot(self, radians: Sequence[float] | Vector, unit: LeRobotUnit) -> Vector:
        """Values as LeRobot would read them, of angles in rad."""
        angles = np.asarray(radians, dtype=np.float64)
        share = np.clip(
            (self.zero + self.ticks_per_radian * angles - self._low) / (self._high - self._low), 0.0, 1.0
        )
        share = np.where(self._mirrored, 1.0 - share, share)
        values = np.degrees(angles) if unit is LeRobotUnit.DEGREES else 200.0 * share - 100.0
        values[GRIPPER] = 100.0 * share[GRIPPER]
        return np.asarray(values)

    def from_lerobot(self, values: Sequence[float] | Vector, unit: LeRobotUnit) -> Vector:
        """Angles, rad, of LeRobot's values. Values beyond a range unit's ends are clamped, as LeRobot
        does."""
        given = np.asarray(values, dtype=np.float64)
        share = (given + 100.0) / 200.0
        share[GRIPPER] = given[GRIPPER] / 100.0
        share = np.clip(share, 0.0, 1.0)
        share = np.where(self._mirrored, 1.0 - share, share)
        angles = self.radians(self._low + share * (self._high - self._low))
        if unit is LeRobotUnit.DEGREES:
            angles[:GRIPPER] = np.radians(given[:GRIPPER])
        return np.asarray(angles)
