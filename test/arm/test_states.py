# SPDX-License-Identifier: Apache-2.0
"""The table of transitions in docs/arm.md, row by row, on the controller: state, torque and what is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from simulated_arm import ACCELERATION, DT, START, Arm

from chefmate_driver.arm.controller import LEFT_HOLDING, ArmState
from chefmate_driver.arm.errors import TrajectoryRejectedError, TransitionError
from chefmate_driver.arm.protection import Stage, Verdict

HOT = Verdict(Stage.HOLD, 0.3, ("elbow_flex",), "elbow_flex is at 61 degrees Celsius", 0.5)
WARM = Verdict(Stage.SLOW, 0.5, ("elbow_flex",), "elbow_flex is at 57 degrees Celsius", 0.5)
COOKED = Verdict(Stage.RELEASE, 0.3, ("elbow_flex",), "elbow_flex is at 66 degrees Celsius", 0.5)
WELL = Verdict(Stage.NORMAL, 1.0, (), "", 0.5)
PARK = [[0.8, -1.0, 0.8, 0.6, 0.0], [0.0, -1.2, 1.0, 0.7, 0.0]]


def ready() -> Arm:
    return Arm(torque=False)


def holding() -> Arm:
    return Arm()


def following() -> Arm:
    arm = Arm()
    arm.send(duration=3.0)
    arm.run(0.4)
    assert arm.control.state is ArmState.FOLLOWING
    return arm


def teleoperated() -> Arm:
    arm = Arm()
    arm.lead(START + 0.1)
    arm.control.engage(arm.now)
    arm.run(0.2, leader=START + 0.1)
    assert arm.control.state is ArmState.TELEOPERATED
    return arm


def unpowered() -> Arm:
    arm = Arm(torque=False)
    arm.control.disconnect()
    return arm


def fault() -> Arm:
    arm = following()
    arm.control.lose("/dev/x is lost")
    return arm


def found_again() -> Arm:
    arm = fault()
    arm.control.connect(arm.position, arm.position, True)
    return arm


def estopped() -> Arm:
    arm = following()
    arm.control.latch_estop("e-stop: test")
    arm.run(1.0)
    return arm


def estopped_limp() -> Arm:
    arm = estopped()
    arm.control.torque_off()
    return arm


def protected() -> Arm:
    arm = following()
    arm.control.protect(HOT)
    arm.run(1.0)
    return arm


def lose(arm: Arm) -> None:
    arm.control.lose("/dev/x is lost")


def torque_lost(arm: Arm) -> None:
    arm.control.fail("torque went off by itself: gripper (status: overload)")


def torque_on(arm: Arm) -> None:
    arm.control.check_torque_on()
    arm.control.torque_on(arm.position)


def torque_off(arm: Arm) -> None:
    arm.control.torque_off()


def estop(arm: Arm) -> None:
    arm.control.latch_estop("e-stop: test")


def release(arm: Arm) -> None:
    arm.control.release_estop()


def trajectory(arm: Arm) -> None:
    arm.send(duration=3.0)


def home(arm: Arm) -> None:
    arm.control.move_slowly(PARK[:1], 0.8, arm.now)


def engage(arm: Arm) -> None:
    arm.lead(arm.position)
    arm.control.engage(arm.now)


def disengage(arm: Arm) -> None:
    arm.control.disengage("arm/teleop false was called")


def deactivate(arm: Arm) -> None:
    arm.control.brake("the arm node was deactivated")
    arm.control.active = False


def end(arm: Arm) -> None:
    arm.control.brake("the arm node ends")


def found_holding(arm: Arm) -> None:
    arm.control.connect(arm.position, arm.position, True)


def found_limp(arm: Arm) -> None:
    arm.control.connect(arm.position, arm.position, False)


def hot(arm: Arm) -> None:
    arm.control.protect(HOT)


def well(arm: Arm) -> None:
    arm.control.protect(WELL)


def silent(arm: Arm) -> None:
    arm.control.lose_sight("servo 3 (elbow_flex) has not answered for 0.06 s")


def wait(arm: Arm) -> None:
    """Nobody commands anything: what ends, ends by itself."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what comes in a state, and what is so a second later."""

    before: Callable[[], Arm]
    event: Callable[[Arm], None]
    after: ArmState
    torque: bool  # as the controller knows it
    brakes: bool = False  # True: commands go on until the arm stands; False: none is sent at all
    moves: bool = False  # True: it is still on its way
    reason: str = ""  # beginning


