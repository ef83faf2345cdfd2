# SPDX-License-Identifier: Apache-2.0
"""States, torque, e-stop and lease, without a bus: an arm that goes where it is told, with a lag of one
cycle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from simulated_arm import ACCELERATION, DT, GOAL, LEASE, START, Arm

from chefmate_driver.arm.controller import ArmState, why_aborted
from chefmate_driver.arm.errors import TrajectoryRejectedError, TransitionError
from chefmate_driver.arm.model import LOWER, UPPER
from chefmate_driver.arm.safety import Limits


def assert_smooth(path: np.ndarray, before: np.ndarray) -> None:
    rows = np.vstack([before, before, path])
    assert (np.abs(np.diff(rows, n=2, axis=0)) / DT**2 <= ACCELERATION * (1 + 1e-6) + 1e-6).all()


def test_start_reads_and_writes_nothing() -> None:
    arm = Arm(torque=False)
    assert arm.control.state is ArmState.READY
    assert len(arm.run(0.5)) == 0


def test_an_arm_that_holds_already_is_taken_over_without_a_write() -> None:
    arm = Arm(torque=False)
    goals = START + 0.02  # it sags
    arm.control.connect(START, goals, True)
    assert arm.control.state is ArmState.HOLDING
    assert len(arm.run(0.5)) == 0
    arm.send()
    assert arm.run(0.02)[0] == pytest.approx(goals, abs=2e-3)


def test_a_joint_far_from_its_goal_is_taken_over_where_it_is() -> None:
    arm = Arm(torque=False)
    goals = START + np.array([0.5, 0, 0, 0, 0, 0])
    arm.control.connect(START, goals, True)
    assert arm.control.safety.position == pytest.approx(START)


def test_torque_on_holds_the_measured_pose() -> None:
    arm = Arm()
    assert arm.control.state is ArmState.HOLDING
    assert len(arm.run(0.3)) == 0
    assert arm.control.reason == ""


def test_a_trajectory_is_followed_to_its_end() -> None:
    arm = Arm()
    arm.send()
    path = arm.run(0.5)
    assert arm.control.state is ArmState.FOLLOWING
    assert_smooth(path, START)
    arm.run(0.6)
    assert arm.control.state is ArmState.HOLDING
    assert arm.position == pytest.approx(GOAL, abs=1e-6)
    assert arm.control.reason == ""
    assert arm.control.safety.interventions == 0


def test_a_new_trajectory_replaces_the_running_one_without_a_jump() -> None:
    arm = Arm()
    arm.send()
    first = arm.run(0.5)
    arm.send(goal=START)
    second = arm.run(2.0)
    assert_smooth(np.vstack([first, second]), START)
    assert arm.position == pytest.approx(START, abs=1e-6)


def test_a_future_stamp_keeps_the_old_trajectory_until_then() -> None:
    arm = Arm()
    arm.send(duration=2.0)
    arm.run(0.2)
    arm.send(after=0.4, goal=START)
    until_then = arm.run(0.38)
    assert (np.diff(until_then[:, 0]) > 0).all()
    assert arm.control.state is ArmState.FOLLOWING
    arm.run(3.0)
    assert arm.position == pytest.approx(START, abs=1e-6)


def test_a_waiting_trajectory_starts_though_the_running_one_ended_before() -> None:
    arm = Arm()
    arm.send(duration=0.3, goal=START + 0.1)
    arm.send(after=0.6, duration=1.0)
    arm.run(0.5)
    assert arm.control.state is ArmState.HOLDING
    assert arm.position == pytest.approx(START + 0.1, abs=1e-6)
    arm.run(1.3)
    assert arm.position == pytest.approx(GOAL, abs=1e-6)


def test_a_future_trajectory_waits_while_holding() -> None:
    arm = Arm()
    arm.send(after=0.3)
    assert len(arm.run(0.28)) == 0
    assert arm.control.state is ArmState.HOLDING
    arm.run(0.1)
    assert arm.control.state is ArmState.FOLLOWING


def test_a_leased_trajectory_is_followed_while_the_policy_drives() -> None:
    arm = Arm()
    arm.send(leased=True)
    arm.run(1.2, policy="DRIVING")
    assert arm.position == pytest.approx(GOAL, abs=1e-6)
    assert arm.control.reason == ""


def test_a_silent_policys_lease_ends_in_braking_and_holding() -> None:
    arm = Arm()
    arm.send(leased=True, duration=1.0)
    before = arm.run(LEASE - 0.02)
    assert arm.control.state is ArmState.FOLLOWING
    after = arm.run(0.04)
    assert arm.control.state is ArmState.BRAKING
    after = np.vstack([after, arm.run(0.5)])
    assert_smooth(np.vstack([before, after]), START)
    assert arm.control.state is ArmState.HOLDING
    assert arm.control.reason.startswith("policy lease ended: no heartbeat for 0.2")
    assert "DRIVING" in arm.control.reason
    assert np.abs(arm.position - GOAL).max() > 0.1


@pytest.mark.parametrize("said", ["IDLE", "HOLDING (scene camera: no frame)", "FAULT", "INACTIVE"])
def test_a_policy_that_leaves_off_driving_is_braked_in_the_next_cycle(said: str) -> None:
    arm = Arm()
    arm.send(leased=True)
    before = arm.run(0.5, policy="DRIVING")
    speed = np.abs(arm.control.safety.velocity[0])
    arm.control.heartbeat(False, said, arm.now)
    first = arm.run(DT)
    assert arm.control.state is ArmState.BRAKING
    assert np.abs(arm.control.safety.velocity[0]) == pytest.approx(speed - ACCELERATION[0] * DT)
    after = np.vstack([first, arm.run(0.5)])
    assert_smooth(np.vstack([before, after]), START)
    assert arm.control.state is ArmState.HOLDING
    assert arm.control.reason == f"policy lease ended: the policy is {said}"
    assert np.abs(arm.position - GOAL).max() > 0.1


def test_a_one_shot_trajectory_runs_on_when_the_policy_pauses() -> None:
    arm = Arm()
    arm.send()
    arm.run(1.2, policy="IDLE")
    assert arm.position == pytest.approx(GOAL, abs=1e-6)


def test_a_pause_forgets_a_leased_trajectory_that_waits_and_keeps_a_one_shot() -> None:
    arm = Arm()
    arm.send(leased=True, after=0.2)
    arm.control.heartbeat(False, "IDLE", arm.now)
    assert len(arm.run(0.5, policy="DRIVING")) == 0
    arm.send(after=0.2)
    arm.control.heartbeat(False, "IDLE", arm.now)
    arm.run(1.5)
    assert arm.position == pytest.approx(GOAL, abs=1e-6)


def test_an_older_chunk_that_comes_after_the_pause_began_does_not_revive_motion() -> None:
    arm = Arm()
    arm.send(leased=True)
    arm.run(0.5, policy="DRIVING")
    arm.control.heartbeat(False, "IDLE", arm.now)
    arm.run(0.03)
    arm.send(leased=True, after=-0.1)  # made before the pause, overtaken by the status
    arm.run(0.03)
    assert arm.control.state is ArmState.BRAKING
    arm.run(0.1)
    stopped = arm.position.copy()
    arm.control.heartbeat(True, "DRIVING", arm.now)
    arm.run(0.5)
    assert arm.control.state is ArmState.HOLDING
    assert arm.position == pytest.approx(stopped, abs=0.02)


def test_a_new_chunk_that_overtakes_its_status_starts_with_it() -> None:
    arm = Arm()
    arm.control.heartbeat(False, "HOLDING", arm.now)
    arm.run(0.1)
    arm.send(leased=True)
    assert len(arm.run(0.05)) == 0
    arm.control.heartbeat(True, "DRIVING", arm.now)
    arm.run(0.02)
    assert arm.control.state is ArmState.FOLLOWING


def test_a_late_chunk_after_the_status_is_followed_though_it_was_asked_for_before_the_pause() -> None:
    arm = Arm()
    arm.control.heartbeat(False, "HOLDING", arm.now)
    arm.run(0.1)
    arm.control.heartbeat(True, "DRIVING", arm.now)
    arm.send(leased=True, after=-0.2)
    arm.run(0.02)
    assert arm.control.state is ArmState.FOLLOWING


def test_a_chunk_whose_status_never_comes_is_forgotten_with_the_lease() -> None:
    arm = Arm()
    arm.control.heartbeat(False, "HOLDING", arm.now)
    arm.send(leased=True, duration=5.0)
    assert len(arm.run(LEASE + 0.05)) == 0
    assert arm.control.reason.startswith("policy lease ended: no heartbeat for 0.2")
    arm.control.heartbeat(True, "DRIVING", arm.now)
    assert len(arm.run(0.2)) == 0


def _release(arm: Arm) -> None:
    arm.control.latch_estop("e-stop: test")
    arm.run(1.0)
    arm.control.release_estop()


def _recover(arm: Arm) -> None:
    arm.control.lose("gone")
    arm.control.connect(arm.position, arm.position, True)
    arm.control.torque_on(arm.position)


def _switch(arm: Arm) -> None:
    arm.control.torque_off()
    arm.control.torque_on(arm.position)


def _activate(arm: Arm) -> None:
    arm.control.active = False
    arm.control.activate()


@pytest.mark.parametrize(
    ("come_back", "after"),
    [
        (_release, "the release of the e-stop"),
        (_recover, "torque was switched on"),
        (_switch, "torque was switched on"),
        (_activate, "the activation of the arm"),
    ],
)
def test_a_policy_that_drives_on_is_refused_until_it_has_paused(
    come_back: Callable[[Arm], None], after: str
) -> None:
    arm = Arm()
    come_back(arm)
    for _ in range(5):
        with pytest.raises(
            TrajectoryRejectedError,
            match=f"waiting for a new instruction or a pause of the policy after {after}",
        ):
            arm.send(leased=True)
        assert len(arm.run(0.1, policy="DRIVING")) == 0
    arm.send(goal=START + 0.05, duration=0.3)  # any client's one-shot
    arm.run(0.5)
    assert arm.position == pytest.approx(START + 0.05, abs=1e-6)
    arm.control.heartbeat(False, "IDLE", arm.now)
    arm.run(0.1)
    arm.control.heartbeat(True, "DRIVING", arm.now)
    arm.send(leased=True)
    arm.run(1.2, policy="DRIVING")
    assert arm.position == pytest.approx(GOAL, abs=1e-6)


def test_release_without_a_latch_asks_for_no_pause() -> None:
    arm = Arm()
    arm.control.release_estop()
    arm.send(leased=True)
    arm.run(0.1)
    assert arm.control.state is ArmState.FOLLOWING


def test_each_leased_trajectory_is_a_heartbeat_itself() -> None:
    arm = Arm()
    for _ in range(10):
        arm.send(leased=True, duration=2.0)
        arm.run(0.2)
    assert arm.control.state is ArmState.FOLLOWING


def test_a_one_shot_trajectory_needs_no_heartbeat() -> None:
    arm = Arm()
    arm.send(duration=2.0)
    arm.run(2.2)
    assert arm.position == pytest.approx(GOAL, abs=1e-6)


def test_after_a_lost_lease_a_new_trajectory_drives_again() -> None:
    arm = Arm()
    arm.send(leased=True)
    arm.run(0.9)
    assert arm.control.state is ArmState.HOLDING
    arm.send()
    arm.run(1.2)
    assert arm.position == pytest.approx(GOAL, abs=1e-6)
    assert arm.control.reason == ""


def test_the_estop_brakes_holds_and_latches() -> None:
    arm = Arm()
    arm.send()
    before = arm.run(0.5)
    arm.control.latch_estop("e-stop: test")
    assert arm.control.state is ArmState.ESTOPPED
    after = arm.run(1.0)
    assert_smooth(np.vstack([before, after]), START)
    assert arm.control.torque
    with pytest.raises(TrajectoryRejectedError, match="ESTOPPED: e-stop: test"):
        arm.send()
    with pytest.raises(TransitionError, match="ESTOPPED"):
        arm.control.move_slowly([[0.0] * 5], 0.5, arm.now)
    assert len(arm.run(0.5)) == 0
    assert np.abs(arm.position - GOAL).max() > 0.1


def test_the_estop_forgets_a_trajectory_that_waits() -> None:
    arm = Arm()
    arm.send(after=0.2)
    arm.control.latch_estop("e-stop: test")
    arm.run(0.1)
    arm.control.release_estop()
    arm.run(1.0)
    assert arm.position == pytest.approx(START)


def test_release_moves_nothing_and_allows_the_next_trajectory() -> None:
    arm = Arm()
    arm.send()
    arm.run(0.5)
    arm.control.latch_estop("e-stop: test")
    arm.run(1.0)
    arm.control.release_estop()
    assert arm.control.state is ArmState.HOLDING
    assert len(arm.run(0.5)) == 0
    arm.send()
    arm.run(1.2)
    assert arm.position == pytest.approx(GOAL, abs=1e-6)


def test_the_estop_gives_way_where_the_arm_pushes_but_not_in_the_gripper() -> None:
    obstacle = START + np.array([0.62, 9, 9, 9, 9, 0.05])
    arm = Arm(blocked_at=obstacle)
    arm.send()
    arm.run(1.5)
    assert arm.control.safety.position[0] - arm.position[0] > 0.15
    arm.control.latch_estop("e-stop: test")
    path = arm.run(3.0)
    assert_smooth(path, path[0])
    assert arm.control.safety.position[0] == pytest.approx(obstacle[0], abs=1e-3)
    assert arm.control.safety.position[5] == pytest.approx(GOAL[5], abs=1e-3)


def test_an_estop_without_torque_holds_back_torque_from_moving_anything() -> None:
    arm = Arm(torque=False)
    arm.control.latch_estop("e-stop: test")
    arm.control.torque_on(arm.position)
    assert arm.control.state is ArmState.ESTOPPED
    assert len(arm.run(0.3)) == 0


def test_without_torque_trajectories_are_refused() -> None:
    arm = Arm(torque=False)
    with pytest.raises(TrajectoryRejectedError, match="torque is off; call arm/torque first"):
        arm.send()


def test_an_inactive_node_refuses_trajectories() -> None:
    arm = Arm()
    arm.control.active = False
    with pytest.raises(TrajectoryRejectedError, match="not active"):
        arm.send()


def test_a_lost_bus_is_a_fault_that_sends_nothing_and_names_itself() -> None:
    arm = Arm()
    arm.send()
    arm.run(0.5)
    arm.control.lose("/dev/x is lost")
    assert arm.control.state is ArmState.FAULT
    assert arm.control.reason == "/dev/x is lost"
    assert len(arm.run(0.5)) == 0
    with pytest.raises(TrajectoryRejectedError, match="FAULT: /dev/x is lost"):
        arm.send()
    with pytest.raises(TransitionError, match="do not answer"):
        arm.control.check_torque_on()


def test_servos_found_again_stay_in_fault_until_torque_is_switched() -> None:
    arm = Arm()
    arm.control.lose("gone")
    arm.control.connect(arm.position, arm.position, True)
    assert arm.control.state is ArmState.FAULT
    arm.control.check_torque_on()
    arm.control.torque_on(arm.position)
    assert arm.control.state is ArmState.HOLDING
    assert arm.control.reason == ""


def test_torque_off_is_limp_at_once() -> None:
    arm = Arm()
    arm.send()
    arm.run(0.3)
    arm.control.torque_off()
    assert arm.control.state is ArmState.READY
    assert len(arm.run(0.3)) == 0


def test_shadow_mode_checks_and_never_commands() -> None:
    arm = Arm(torque=False, execute=False)
    arm.send()
    assert len(arm.run(0.5)) == 0
    assert arm.control.reason.startswith("shadow mode: execute is false")
    with pytest.raises(TransitionError, match="shadow mode"):
        arm.control.check_torque_on()
    arm.control.connect(arm.position, arm.position, True)
    arm.send()
    assert len(arm.run(0.5)) == 0
    assert "shadow mode" in arm.control.reason


def test_home_keeps_the_gripper_and_refuses_while_moving() -> None:
    arm = Arm()
    duration = arm.control.move_slowly([[0.0, -0.2, 0.2, 0.2, 0.1]], 0.5, arm.now)
    arm.run(0.2)
    with pytest.raises(TransitionError, match="FOLLOWING; wait until it holds"):
        arm.control.move_slowly([[0.0] * 5], 0.5, arm.now)
    arm.run(duration)
    assert arm.position == pytest.approx([0.0, -0.2, 0.2, 0.2, 0.1, START[5]], abs=1e-6)


def test_the_node_brakes_before_it_ends() -> None:
    arm = Arm()
    arm.send()
    before = arm.run(0.5)
    arm.control.brake("the arm node ends")
    assert not arm.control.at_rest
    after = arm.run(0.5)
    assert_smooth(np.vstack([before, after]), START)
    assert arm.control.at_rest
    assert arm.control.reason == "the arm node ends"


def test_a_trajectory_that_the_filter_stops_says_so() -> None:
    arm = Arm()
    floor = Limits(LOWER, UPPER, np.full(6, 2.0), ACCELERATION, 0.1)
    arm.control.safety.limits = floor
    arm.send(goal=np.array([0.1, 1.2, 0.4, 0.2, 0.0, 0.3]))
    arm.run(3.0)
    assert arm.control.state is ArmState.HOLDING
    assert arm.control.reason == "stopped by the safety filter: table"


def test_an_arm_whose_node_ends_takes_nobodys_trajectory_and_still_parks() -> None:
    arm = Arm()
    arm.send()
    arm.run(0.3)
    arm.control.leave("the arm node ends")
    with pytest.raises(TrajectoryRejectedError, match="the arm node ends"):
        arm.send()
    arm.run(0.5)
    with pytest.raises(TrajectoryRejectedError, match="the arm node ends"):
        arm.send(leased=True)
    arm.lead(START)
    with pytest.raises(TransitionError, match="the arm node ends"):
        arm.control.engage(arm.now)
    assert arm.control.state is ArmState.HOLDING
    arm.control.move_slowly([START[:5]], 0.8, arm.now)
    arm.run(2.0)
    assert arm.position[:5] == pytest.approx(START[:5], abs=5e-3)


def test_a_gripper_that_squeezes_when_a_node_takes_over_keeps_its_goal() -> None:
    arm = Arm(torque=False)
    goals = START.copy()
    goals[5] = 0.0  # it is held open at 0.3 by what it squeezes
    arm.control.connect(START, goals, True)
    assert arm.control.safety.position == pytest.approx(goals)
    arm.control.connect(START, goals, False)
    assert arm.control.safety.position == pytest.approx(START)


@pytest.mark.parametrize(
    ("state", "reason", "text"),
    [
        (ArmState.FOLLOWING, "", "replaced by another trajectory"),
        (ArmState.READY, "", "torque was switched off"),
        (ArmState.TELEOPERATED, "", "given up: the arm is TELEOPERATED"),
        (ArmState.FAULT, "/dev/x is lost", "the arm is FAULT: /dev/x is lost"),
    ],
)
def test_an_aborted_goal_says_what_ended_it(state: ArmState, reason: str, text: str) -> None:
    assert why_aborted(state, reason) == text
