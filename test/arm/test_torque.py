# SPDX-License-Identifier: Apache-2.0
"""Torque and silence in the control loop, on emulated servos: in which order things are written, what comes
of a call that nobody waits for any more, and whose silence it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from looped_arm import GRIPPER, Loop, limits_of

from chefmate_driver.arm.controller import LEFT_HOLDING, ArmState
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.trajectory import Trajectory
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.faults import Fault, FaultKind, FaultScript
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_driver.feetech.registers import register

IDS = range(1, 7)
TORQUE, GOAL_POSITION, LIMIT = (
    register(name).address for name in ("torque_enable", "goal_position", "torque_limit")
)


@pytest.fixture
def arm(port: EmulatedPort, tmp_path: Path) -> Iterator[Loop]:
    with Loop(port, tmp_path / "box") as made:
        yield made


def goals_of(port: EmulatedPort) -> list[int]:
    return [servo.get("goal_position") for servo in port.emulator.servos]


def blocked(arm: Loop) -> Callable[[], None]:
    """Stops the loop's thread within a cycle; returns what lets it go on."""
    go_on, stands = threading.Event(), threading.Event()
    take = arm.loop._on_sample

    def stand(sample: Any) -> None:
        stands.set()
        go_on.wait(20.0)
        take(sample)

    arm.loop._on_sample = stand
    assert stands.wait(20.0)

    def release() -> None:
        arm.loop._on_sample = take
        go_on.set()

    return release


def test_torque_that_nobody_waits_for_any_more_does_not_come_on_later(arm: Loop, plant: SimplePlant) -> None:
    release = blocked(arm)
    with pytest.raises(ArmError, match=r"did not get to it within 0.1 s, so torque was left as it is"):
        arm.loop.set_torque(True, timeout=0.1)
    release()
    count = len(arm.samples)
    arm.until(lambda: len(arm.samples) > count + 20, "twenty readings")
    assert arm.control.state is ArmState.READY
    assert not plant.enabled.any()


