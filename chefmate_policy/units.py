# SPDX-License-Identifier: Apache-2.0
"""Joint angles in rad to the units in which a dataset or a model counts them, and back.

Every unit of LeRobot is a straight line over the angle (motors/motors_bus.py): degrees need nothing else;
-100..100 and 0..100 are shares of a range whose two ends, in rad, stand beside the unit. For the gripper
these are the URDF's limits, for a body joint the ends of its calibrated range. So a table of joints, units
and ends says it all, and a checkpoint can carry it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError

__all__ = ["UNITS", "JointUnit", "JointUnits", "UnitError", "calibrated_ends", "so101_units"]

Array = NDArray[np.float64]

# unit -> values at the lower and upper end of a range; None: an angle, needs no range
UNITS: Mapping[str, tuple[float, float] | None] = {
    "rad": None,
    "degrees": None,
    "-100..100": (-100.0, 100.0),
    "0..100": (0.0, 100.0),
}
TICKS_PER_TURN = 4095  # LeRobot's scale of the STS3215; its encoder has 4096
GRIPPER, GRIPPER_ENDS = "gripper", (-0.174533, 1.74533)  # rad, limits in the URDF of the SO-ARM 101


class UnitError(PolicyError):
    """A unit does not exist, or its table does not fit the joints."""


@dataclass(frozen=True)
class JointUnit:
    """How one joint is counted."""

    joint: str
    unit: str
    low: float | None = None  # rad, where a range unit has its lower value; above `high` for a mirrored joint
    high: float | None = None  # rad

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UnitError(
                f"unit {self.unit!r} of {self.joint} does not exist; use one of: {', '.join(UNITS)}"
            )
        ends = (self.low, self.high)
        if UNITS[self.unit] is None:
            if ends != (None, None):
                raise UnitError(
                    f"{self.joint} is counted in {self.unit}, which has no ends; leave low and high out"
                )
        elif None in ends or not all(map(math.isfinite, filter(None, ends))) or self.low == self.high:
            raise UnitError(
                f"{self.joint} is counted in {self.unit}: low and high (rad) must be two angles, not {ends};"
                " they are the calibrated range, or the URDF's limits of the gripper"
            )

    @property
    def line(self) -> tuple[float, float]:
        """Slope (unit per rad) and offset: value = slope * rad + offset."""
        ends = UNITS[self.unit]
        if ends is None:
            return (math.degrees(1.0) if self.unit == "degrees" else 1.0), 0.0
        assert self.low is not None and self.high is not None
        slope = (ends[1] - ends[0]) / (self.high - self.low)
        return slope, ends[0] - slope * self.low

    def to_dict(self) -> dict[str, Any]:
        """For files; `from_dict` reads it."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> JointUnit:
        """From a file. Raises UnitError."""
        try:
            return cls(**entry)
        except TypeError as error:
            raise UnitError(
                f"joint entry {dict(entry)} needs joint, unit, and low and high for ranges ({error})"
            ) from None


class JointUnits:
    """All joints of a vector at once; arrays are (..., n) in the table's order."""

    def __init__(self, joints: Iterable[JointUnit]) -> None:
        self.joints = tuple(joints)
        self.names = tuple(joint.joint for joint in self.joints)
        if len(set(self.names)) != len(self.names):
            raise UnitError(f"a joint occurs twice in {', '.join(self.names)}")
        lines = np.array([joint.line for joint in self.joints], dtype=np.float64).reshape(-1, 2)
        self._slope, self._offset = lines[:, 0], lines[:, 1]
        spans = [UNITS[joint.unit] or (-math.inf, math.inf) for joint in self.joints]
        self._least, self._most = np.array(spans, dtype=np.float64).reshape(-1, 2).T

    def values(self, radians: Sequence[float] | Array) -> Array:
        """What the dataset would say, of angles in rad; ranges end at their ends, as LeRobot's do."""
        return np.clip(self._slope * self._checked(radians) + self._offset, self._least, self._most)

    def radians(self, values: Sequence[float] | Array) -> Array:
        """Angles, rad, of values in these units; beyond a range's ends they are clamped, as LeRobot does."""
        clipped = np.clip(self._checked(values), self._least, self._most)
        return (clipped - self._offset) / self._slope

    def order(self, joints: Sequence[str]) -> list[int]:
        """Where each joint of the table is in `joints`. UnitError names those that do not match."""
        missing = [name for name in self.names if name not in joints]
        extra = [name for name in joints if name not in self.names]
        if missing or extra:
            raise UnitError(
                "joints do not match: "
                + "; ".join(
                    f"{what} {', '.join(names)}"
                    for what, names in (("the arm lacks", missing), ("the model does not know", extra))
                    if names
                )
            )
        return [list(joints).index(name) for name in self.names]

    def _checked(self, values: Sequence[float] | Array) -> Array:
        array = np.asarray(values, dtype=np.float64)
        if array.shape[-1:] != (len(self.joints),):
            raise UnitError(f"{array.shape} values for {len(self.joints)} joints ({', '.join(self.names)})")
        return array


def calibrated_ends(range_min: int, range_max: int, mirrored: bool = False) -> tuple[float, float]:
    """Ends, rad, of a body joint's calibrated range (ticks): 0 rad is its middle, as LeRobot's 0 degrees is.

    mirrored: LeRobot's drive_mode 1, whose range units run backwards.
    """
    half = (range_max - range_min) * math.pi / TICKS_PER_TURN
    return (half, -half) if mirrored else (-half, half)


def so101_units(
    joints: Sequence[str], unit: str, calibration: Mapping[str, Mapping[str, int]] | None = None
) -> tuple[JointUnit, ...]:
    """The table of an SO-ARM 101 in a LeRobot dataset whose body joints are counted in `unit`.

    The gripper is 0..100 in all of them but rad. calibration: LeRobot's file as parsed, of the arm that is
    driven, for -100..100. Raises UnitError: the unit does not exist, or needs the calibration.
    """
    table = []
    for joint in joints:
        if joint == GRIPPER and unit != "rad":
            table.append(JointUnit(joint, "0..100", *GRIPPER_ENDS))
        elif unit != "-100..100":
            table.append(JointUnit(joint, unit))
        else:
            try:
                entry = (calibration or {})[joint]
                ends = calibrated_ends(entry["range_min"], entry["range_max"], bool(entry["drive_mode"]))
            except KeyError as missing:
                raise UnitError(
                    f"-100..100 are shares of {joint}'s calibrated range: LeRobot's calibration file of the"
                    f" arm is needed, with {missing}"
                ) from None
            table.append(JointUnit(joint, unit, *ends))
    return tuple(table)
