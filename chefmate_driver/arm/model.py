# SPDX-License-Identifier: Apache-2.0
"""The SO-ARM 101 as data: joint names, limits, and where its links are.

Source: TheRobotStudio SO-ARM100, Simulation/SO101/so101_new_calib.urdf (zero = middle of each joint's range).
Every hinge turns about the z axis of its child frame. Base frame: x forward, y left, z up, z = 0 at the foot
of the base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Joint:
    """One joint as the URDF has it."""

    name: str
    position: tuple[float, float, float]  # m, of the child frame in the parent frame
    rpy: tuple[float, float, float]  # rad, of the child frame in the parent frame
    lower: float  # rad
    upper: float  # rad


JOINTS: tuple[Joint, ...] = (
    Joint("shoulder_pan", (0.0388353, 0.0, 0.0624), (math.pi, 0.0, -math.pi), -1.91986, 1.91986),
    Joint(
        "shoulder_lift",
        (-0.0303992, -0.0182778, -0.0542),
        (-math.pi / 2, -math.pi / 2, 0.0),
        -1.74533,
        1.74533,
    ),
    Joint("elbow_flex", (-0.11257, -0.028, 0.0), (0.0, 0.0, math.pi / 2), -1.69, 1.69),
    Joint("wrist_flex", (-0.1349, 0.0052, 0.0), (0.0, 0.0, -math.pi / 2), -1.65806, 1.65806),
    Joint("wrist_roll", (0.0, -0.0611, 0.0181), (math.pi / 2, 0.0486795, math.pi), -2.74385, 2.84121),
    Joint("gripper", (0.0202, 0.0188, -0.0234), (math.pi / 2, 0.0, 0.0), -0.174533, 1.74533),
)
JOINT_NAMES: tuple[str, ...] = tuple(joint.name for joint in JOINTS)
GRIPPER = JOINT_NAMES.index("gripper")
LOWER: Vector = np.array([joint.lower for joint in JOINTS])
UPPER: Vector = np.array([joint.upper for joint in JOINTS])
# Link i + 1 is moved by joint i.
LINK_NAMES = ("base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "jaw")
BASE = LINK_NAMES.index("base")

# The tip of the fixed finger in the gripper's frame (the URDF's gripper_frame_link), m.
FIXED_TIP = (-0.0079, -0.000218121, -0.0981274)
# The tip of the moving finger in the jaw's frame (centre of its contact pad in the MJCF), m.
MOVING_TIP = (-0.01136, -0.076, 0.019)


def _rotation(rpy: tuple[float, float, float]) -> Vector:
    """Rotation matrix of URDF roll, pitch, yaw (fixed axes)."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(angle), math.sin(angle)) for angle in rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


_ROTATIONS = [_rotation(joint.rpy) for joint in JOINTS]
# The same as tuples of columns: plain floats are several times faster than numpy for one row.
_COLUMNS = [tuple(tuple(map(float, rotation[:, column])) for column in range(3)) for rotation in _ROTATIONS]


def _turns() -> tuple[Vector, Vector, Vector]:
    """(6, 4, 4) each: a joint's transform is the first + the second * cos + the third * sin of its angle."""
    fixed, cosine, sine = np.zeros((3, len(JOINTS), 4, 4))
    for index, (joint, rotation) in enumerate(zip(JOINTS, _ROTATIONS, strict=True)):
        fixed[index, :3, 2], fixed[index, :3, 3], fixed[index, 3, 3] = rotation[:, 2], joint.position, 1.0
        cosine[index, :3, :2] = rotation[:, :2]
        sine[index, :3, 0], sine[index, :3, 1] = rotation[:, 1], -rotation[:, 0]
    return fixed, cosine, sine


_FIXED, _COSINE, _SINE = _turns()


def link_frames(angles: Vector) -> Vector:
    """Poses of all links in the base frame, (K, 7, 4, 4), m, for K sets of joint angles (K, 6), rad.

    Costs about 40 us for one pose and hardly more for three.
    """
    angles = angles[:, :, None, None]
    steps = _FIXED + _COSINE * np.cos(angles) + _SINE * np.sin(angles)
    frames = np.empty((len(angles), len(JOINTS) + 1, 4, 4))
    frames[:, 0] = np.eye(4)
    for index in range(len(JOINTS)):
        np.matmul(frames[:, index], steps[:, index], out=frames[:, index + 1])
    return frames


def tip_position(angles: Sequence[float] | Vector) -> Vector:
    """Tip of the fixed finger, m, base frame, for joint angles (6,) in rad."""
    rotation, position = np.eye(3), np.zeros(3)
    for joint, fixed, angle in zip(JOINTS[:GRIPPER], _ROTATIONS, angles, strict=False):
        position = position + rotation @ np.array(joint.position)
        turn = np.array(
            [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0, 0, 1]]
        )
        rotation = rotation @ fixed @ turn
    return np.asarray(position + rotation @ np.array(FIXED_TIP))


def lowest_tip_height(angles: Sequence[float] | Vector) -> float:
    """Height over the base frame's z = 0 of the lower of both finger tips, m, for joint angles (6,) in rad.

    Follows only the z row of the transforms, so it costs about 10 us.
    """
    x, y, z = 0.0, 0.0, 1.0
    height = fixed_tip = 0.0
    for index, (joint, (first, second, third)) in enumerate(zip(JOINTS, _COLUMNS, strict=True)):
        if index == GRIPPER:
            fixed_tip = height + x * FIXED_TIP[0] + y * FIXED_TIP[1] + z * FIXED_TIP[2]
        px, py, pz = joint.position
        height += x * px + y * py + z * pz
        along = x * first[0] + y * first[1] + z * first[2]
        across = x * second[0] + y * second[1] + z * second[2]
        z = x * third[0] + y * third[1] + z * third[2]
        cosine, sine = math.cos(angles[index]), math.sin(angles[index])
        x, y = along * cosine + across * sine, across * cosine - along * sine
    moving_tip = height + x * MOVING_TIP[0] + y * MOVING_TIP[1] + z * MOVING_TIP[2]
    return min(fixed_tip, moving_tip)