TABLE = (
    # start: nothing moves
    Row(unpowered, found_limp, ArmState.READY, False),
    Row(unpowered, found_holding, ArmState.HOLDING, True, reason=LEFT_HOLDING),
    # torque by hand
    Row(ready, torque_on, ArmState.HOLDING, True),
    Row(holding, torque_off, ArmState.READY, False),
    Row(following, torque_off, ArmState.READY, False),
    Row(teleoperated, torque_off, ArmState.READY, False),
    # motion
    Row(holding, trajectory, ArmState.FOLLOWING, True, moves=True),
    Row(holding, home, ArmState.FOLLOWING, True, moves=True),
    Row(holding, engage, ArmState.TELEOPERATED, True, moves=True),
    Row(following, engage, ArmState.TELEOPERATED, True, moves=True),
    Row(
        teleoperated, disengage, ArmState.HOLDING, True, brakes=True, reason="teleoperation ended: arm/teleop"
    ),
    Row(
        teleoperated,
        wait,
        ArmState.HOLDING,
        True,
        brakes=True,
        reason="teleoperation ended: the leader is silent",
    ),
    # e-stop
    Row(ready, estop, ArmState.ESTOPPED, False, reason="e-stop: test"),
    Row(holding, estop, ArmState.ESTOPPED, True, brakes=True, reason="e-stop: test"),
    Row(following, estop, ArmState.ESTOPPED, True, brakes=True, reason="e-stop: test"),
    Row(teleoperated, estop, ArmState.ESTOPPED, True, brakes=True, reason="e-stop: test"),
    Row(fault, estop, ArmState.FAULT, False, reason="/dev/x is lost"),
    Row(estopped, release, ArmState.HOLDING, True),
    Row(estopped, torque_off, ArmState.ESTOPPED, False, reason="e-stop: test"),
    Row(estopped_limp, torque_on, ArmState.ESTOPPED, True, reason="e-stop: test"),
    Row(estopped_limp, release, ArmState.READY, False),
    Row(estopped, lose, ArmState.FAULT, False, reason="/dev/x is lost"),
    # faults: nothing more is sent
    Row(holding, lose, ArmState.FAULT, False, reason="/dev/x is lost"),
    Row(following, lose, ArmState.FAULT, False, reason="/dev/x is lost"),
    Row(teleoperated, lose, ArmState.FAULT, False, reason="/dev/x is lost"),
    Row(following, torque_lost, ArmState.FAULT, False, reason="torque went off by itself"),
    Row(fault, found_holding, ArmState.FAULT, False, reason="/dev/x is lost"),
    Row(found_again, torque_on, ArmState.HOLDING, True),
    Row(found_again, torque_off, ArmState.READY, False),
    Row(
        following, silent, ArmState.HOLDING, True, brakes=True, reason="servo 3 (elbow_flex) has not answered"
    ),
    Row(
        teleoperated,
        silent,
        ArmState.HOLDING,
        True,
        brakes=True,
        reason="servo 3 (elbow_flex) has not answered",
    ),
    # protection
    Row(following, hot, ArmState.HOLDING, True, brakes=True, reason=HOT.reason),
    Row(teleoperated, hot, ArmState.HOLDING, True, brakes=True, reason=HOT.reason),
    Row(protected, well, ArmState.HOLDING, True, reason=HOT.reason),
    # the end of the node
    Row(following, deactivate, ArmState.HOLDING, True, brakes=True, reason="the arm node was deactivated"),
    Row(
        teleoperated,
        deactivate,
        ArmState.HOLDING,
        True,
        brakes=True,
        reason="teleoperation ended: the arm node",
    ),
    Row(following, end, ArmState.HOLDING, True, brakes=True, reason="the arm node ends"),
)


def row_name(row: Row) -> str:
    return f"{row.before.__name__}-{row.event.__name__}"


