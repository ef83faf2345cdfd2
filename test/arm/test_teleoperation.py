# SPDX-License-Identifier: Apache-2.0
"""Following a leader: engagement, tracking, staleness, and what a leader may not do."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_arm import DT, LEASE, START, Arm

from chefmate_driver.arm.controller import ArmState
from chefmate_driver.arm.errors import TrajectoryRejectedError, TransitionError
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.teleoperation import leader_pose

AWAY = START + np.array([0.6, 0.3, -0.2, 0.1, 0.4, 0.5])
SLOW = 0.8  # rad/s, ArmController's default


def engaged(pose: np.ndarray = AWAY) -> Arm:
    arm = Arm()
    arm.lead(pose)
    arm.control.engage(arm.now)
    return arm


def test_engagement_is_a_slow_ramp_from_where_the_arm_is() -> None:
    arm = engaged()
    path = arm.run(0.4, leader=AWAY)
    speed = np.abs(np.diff(np.vstack([START, path]), axis=0)).max() / DT
    assert 0.5 * SLOW < speed < 1.2 * SLOW
    assert arm.control.state is ArmState.TELEOPERATED
    assert arm.control.reason.startswith("engaging: shoulder_pan is 0.")
    arm.run(1.5, leader=AWAY)
    assert arm.position == pytest.approx(AWAY, abs=1e-3)
    assert arm.control.reason == ""


def test_once_engaged_the_arm_follows_without_steps_though_the_leader_is_slower_than_the_loop() -> None:
    arm = engaged(START)
    arm.run(0.2, leader=START)
    path = []
    for index in range(60):  # a leader at 50 Hz that swings with up to 1.5 rad/s
        pose = START + np.array([0.5 * np.sin(3.0 * index * 0.02), 0, 0, 0, 0, 0])
        arm.lead(pose)
        path.append(arm.run(0.02))
    joined = np.vstack(path)[:, 0]
    speed = np.diff(joined) / DT
    assert np.abs(joined - START[0]).max() > 0.45
    assert np.abs(np.diff(speed)).max() < 0.12, "no step between two commands of the leader"


def test_the_gripper_is_mirrored_too() -> None:
    arm = engaged(START)
    arm.run(0.2, leader=START)
    arm.run(1.0, leader=START + np.array([0, 0, 0, 0, 0, 0.3]))
    assert arm.position[5] == pytest.approx(START[5] + 0.3, abs=1e-3)


def test_a_leader_that_jumps_is_followed_slowly_again() -> None:
    arm = engaged(START)
    arm.run(0.2, leader=START)
    path = arm.run(0.3, leader=AWAY)
    assert np.abs(np.diff(path, axis=0)).max() / DT < 1.2 * SLOW
    assert arm.control.reason.startswith("engaging: ")


@pytest.mark.parametrize("tracking", [True, False])
def test_a_silent_leader_is_braked_named_and_must_be_engaged_anew(tracking: bool) -> None:
    arm = engaged(START if tracking else AWAY)
    arm.run(0.2, leader=START if tracking else AWAY)
    arm.run(0.6)
    assert arm.control.state is ArmState.HOLDING
    assert arm.control.reason == "teleoperation ended: the leader is silent for 0.26 s (limit 0.25 s)"
    assert len(arm.run(0.5, leader=AWAY)) == 0, "it does not drive again by itself"


def test_old_stamps_are_stale_however_often_they_come() -> None:
    arm = engaged(START)
    arm.run(0.1, leader=START)
    made = arm.now
    for _ in range(40):
        arm.control.leader.heard(AWAY, made, arm.now)
        arm.run(DT)
    assert arm.control.state is ArmState.HOLDING
    assert arm.position == pytest.approx(START, abs=1e-6)


def test_engaging_without_a_fresh_leader_is_refused() -> None:
    arm = Arm()
    with pytest.raises(TransitionError, match=r"nothing fresh on teleop/joint_command yet \(limit 0.25 s\)"):
        arm.control.engage(arm.now)
    arm.lead(START)
    arm.run(0.3)
    with pytest.raises(TransitionError, match=r"nothing fresh on teleop/joint_command for 0\.30 s"):
        arm.control.engage(arm.now)


def test_while_engaged_trajectories_are_refused_and_the_policy_must_pause_afterwards() -> None:
    arm = engaged(START)
    for leased in (True, False):
        with pytest.raises(TrajectoryRejectedError, match="TELEOPERATED; end that with arm"):
            arm.send(leased=leased)
    with pytest.raises(TransitionError, match=r"TELEOPERATED; wait until it holds"):
        arm.control.move_slowly([[0.0] * 5], 0.5, arm.now)
    arm.control.disengage("arm/teleop false was called")
    arm.run(0.3, policy="DRIVING")
    with pytest.raises(TrajectoryRejectedError, match="a pause of the policy after teleoperation"):
        arm.send(leased=True)
    arm.control.heartbeat(False, "IDLE", arm.now)
    arm.control.heartbeat(True, "DRIVING", arm.now)
    arm.send(leased=True)
    arm.run(LEASE / 2)
    assert arm.control.state is ArmState.FOLLOWING


def test_the_leader_takes_over_a_moving_arm_without_a_jump() -> None:
    arm = Arm()
    arm.send(duration=2.0)
    before = arm.run(0.5)
    arm.lead(START)
    arm.control.engage(arm.now)
    after = arm.run(0.5, leader=START)
    speed = np.diff(np.vstack([before, after]), axis=0) / DT
    assert (np.abs(np.diff(speed, axis=0)) / DT).max() < 41.0  # rad/s^2, the largest limit


def test_a_leaders_limits_are_the_filters() -> None:
    arm = engaged(START)
    arm.run(0.2, leader=START)
    for pan in np.arange(0.0, 3.0, 0.1):
        arm.run(0.02, leader=START + np.array([pan, 0, 0, 0, 0, 0]))
    arm.run(2.0, leader=START + np.array([3.0, 0, 0, 0, 0, 0]))
    assert arm.position[0] <= arm.control.safety.limits.upper[0] + 1e-9


@pytest.mark.parametrize(
    ("names", "positions", "words"),
    [
        (JOINT_NAMES[:5], [0.0] * 5, "it has 5 for shoulder_pan"),
        (JOINT_NAMES, [0.0] * 5, "it has 5 for"),
        ((*JOINT_NAMES[:5], "jaw"), [0.0] * 6, "jaw"),
        ((*JOINT_NAMES[:5], "wrist_roll"), [0.0] * 6, "wrist_roll"),
        (JOINT_NAMES, [0.0, float("nan"), 0.0, 0.0, 0.0, 0.0], "shoulder_lift is nan"),
        (JOINT_NAMES, [0.0, 0.0, 0.0, 0.0, 0.0, float("inf")], "gripper is inf"),
        ((), [], "no joint"),
    ],
)
def test_a_wrong_command_is_named(names: tuple[str, ...], positions: list[float], words: str) -> None:
    with pytest.raises(TrajectoryRejectedError, match=words):
        leader_pose(names, positions)


def test_a_commands_joints_may_come_in_any_order() -> None:
    pose = leader_pose(tuple(reversed(JOINT_NAMES)), [5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert pose == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
