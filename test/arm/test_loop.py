# SPDX-License-Identifier: Apache-2.0
"""The control loop on emulated servos behind a pty, without ROS: torque limits, lost supplies, what the
protection does to the servos, and a bus that is slower than the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looped_arm import GOAL, GRIPPER, PARK, TWIN, Loop, limits_of

from chefmate_driver.arm.black_box import story
from chefmate_driver.arm.controller import LEFT_HOLDING, ArmState
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.errors import ArmError, TrajectoryRejectedError
from chefmate_driver.arm.inspection import Inspection
from chefmate_driver.arm.loop import VITALS_RATE
from chefmate_driver.arm.protection import Protection, ProtectionLimits, Thresholds
from chefmate_driver.arm.trajectory import Trajectory
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.errors import ServoMissingError
from chefmate_driver.feetech.faults import Fault, FaultKind, FaultScript
from chefmate_driver.feetech.packet import encode
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_driver.feetech.registers import FEEDBACK_SIZE
from chefmate_driver.feetech.timing import SlowCause, TimingReport

# As for tests with processes: other work may keep the emulated servos silent for a tenth of a second.
POSE = [0.1, -0.6, 0.5, 0.4, 0.0, 0.3]


@pytest.fixture
def arm(port: EmulatedPort, tmp_path: Path) -> Iterator[Loop]:
    with Loop(port, tmp_path / "box") as made:
        yield made


def test_torque_on_brings_the_torque_limits_along(arm: Loop, port: EmulatedPort) -> None:
    arm.loop.set_torque(True)
    assert limits_of(port) == [1000] * 5 + [500]


def test_start_writes_nothing_though_the_servos_hold_with_other_limits(
    port: EmulatedPort, tmp_path: Path
) -> None:
    with FeetechBus(str(port.link), reply_timeout=0.1) as bus:
        bus.sync_write("goal_position", bus.sync_read("present_position", range(1, 7)))
        bus.sync_write("torque_enable", dict.fromkeys(range(1, 7), 1))
        bus.sync_write("torque_limit", {GRIPPER: 300})
        assert bus.read(GRIPPER, "torque_limit") == 300
    made = Loop(port, tmp_path / "box")
    made.loop.connect()
    made.loop.start()
    try:
        made.until(lambda: len(made.samples) > 30, "thirty readings")
        assert limits_of(port)[5] == 300
        assert made.control.state is ArmState.HOLDING and made.why == LEFT_HOLDING
        with made.loop.edit():
            made.control.activate()
        made.until(lambda: limits_of(port)[5] == 500, "the gripper's torque limit once active")
    finally:
        made.loop.stop()


def test_some_servos_that_hold_are_named_and_torque_on_takes_all(port: EmulatedPort, tmp_path: Path) -> None:
    with FeetechBus(str(port.link), reply_timeout=0.1) as bus:
        bus.sync_write("goal_position", bus.sync_read("present_position", range(1, 7)))
        bus.sync_write("torque_enable", {2: 1, 3: 1})
        assert bus.read(3, "torque_enable") == 1
    with Loop(port, tmp_path / "box") as arm:
        assert arm.control.state is ArmState.READY
        assert arm.why.startswith("shoulder_lift, elbow_flex held torque already and the others did not")
        arm.loop.set_torque(True)
        assert arm.control.state is ArmState.HOLDING and arm.why == ""


def test_a_squeezing_gripper_gets_less_torque(arm: Loop, port: EmulatedPort, plant: SimplePlant) -> None:
    port.play(FaultScript((Fault(FaultKind.STUCK, ids=(GRIPPER,)),)))
    arm.loop.set_torque(True)
    now = time.monotonic()
    row = np.array([[*POSE[:5], 0.0]])
    with arm.loop.edit():
        arm.control.accept(Trajectory(now, np.array([now + 0.5]), row, np.zeros((1, 6))), now)
    arm.until(lambda: limits_of(port)[5] < 400, "a lower torque limit of the gripper")
    assert limits_of(port)[:5] == [1000] * 5
    assert arm.control.torque and arm.control.state in (ArmState.HOLDING, ArmState.FOLLOWING)


@pytest.mark.parametrize("length", [0.03, 0.3])
def test_a_brown_out_is_named_sends_nothing_more_and_arm_torque_restores_the_limits(
    arm: Loop, port: EmulatedPort, length: float
) -> None:
    arm.loop.set_torque(True)
    arm.move()
    began = time.monotonic()
    port.play(FaultScript((Fault(FaultKind.BROWN_OUT, duration=length, ids=(2, GRIPPER)),)))
    arm.until_state(ArmState.FAULT)
    assert time.monotonic() - began < length + 0.5
    assert "torque went off by itself: shoulder_lift" in arm.why and "gripper" in arm.why
    if port.emulator.servos[5].get("torque_limit") != 500:
        assert "lost its supply for a moment" in arm.why
    goals = [servo.get("goal_position") for servo in port.emulator.servos]
    count = len(arm.samples)
    arm.until(lambda: len(arm.samples) > count + 30, "thirty readings")
    assert [servo.get("goal_position") for servo in port.emulator.servos] == goals
    arm.loop.set_torque(True)
    assert limits_of(port) == [1000] * 5 + [500]
    assert arm.control.state is ArmState.HOLDING and arm.why == ""


def test_a_torque_limit_that_a_servo_forgot_is_written_again(arm: Loop, port: EmulatedPort) -> None:
    arm.loop.set_torque(True)
    port.emulator.servos[2]._store("torque_limit", 200)
    arm.until(lambda: limits_of(port)[2] == 1000, "the limit written again")
    assert arm.loop.torque.restored == 1 and arm.control.state is ArmState.HOLDING


def test_a_servo_silent_for_a_moment_brakes_and_moves_again_only_when_told(
    arm: Loop, port: EmulatedPort
) -> None:
    arm.loop.set_torque(True)
    arm.move()
    port.play(FaultScript((Fault(FaultKind.LOST_REPLIES, duration=0.25, ids=(3,)),)))
    arm.until(lambda: "servo 3 (elbow_flex) has not answered" in arm.why, "a named silence")
    with pytest.raises(TrajectoryRejectedError, match="does not move blindly"), arm.loop.edit():
        arm.control.accept(Trajectory(0.0, np.array([1e9]), GOAL[None], None), time.monotonic())
    arm.until(lambda: not arm.control.blind and arm.control.at_rest, "all servos again")
    assert arm.control.state is ArmState.HOLDING
    arm.move()


def test_an_overloaded_servo_is_a_hold_with_its_name_and_torque_by_hand_ends_the_latch(
    arm: Loop, port: EmulatedPort
) -> None:
    arm.loop.set_torque(True)
    arm.move()
    port.play(FaultScript((Fault(FaultKind.OVERLOAD, duration=0.5, ids=(3,)),)))
    arm.until(lambda: arm.control.state in (ArmState.FAULT, ArmState.HOLDING) and arm.why, "a stop")
    assert "elbow_flex" in arm.why and "overload" in arm.why
    arm.until(lambda: _rearm(arm), "torque on again")
    arm.move()


def _rearm(arm: Loop) -> bool:
    arm.loop.set_torque(False)
    arm.loop.set_torque(True)
    return arm.control.state is ArmState.HOLDING and not arm.why


def test_a_release_parks_sinks_and_ends_in_a_fault_with_its_reason(
    port: EmulatedPort, plant: SimplePlant, tmp_path: Path
) -> None:
    hot = ProtectionLimits(temperature=Thresholds(30.0, 35.0, 40.0, 1.0))
    with Loop(port, tmp_path / "box", Protection(hot)) as arm:
        arm.loop.set_torque(True)
        for servo in port.emulator.servos:
            servo.temperature = 45.0
        arm.until_state(ArmState.FAULT)
        assert "45 degrees Celsius" in arm.why
        assert plant.positions[1] == pytest.approx(PARK[0][1], abs=0.02), "parked first"
        assert not plant.enabled.any()
        for servo in port.emulator.servos:
            servo.temperature = 25.0
        arm.loop.set_torque(True)
        assert limits_of(port) == [1000] * 5 + [500]
        arm.until(lambda: arm.control.state is ArmState.HOLDING and not arm.why, "an arm as new")


def test_the_black_box_tells_of_a_fault(arm: Loop, port: EmulatedPort) -> None:
    arm.loop.set_torque(True)
    arm.move()
    port.close()
    arm.until_state(ArmState.FAULT)
    arm.until(lambda: arm.box.newest, "a file")
    told = story(Path(arm.box.newest))
    assert "is lost" in told and "FOLLOWING" in told
    with np.load(arm.box.newest) as file:
        gap = np.nanmax(np.abs(file["command"] - file["position"]))
        assert np.isfinite(gap) and gap < 0.3
        assert (np.diff(file["time"]) > 0).all()


def test_a_dead_loop_leaves_a_file(arm: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(now: float, dt: float) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("threading.excepthook", lambda _: None)
    monkeypatch.setattr(arm.control, "step", broken)
    arm.until(lambda: not arm.loop.alive, "a dead loop")
    arm.until(lambda: arm.box.newest, "a file")
    assert "the control loop died: ZeroDivisionError('a defect')" in story(Path(arm.box.newest))


def test_a_setting_that_makes_motion_wrong_is_refused(port: EmulatedPort, tmp_path: Path) -> None:
    port.emulator.servos[1]._store("mode", 1)
    made = Loop(port, tmp_path / "box")
    with pytest.raises(ArmError, match="shoulder_lift"):
        made.loop.connect()


def report(rate: float, *names: str) -> TimingReport:
    causes = tuple(SlowCause(name, 0.003, f"{name} is long", "mend it") for name in names)
    return TimingReport(0.002, 0.006, 0.007, {}, 0.0, causes, rate)


@pytest.mark.parametrize(
    ("found", "rate"),
    [
        (report(150.0, "return_delay"), 150.0),
        (report(150.7, "usb_quantisation", "latency"), 150.0),
        (report(300.0, "return_delay"), 200.0),
        (report(90.0, "latency"), 200.0),
        (report(90.0), 200.0),
        (report(3.0, "adapter_timer"), 10.0),
    ],
)
def test_a_lasting_delay_of_the_bus_lowers_the_rate_and_is_named(found: TimingReport, rate: float) -> None:
    inspection = Inspection((), found)
    assert inspection.rate(200.0) == rate
    assert inspection.slow_bus(200.0) == (
        "" if rate == 200.0 else f"runs at {rate:g} instead of 200 Hz: {found.text}"
    )


def test_two_arms_on_one_machine_do_not_disturb_each_other(tmp_path: Path) -> None:
    plants = [SimplePlant(POSE), SimplePlant(POSE)]
    with (
        emulated_arm(TWIN, plants[0], tmp_path / "left") as one,
        emulated_arm(TWIN, plants[1], tmp_path / "right") as two,
        Loop(one, tmp_path / "box") as left,
        Loop(two, tmp_path / "box") as right,
    ):
        left.loop.set_torque(True)
        right.loop.set_torque(True)
        left.move()
        one.close()
        left.until_state(ArmState.FAULT)
        assert right.control.state is ArmState.HOLDING
        assert plants[1].positions == pytest.approx(POSE, abs=3e-3)


def test_shadow_mode_writes_no_torque_limit_either(port: EmulatedPort, tmp_path: Path) -> None:
    with FeetechBus(str(port.link), reply_timeout=0.1) as bus:
        bus.sync_write("goal_position", bus.sync_read("present_position", range(1, 7)))
        bus.sync_write("torque_enable", dict.fromkeys(range(1, 7), 1))
        bus.sync_write("torque_limit", dict.fromkeys(range(1, 7), 300))
        assert bus.read(GRIPPER, "torque_limit") == 300
    made = Loop(port, tmp_path / "box")
    made.control.execute = False
    with made as arm:
        arm.until(lambda: len(arm.samples) > 30, "thirty readings")
        port.emulator.servos[2]._store("torque_limit", 200)
        count = len(arm.samples)
        arm.until(lambda: len(arm.samples) > count + 30, "thirty readings")
        assert limits_of(port) == [300, 300, 200, 300, 300, 300]


def test_one_garbled_reply_that_passes_its_checksum_does_not_stop_the_arm(
    arm: Loop, port: EmulatedPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm.loop.set_torque(True)
    arm.move(6.0)
    genuine, garbled = port.emulator.faults.apply, [0.0]

    def garble(id: int, reply: bytes) -> bytes:
        now = time.monotonic()
        looked_at = now - arm.loop._vitals_seen > 1.0 / VITALS_RATE
        if id != 3 or len(reply) != 6 + FEEDBACK_SIZE or not looked_at or now - garbled[-1] < 0.3:
            return genuine(id, reply)
        garbled.append(now)
        parameters = bytearray(reply[5:-1])
        parameters[6:10] = (250, 120, 0, 0x3F)  # 25 V, 120 degrees, every status bit
        return encode(id, 0x3F, bytes(parameters))

    monkeypatch.setattr(port.emulator.faults, "apply", garble)
    arm.until(lambda: len(garbled) > 4, "four garbled replies")
    count = len(arm.samples)
    arm.until(lambda: len(arm.samples) > count + 30, "thirty readings")
    assert arm.loop.protection is not None
    counts = arm.loop.protection.counts
    assert (counts["SLOW"], counts["HOLD"], counts["RELEASE"]) == (0, 0, 0), arm.why
    assert arm.control.state is ArmState.FOLLOWING


def test_under_an_estop_no_goal_moves_before_a_brown_out_is_found_out(
    arm: Loop, port: EmulatedPort, plant: SimplePlant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The joint sags without supply; its goal must not go along when it is heard again."""
    goals: list[bytes] = []

    def tap(_: float, data: bytes) -> None:
        if len(data) > 6 and data[4] == 0x83 and data[5] == 42:
            goals.append(data)

    arm.loop.set_torque(True)
    arm.move()
    port.play(FaultScript((Fault(FaultKind.BROWN_OUT, duration=0.4, ids=(2, 4)),)))
    arm.until(lambda: arm.control.blind, "a silence")
    with arm.loop.edit():
        arm.control.latch_estop("e-stop: test")
    arm.until(lambda: arm.control.safety.still, "a stop")
    servos, refused = arm.loop._servos, []
    assert servos is not None
    genuine = servos.torque_state

    def lost(deadline: float) -> Any:
        if len(refused) < 3:  # replies get lost as the servos come back
            refused.append(deadline)
            raise ServoMissingError("lost")
        return genuine(deadline)

    monkeypatch.setattr(servos, "torque_state", lost)
    port.tap = tap
    plant.positions[[1, 3]] += (0.2, 0.3)
    arm.until_state(ArmState.FAULT)
    assert len(refused) == 3 and "torque went off by itself: shoulder_lift" in arm.why
    assert len(set(goals)) <= 1
    count = len(arm.samples)
    arm.until(lambda: len(arm.samples) > count + 30, "thirty readings")
    assert len(set(goals)) <= 1