@pytest.mark.parametrize("row", TABLE, ids=row_name)
def test_the_table_of_transitions(row: Row) -> None:
    arm = row.before()
    before, velocity = arm.control.safety.position.copy(), arm.control.safety.velocity.copy()
    moving = np.abs(velocity).max() > 0.01
    row.event(arm)
    sent = arm.run(1.0, leader=arm.position) if row.event is engage else arm.run(1.0)
    assert arm.control.state is row.after
    assert arm.control.torque is row.torque
    assert arm.control.reason.startswith(row.reason) and (row.reason or not arm.control.reason)
    if row.moves:
        assert len(sent) == round(1.0 / DT)
    elif row.brakes and moving:
        assert 0 < len(sent) < round(1.0 / DT), "braked, and then stood"
        path = np.vstack([before - velocity * DT, before, sent])
        acceleration = np.diff(path, n=2, axis=0) / DT**2
        assert (np.abs(acceleration) <= ACCELERATION * (1 + 1e-6) + 1e-6).all()
        if row.event is wait:  # for a while it went on
            return
        assert np.abs(sent - before).max() <= (velocity**2 / (2 * ACCELERATION)).max() + 0.02
    elif not row.brakes:
        assert len(sent) == 0


@pytest.mark.parametrize("before", [unpowered, ready, fault, found_again, estopped, protected])
def test_states_in_which_nothing_can_be_started(before: Callable[[], Arm]) -> None:
    arm = before()
    with pytest.raises(TrajectoryRejectedError):
        arm.send()
    with pytest.raises(TransitionError):
        home(arm)
    with pytest.raises(TransitionError):
        engage(arm)
    assert len(arm.run(0.5)) == 0


@pytest.mark.parametrize("before", [unpowered, fault])
def test_torque_cannot_be_switched_on_without_servos(before: Callable[[], Arm]) -> None:
    with pytest.raises(TransitionError, match="do not answer"):
        before().control.check_torque_on()


def test_only_some_servos_that_hold_are_named() -> None:
    arm = unpowered()
    arm.control.connect(arm.position, arm.position, False, "gripper held torque already")
    assert arm.control.state is ArmState.READY and arm.control.reason == "gripper held torque already"


def test_a_silent_servo_that_answers_again_lets_the_arm_move_again() -> None:
    arm = following()
    silent(arm)
    arm.run(0.5)
    with pytest.raises(TrajectoryRejectedError, match="does not move blindly: servo 3"):
        arm.send()
    arm.control.lose_sight("")
    assert len(arm.run(0.3)) == 0
    assert arm.control.reason == "servo 3 (elbow_flex) has not answered for 0.06 s"
    arm.send()
    arm.run(0.1)
    assert arm.control.state is ArmState.FOLLOWING


# Protection


def test_a_warm_servo_slows_and_a_cool_one_is_fast_again() -> None:
    arm = Arm()
    arm.control.protect(WARM)
    assert arm.control.speed_override == pytest.approx(0.5)
    arm.send(duration=0.1, goal=START + np.array([1.0, 0, 0, 0, 0, 0]))
    path = arm.run(0.5)
    assert np.abs(np.diff(path[:, 0])).max() / DT == pytest.approx(1.0, rel=0.01)  # half of 2 rad/s
    arm.control.protect(WELL)
    arm.send(duration=0.1, goal=START - np.array([1.0, 0, 0, 0, 0, 0]))
    path = arm.run(0.7)
    assert np.abs(np.diff(path[:, 0])).max() / DT == pytest.approx(2.0, rel=0.01)


def test_while_protected_a_trajectory_is_refused_with_the_reason() -> None:
    arm = protected()
    with pytest.raises(TrajectoryRejectedError, match="protected: elbow_flex is at 61"):
        arm.send()
    arm.control.protect(WELL)
    arm.send()
    arm.run(0.1)
    assert arm.control.state is ArmState.FOLLOWING


