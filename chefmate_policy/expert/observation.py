# SPDX-License-Identifier: Apache-2.0
"""What the expert sees and says: plain data in base_link, m and rad."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ELSEWHERE", "GRIPPER", "HOLDER", "PLATE", "Place", "Plan", "SceneObject", "rotation_of"]

Array = NDArray[np.float64]
HOLDER, PLATE, GRIPPER, ELSEWHERE = (
    "holder",
    "plate",
    "gripper",
    "elsewhere",
)  # as in chefmate_msgs/WorkcellObject


@dataclass(frozen=True)
class SceneObject:
    """One slice, as in chefmate_msgs/ObjectPose.

    position [3] of its centre (m), quaternion [4] wxyz, z of its frame is its normal; size: full extents (m)
    along its axes; place: one of HOLDER, PLATE, GRIPPER, ELSEWHERE; slot: holder slot, 255 elsewhere.
    """

    name: str
    ingredient: str
    position: Array
    quaternion: Array
    size: tuple[float, float, float]
    place: str
    slot: int = 255


@dataclass(frozen=True)
class Place:
    """A fixed thing: position [3] (m) of the plate's floor or of the tray, quaternion [4] wxyz."""

    position: Array
    quaternion: Array


@dataclass(frozen=True)
class Plan:
    """What to do next.

    times [n] s from now, increasing; positions [n, 6] rad; velocities [n, 6] rad/s. done: nothing is left to
    do for the instruction. phase: what the arm is about, for people.
    """

    times: Array
    positions: Array
    velocities: Array
    done: bool
    phase: str


def rotation_of(quaternion: Array) -> Array:
    """Rotation matrix [3, 3] of a unit quaternion [4] wxyz."""
    w, x, y, z = (float(v) for v in quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