def test_torque_that_is_being_switched_is_waited_for(arm: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = arm.loop.torque.on

    def slow(*words: Any) -> None:
        time.sleep(0.3)
        switch(*words)

    monkeypatch.setattr(arm.loop.torque, "on", slow)
    arm.loop.set_torque(True, timeout=0.25)
    assert arm.control.state is ArmState.HOLDING


def test_no_servo_gets_more_torque_for_a_goal_that_is_not_where_it_is(
    arm: Loop, port: EmulatedPort, plant: SimplePlant
) -> None:
    arm.loop.set_torque(True)
    arm.until(lambda: arm.control.at_rest, "a standing arm")
    port.play(FaultScript((Fault(FaultKind.DISCONNECT, duration=0.3),)))
    arm.until_state(ArmState.FAULT)
    # Somebody else's: hardly any torque, for a goal that is far away.
    elbow = port.emulator.servos[2]
    elbow.jam()
    elbow._store("torque_limit", 50)
    elbow._store("goal_position", elbow.get("present_position") + 400)
    arm.until(lambda: arm.control.connected, "the servos again")
    pushed = []
    write = elbow.write

    def watch(address: int, data: bytes) -> None:
        write(address, data)
        if address == LIMIT:
            pushed.append(abs(elbow.get("goal_position") - elbow.get("present_position")))

    elbow.write = watch  # type: ignore[method-assign]
    arm.loop.set_torque(True)
    assert pushed and max(pushed) < 12  # ticks


def test_torque_after_a_replug_does_not_loosen_what_the_gripper_squeezes(
    arm: Loop, port: EmulatedPort
) -> None:
    port.play(FaultScript((Fault(FaultKind.STUCK, ids=(GRIPPER,)),)))
    arm.loop.set_torque(True)
    now = time.monotonic()
    goal = arm.control.measured.copy()
    goal[5] = 0.0
    with arm.loop.edit():
        arm.control.accept(Trajectory(now, now + 0.5 * (goal[:1] * 0 + 1), goal[None], 0 * goal[None]), now)
    arm.until(lambda: limits_of(port)[5] < 400, "a squeezing gripper")
    port.play(FaultScript((Fault(FaultKind.DISCONNECT, duration=0.3),)))
    arm.until_state(ArmState.FAULT)
    arm.until(lambda: arm.control.connected, "the servos again")
    before = goals_of(port)
    present = port.emulator.servos[5].get("present_position")
    assert abs(before[5] - present) > 60, "it squeezes: its goal is beyond where it is"
    arm.loop.set_torque(True)
    assert arm.control.state is ArmState.HOLDING
    assert goals_of(port)[5] == before[5]
    assert arm.control.grips(0.05)


def test_servos_that_held_already_get_this_nodes_speed_and_acceleration_once_it_is_active(
    port: EmulatedPort, tmp_path: Path
) -> None:
    with FeetechBus(str(port.link), reply_timeout=0.1) as bus:
        bus.sync_write("goal_position", bus.sync_read("present_position", IDS))
        bus.sync_write("goal_speed", dict.fromkeys(IDS, 100))
        bus.sync_write("acceleration", dict.fromkeys(IDS, 5))
        bus.sync_write("torque_enable", dict.fromkeys(IDS, 1))
        assert bus.read(GRIPPER, "torque_enable") == 1
        bus.write(1, "goal_position", bus.read(1, "present_position") + 900)  # still under way
    made = Loop(port, tmp_path / "box")
    made.loop.connect()
    made.loop.start()
    try:
        made.until(lambda: len(made.samples) > 20, "twenty readings")
        assert {servo.get("goal_speed") for servo in port.emulator.servos} == {100}
        with made.loop.edit():
            made.control.activate()
        made.until(lambda: made.loop.torque.adopts is False, "an arm that is taken over")
        assert {servo.get("goal_speed") for servo in port.emulator.servos} == {0}
        assert {servo.get("acceleration") for servo in port.emulator.servos} == {254}
        assert made.control.state is ArmState.HOLDING and made.why == LEFT_HOLDING
        pan = port.emulator.servos[0]
        made.until(lambda: made.control.at_rest, "a standing arm")
        assert abs(pan.get("goal_position") - pan.get("present_position")) < 12
    finally:
        made.loop.stop()


def test_a_refused_torque_is_a_fault(arm: Loop, port: EmulatedPort) -> None:
    elbow = port.emulator.servos[2]
    write = elbow.write
    elbow.write = (  # type: ignore[method-assign]
        lambda address, data: None if address == TORQUE else write(address, data)
    )
    with pytest.raises(ArmError, match=r"do not take torque_enable \(id: value read back 3: 0\)"):
        arm.loop.set_torque(True)
    assert arm.control.state is ArmState.FAULT
    assert arm.why.startswith("torque could not be switched on: servos do not take torque_enable")
    elbow.write = write  # type: ignore[method-assign]
    arm.loop.set_torque(True)
    assert arm.control.state is ArmState.HOLDING


def test_servos_that_are_silent_in_turns_brake_the_arm(arm: Loop) -> None:
    arm.loop.set_torque(True)
    arm.move()
    servos = arm.loop._servos
    assert servos is not None
    read, count = servos.feedback, 0

    def in_turns(deadline: float) -> dict[int, Any]:
        nonlocal count
        count += 1
        found = read(deadline)
        found.pop(2 + count % 2, None)
        return found

    servos.feedback = in_turns  # type: ignore[method-assign]
    arm.until(lambda: arm.why.startswith("no reading of all servos for 0.05 s, servo "), "a named silence")
    arm.until(lambda: arm.control.safety.still, "a standing command")
    assert arm.control.state in (ArmState.HOLDING, ArmState.BRAKING)
    servos.feedback = read  # type: ignore[method-assign]
    arm.until(lambda: not arm.control.blind and arm.control.at_rest, "all servos again")


def test_a_loop_that_stood_still_says_so_and_blames_no_servo(arm: Loop) -> None:
    arm.loop.set_torque(True)
    arm.move()
    servos = arm.loop._servos
    assert servos is not None
    read, left, states = servos.feedback, 2, set()

    def without_elbow(deadline: float) -> dict[int, Any]:
        """The first two readings after the pause lack a servo."""
        nonlocal left
        found = read(deadline)
        if left:
            left -= 1
            found.pop(3, None)
        return found

    release = blocked(arm)
    servos.feedback = without_elbow  # type: ignore[method-assign]
    time.sleep(0.7)  # longer than a servo may be silent
    release()
    arm.until(lambda: states.add(arm.control.state) or arm.control.at_rest, "a standing arm")
    assert left == 0
    assert ArmState.FAULT not in states
    assert arm.why.startswith("the arm node itself stood still for 0.")
    assert arm.loop.hearing.stalls >= 1
    assert arm.loop.hearing.longest_stall > 0.5
    arm.move()
