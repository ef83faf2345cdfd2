# SPDX-License-Identifier: Apache-2.0
"""The arm's kinematics, against values computed from the URDF (so101_new_calib)."""

import time

import numpy as np
import pytest

from chefmate_policy.expert.kinematics import PAN_AXIS, Kinematics, UnreachableError, tool_rotation
from chefmate_policy.expert.motion import brake, segment


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics()


@pytest.mark.parametrize(
    ("joints", "tip"),
    [
        ((0, 0, 0, 0, 0), (0.3914, 0.0, 0.2265)),
        ((0.3, 0, 0, 0, 0), (0.3756, -0.1042, 0.2265)),
        ((0, 0.3, 0, 0, 0), (0.4094, 0.0, 0.1264)),
        ((0, 0, 0.3, 0, 0), (0.3774, 0.0, 0.1397)),
        ((0, 0, 0, 0.3, 0), (0.3819, 0.0, 0.1798)),
        ((0, 0, 0, np.pi / 2, 0), (0.2242, 0.0, 0.0751)),
        ((0, 0, 0.4735, 1.177, 1.584), (0.2069, -0.0081, 0.0136)),
    ],
)
def test_forward_kinematics(kinematics, joints, tip):
    position, rotation = kinematics.forward(joints)
    assert position == pytest.approx(tip, abs=1e-4)
    assert rotation.T @ rotation == pytest.approx(np.eye(3), abs=1e-9)


def test_inverse_of_forward_over_the_workspace(kinematics):
    slowest = 0.0
    for azimuth in (-1.0, -0.3, 0.4, 1.0):
        for radius, height, dip in (
            (0.20, 0.16, 0.6),
            (0.25, 0.05, 0.785),
            (0.28, 0.04, 0.785),
            (0.26, 0.03, 0.5),
        ):
            position = np.array([*(PAN_AXIS + radius * np.array([np.cos(azimuth), np.sin(azimuth)])), height])
            begin = time.perf_counter()
            joints = kinematics.inverse(position, dip)
            slowest = max(slowest, time.perf_counter() - begin)
            reached, rotation = kinematics.forward(joints)
            assert np.linalg.norm(reached - position) < 0.0006  # m
            assert np.max(np.abs(rotation - tool_rotation(azimuth, dip))) < 0.005
            assert np.all(joints >= kinematics.lower[:5] - 1e-6) and np.all(
                joints <= kinematics.upper[:5] + 1e-6
            )
    assert slowest < 0.05  # s; 0.4 ms is usual


@pytest.mark.parametrize(
    ("radius", "height", "dip"), [(0.6, 0.05, 0.7), (0.25, 0.20, 1.57), (0.05, 0.02, 0.3)]
)
def test_out_of_reach_is_said(kinematics, radius, height, dip):
    with pytest.raises(UnreachableError, match="no joint angles"):
        kinematics.inverse([PAN_AXIS[0] + radius, 0.0, height], dip)


def test_motions_keep_speed_and_acceleration_limits():
    path = np.array([[0.0] * 6, [1.0, -0.5, 0.2, 0.1, 0.0, 0.3], [1.2, 0.3, 0.4, 0.5, 0.0, 0.0]])
    part = segment("test", path)
    samples = np.stack([part.sample(t) for t in np.arange(0.0, part.duration, 0.005)])
    assert np.max(np.abs(np.diff(samples, axis=0))) / 0.005 <= 2.0
    assert np.max(np.abs(np.diff(samples, n=2, axis=0))) / 0.005**2 <= 8.0
    assert part.sample(0.0) == pytest.approx(path[0]) and part.sample(9.0) == pytest.approx(path[-1])
    stop = brake(path[0], np.array([1.9, -1.0, 0.0, 0.0, 0.0, 0.0]))
    assert stop.duration * 8.0 >= 1.9
    before_end = stop.sample(stop.duration) - stop.sample(stop.duration - 0.001)
    assert np.max(np.abs(before_end)) < 1e-4
