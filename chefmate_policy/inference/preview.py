# SPDX-License-Identifier: Apache-2.0
"""Where the gripper will go: forward kinematics of the SO-ARM 101, only for showing a chunk in rviz.

Source of the table: TheRobotStudio/SO-ARM100, Simulation/SO101/so101_new_calib.urdf (joint origins, fixed
gripper_frame_joint). The test compares it with that model's recorded tip positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from chefmate_policy.inference.backend import Array

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
# xyz (m) and rpy (rad) of each joint's frame in its parent; every joint turns about its own +z.
_ORIGINS = (
    ((0.0388353, 0.0, 0.0624), (math.pi, 0.0, -math.pi)),
    ((-0.0303992, -0.0182778, -0.0542), (-math.pi / 2, -math.pi / 2, 0.0)),
    ((-0.11257, -0.028, 0.0), (0.0, 0.0, math.pi / 2)),
    ((-0.1349, 0.0052, 0.0), (0.0, 0.0, -math.pi / 2)),
    ((0.0, -0.0611, 0.0181), (math.pi / 2, 0.0486795, math.pi)),
)
_GRIPPER_FRAME = ((-0.0079, -0.000218121, -0.0981274), (0.0, math.pi, 0.0))


def _transform(xyz: tuple[float, float, float], rpy: tuple[float, float, float]) -> Array:
    """(4, 4) homogeneous transform; rpy as URDF defines it, Rz(yaw) Ry(pitch) Rx(roll)."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(angle), math.sin(angle)) for angle in rpy)
    matrix = np.eye(4)
    matrix[:3, :3] = (
        (cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        (sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        (-sp, cp * sr, cp * cr),
    )
    matrix[:3, 3] = xyz
    return matrix


_PARENTS = tuple(_transform(*origin) for origin in _ORIGINS)
_TIP = _transform(*_GRIPPER_FRAME)


def gripper_path(joints: Sequence[str], positions: Array) -> Array:
    """Positions of gripper_frame_link in base_link.

    Args:
        joints: names of the columns; others than the five arm joints are ignored.
        positions: (k, n) rad.

    Returns:
        (k, 3) m.

    Raises:
        ValueError: an arm joint is not among the names.
    """
    columns = [list(joints).index(name) for name in JOINTS]
    path = np.empty((len(positions), 3))
    for row, angles in enumerate(positions[:, columns]):
        pose = np.eye(4)
        for parent, angle in zip(_PARENTS, angles, strict=True):
            pose = pose @ parent
            cosine, sine = math.cos(angle), math.sin(angle)
            x, y = pose[:3, 0].copy(), pose[:3, 1].copy()
            pose[:3, 0] = cosine * x + sine * y
            pose[:3, 1] = cosine * y - sine * x
        path[row] = (pose @ _TIP)[:3, 3]
    return path