def test_a_release_parks_first_and_lets_go_then() -> None:
    arm = following()
    arm.control.park_path = PARK
    arm.control.protect(COOKED)
    arm.run(1.0)
    assert not arm.control.let_go and arm.control.state is ArmState.FOLLOWING
    with pytest.raises(TrajectoryRejectedError, match="66 degrees"):
        arm.send()
    for _ in range(60):
        arm.run(0.5)
        if arm.control.let_go:
            break
    assert arm.control.let_go
    assert arm.position[:5] == pytest.approx(PARK[-1], abs=1e-3)
    arm.control.fail(COOKED.reason)  # as the loop does once torque is off
    assert arm.control.state is ArmState.FAULT and not arm.control.let_go
    torque_on(arm)
    assert arm.control.state is ArmState.HOLDING and arm.control.reason == ""


def test_a_release_that_cannot_park_lets_go_in_bounded_time() -> None:
    arm = Arm(blocked_at=START + 0.01)
    arm.control.park_path = [[1.5, 0.4, 1.0, 1.0, 1.0]]
    arm.control.protect(COOKED)
    for _ in range(60):
        arm.run(0.5)
        if arm.control.let_go:
            break
    assert arm.control.let_go


def test_a_release_while_estopped_moves_nothing() -> None:
    arm = estopped()
    arm.control.park_path = PARK
    before = arm.position.copy()
    arm.control.protect(COOKED)
    arm.run(0.5)
    assert arm.control.let_go
    assert arm.position == pytest.approx(before, abs=1e-6)


def test_a_joint_that_does_not_follow_gives_way_and_is_named() -> None:
    arm = Arm(blocked_at=START + np.array([0.1, 9, 9, 9, 9, 9]))
    arm.send(goal=START + np.array([1.2, 0, 0, 0, 0, 0]))
    arm.run(3.0)
    assert arm.control.state is ArmState.HOLDING
    assert arm.control.reason.startswith("shoulder_pan does not follow")
    assert arm.control.safety.position[0] == pytest.approx(arm.position[0], abs=0.01)


def test_after_an_estop_nothing_gives_way_while_a_servo_is_silent() -> None:
    """A servo that lost its supply sags; its goal must not go along before anybody knows that it is limp."""
    arm = following()
    estop(arm)
    silent(arm)
    arm.run(0.5)
    assert arm.control.safety.still
    fallen = arm.position = arm.position + np.array([0.0, 0.3, 0.0, 0.2, 0.0, 0.0])
    assert len(arm.run(1.0)) == 0
    arm.control.lose_sight("")
    assert arm.run(2.0)[-1] == pytest.approx(fallen, abs=2e-3), "seen again, it gives way"
    assert arm.control.state is ArmState.ESTOPPED


def test_a_release_waits_while_a_servo_is_silent() -> None:
    arm = holding()
    arm.control.park_path = PARK
    silent(arm)
    arm.control.protect(COOKED)
    commands = arm.run(1.0)
    assert not arm.control.let_go
    assert len(commands) == 0 or np.abs(commands - START).max() < 1e-9
    arm.control.lose_sight("")
    assert np.abs(arm.run(1.0)[-1] - START).max() > 0.05, "seen again, it parks"


def test_a_protected_joint_gives_way_until_it_does_not_push_any_more() -> None:
    """What it presses on gives by half: settled once it would push with half of the error again."""
    arm = Arm(blocked_at=START + np.array([9, 0.05, 9, 9, 9, 9]), give=0.5)
    arm.send(duration=0.5)
    arm.run(0.45)
    pressed = arm.sent[-1]
    assert pressed is not None and pressed[1] - arm.position[1] > 0.05
    arm.control.protect(HOT)
    arm.run(2.5)
    assert arm.control.state is ArmState.HOLDING
    left = [command for command in arm.sent if command is not None][-1]
    assert abs(left[1] - arm.position[1]) < 0.0015  # a servo tick
    assert np.abs(np.delete(left - pressed, 1)).max() < 0.2  # the others brake and stay


def test_without_protection_a_joint_that_sags_keeps_its_goal() -> None:
    arm = Arm(blocked_at=START + np.array([9, 0.05, 9, 9, 9, 9]), give=0.8)
    arm.send(duration=0.5)
    arm.run(0.3)
    arm.control.latch_estop("e-stop: test")
    arm.run(1.0)
    goal = [command for command in arm.sent if command is not None][-1]
    assert 0.003 < goal[1] - arm.position[1] < 0.05
