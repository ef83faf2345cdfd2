# SPDX-License-Identifier: Apache-2.0
"""The wire monitor: clean recordings pass, each planted violation is caught by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import Driver, packet, smooth, sync_write, word

from chefmate_driver.arm.model import LOWER, UPPER, lowest_tip_height
from chefmate_driver.campaign.envelope import JOINTS, Envelope
from chefmate_driver.campaign.monitor import RULES, WireMonitor
from chefmate_driver.campaign.recording import Mark, Recording

ROOT = Path(__file__).resolve().parents[2]
TWIN = ROOT / "config" / "calibration" / "twin.json"
PARAMETERS = ROOT / "config" / "arm.yaml"
ENVELOPE = Envelope.of(TWIN, PARAMETERS)
HOME = np.array([0.0, -1.0, 0.8, 0.8, 0.0, 0.3])
AWAY = HOME + np.array([0.6, 0.3, -0.2, 0.2, 0.5, 0.4])


def judge(driver: Driver) -> list[str]:
    return [violation.rule for violation in WireMonitor(driver.envelope).judge(driver.recording)]


def moving(envelope: Envelope = ENVELOPE, *, late: float = 0.0) -> Driver:
    """Torque on, then 0.5 s of the way from HOME to AWAY, so in full motion."""
    driver = Driver(envelope, HOME)
    driver.wait(0.1)
    driver.torque_on()
    driver.wait(0.1)
    driver.mark(Mark.MOTION_ASKED)
    driver.follow(smooth(HOME, AWAY, 1.0), 0.5, late=late)
    return driver


def whole(*, late: float = 0.0) -> Driver:
    """The same to its end, and back."""
    driver = moving(late=late)
    half = smooth(HOME, AWAY, 1.0)
    driver.follow(lambda time: half(0.5 + time), 0.6, late=late)
    driver.wait(0.5)
    driver.mark(Mark.MOTION_ASKED)
    driver.follow(smooth(AWAY, HOME, 0.7), 0.8, late=late)
    return driver


# Clean recordings


@pytest.mark.parametrize("late", [0.0, 0.004, 0.009])
def test_a_well_behaved_driver_is_not_accused(late: float) -> None:
    assert judge(whole(late=late)) == []


def test_motion_at_the_limits_is_not_accused() -> None:
    """Full acceleration, full speed, full braking, each joint of its own."""
    driver = moving()
    driver.wait(0.5)
    start = driver.position.copy()
    speed, gain = ENVELOPE.speed / np.abs(ENVELOPE.scale), ENVELOPE.acceleration / np.abs(ENVELOPE.scale)
    speed, gain = 0.99 * speed, 0.99 * gain

    def path(time: float) -> np.ndarray:
        ramp = speed / gain
        flat = 0.2
        up = np.minimum(time, ramp)
        even = np.clip(time - ramp, 0.0, flat)
        down = np.clip(time - ramp - flat, 0.0, ramp)
        return start - np.sign(start + 0.01) * 0.5 * (
            0.5 * gain * up**2 + speed * even + speed * down - 0.5 * gain * down**2
        ) * np.array([2, 2, 2, 0, 2, 0])

    driver.mark(Mark.MOTION_ASKED)
    driver.follow(path, 0.8, late=0.003)
    assert judge(driver) == []


def test_a_driver_that_stops_writing_in_full_motion_is_not_accused() -> None:
    driver = moving()
    driver.wait(1.0)
    assert judge(driver) == []


def test_a_driver_that_was_late_by_some_cycles_and_goes_on_is_not_accused() -> None:
    driver = moving()
    driver.now += 0.05  # five cycles lost; its filter goes three cycles on, at most
    rest = smooth(HOME, AWAY, 1.0)
    driver.follow(lambda time: rest(0.52 + time), 0.6)
    assert judge(driver) == []


def test_an_estop_that_brakes_is_not_accused() -> None:
    driver = moving()
    driver.mark(Mark.ESTOP)
    brake(driver)
    driver.wait(0.3)
    driver.mark(Mark.ESTOP_RELEASED)
    driver.mark(Mark.MOTION_ASKED)
    driver.follow(smooth(driver.position, HOME, 1.0), 1.0)
    assert judge(driver) == []


def test_a_fault_after_which_torque_is_switched_on_anew_is_not_accused() -> None:
    driver = moving()
    driver.mark(Mark.FAULT)
    driver.wait(0.3)
    driver.position = driver.position - 0.1  # somebody moved the limp arm
    driver.torque_on()
    driver.wait(0.2)
    driver.mark(Mark.MOTION_ASKED)
    driver.follow(smooth(driver.position, HOME, 1.0), 1.0)
    assert judge(driver) == []


def test_a_servo_that_holds_may_keep_its_goal_when_torque_is_switched_on_anew() -> None:
    driver = moving()
    held = driver.ticks(driver.position)
    driver.goals(held)
    driver.mark(Mark.FAULT)
    driver.position = driver.position + np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.2])  # what the gripper squeezes
    driver.mark(Mark.TORQUE_ON_ASKED)
    driver.read_torque()
    driver.read()
    driver.goals(held)
    assert judge(driver) == []


def test_an_arm_found_outside_its_range_may_come_back() -> None:
    beyond = HOME.copy()
    beyond[1] = -1.80  # the URDF ends at -1.745
    driver = Driver(ENVELOPE, beyond)
    driver.torque_on()
    driver.mark(Mark.MOTION_ASKED)
    driver.follow(smooth(beyond, HOME, 1.5), 1.5)
    assert judge(driver) == []


def test_the_wire_being_cut_in_a_packet_is_not_accused() -> None:
    driver = moving()
    driver.send(sync_write(42, {1: word(2000), 2: word(2000)})[:9])
    driver.now += 0.3
    driver.mark(Mark.PORT_OPENED)
    driver.wait(0.2)
    assert judge(driver) == []


def brake(driver: Driver) -> None:
    """A stop from the speed of the last two goals, at 0.9 of the acceleration limits."""
    path = smooth(HOME, AWAY, 1.0)
    speed = (path(0.5) - path(0.49)) / 0.01
    gain = 0.9 * ENVELOPE.acceleration / np.abs(ENVELOPE.scale)
    start = driver.position.copy()
    driver.follow(
        lambda t: (
            start
            + speed * np.minimum(t, np.abs(speed) / gain)
            - np.sign(speed) * 0.5 * gain * np.minimum(t, np.abs(speed) / gain) ** 2
        ),
        0.4,
    )


# Planted violations

Plant = Callable[[], Driver]
PLANTED: list[tuple[str, str, Plant]] = []


def plant(rule: str, what: str) -> Callable[[Plant], Plant]:
    def add(function: Plant) -> Plant:
        PLANTED.append((rule, what, function))
        return function

    return add


@plant("position", "a goal past the calibrated range")
def _() -> Driver:
    limited = replace(ENVELOPE, high=ENVELOPE.high - np.array([900, 0, 0, 0, 0, 0]))
    driver = whole()
    driver.envelope = limited
    return driver


@plant("position", "a goal past the URDF's range, within the calibrated one")
def _() -> Driver:
    low = HOME.copy()
    low[4] = -2.6
    driver = Driver(ENVELOPE, low)
    driver.torque_on()
    driver.mark(Mark.MOTION_ASKED)
    end = low.copy()
    end[4] = -2.80  # the roll's calibration is a whole turn, its URDF limit is -2.744
    driver.follow(smooth(low, end, 0.5), 0.5)
    return driver


@plant("position", "a goal with the sign bit set")
def _() -> Driver:
    driver = moving()
    ticks = driver.ticks(driver.position)
    ticks[2] = -ticks[2]
    driver.goals(ticks)
    return driver


@plant("speed", "one joint a third faster than its limit")
def _() -> Driver:
    driver = moving()
    driver.wait(0.3)
    start = driver.position.copy()
    turn = np.array([-1.0, 0, 0, 0, 0, 0])
    driver.mark(Mark.MOTION_ASKED)

    def path(t: float) -> np.ndarray:  # to 2.7 rad/s at 9 rad/s^2; the limits are 2 and 10
        up = min(t, 0.3)
        return start + turn * (4.5 * up * up + 2.7 * max(t - 0.3, 0.0))

    driver.follow(path, 0.5)
    return driver


@plant("speed", "one goal far off and back")
def _() -> Driver:
    driver = moving()
    ticks = driver.ticks(driver.position)
    ticks[0] += 200
    driver.goals(ticks)
    return driver


@plant("acceleration", "a start at full speed")
def _() -> Driver:
    driver = moving()
    driver.wait(0.5)
    start, turn = driver.position.copy(), np.array([-1.0, 0, 0, 0, 0, 0])
    driver.mark(Mark.MOTION_ASKED)
    driver.follow(lambda t: start + 1.9 * t * turn, 0.3)
    return driver


@plant("acceleration", "a stop within one cycle")
def _() -> Driver:
    driver = moving()
    start, turn = driver.position.copy(), np.array([-1.0, 0, 0, 0, 0, 0])
    driver.wait(0.3)
    driver.mark(Mark.MOTION_ASKED)
    driver.follow(lambda t: start + turn * (4.0 * min(t, 0.2) ** 2 + 1.6 * max(t - 0.2, 0.0)), 0.5)
    stand = driver.position.copy()
    driver.follow(lambda _: stand, 0.2)
    return driver


@plant("acceleration", "a turn on the spot at three times the limit")
def _() -> Driver:
    driver = moving()
    driver.wait(0.3)
    start, turn = driver.position.copy(), np.array([-1.0, 0, 0, 0, 0, 0])
    driver.mark(Mark.MOTION_ASKED)

    def path(t: float) -> np.ndarray:  # up to 1.6 rad/s, then to -1.6 in 0.1 s
        up, over = min(t, 0.2), min(max(t - 0.2, 0.0), 0.1)
        back = max(t - 0.3, 0.0)
        return start + turn * (4.0 * up * up + 1.6 * over - 16.0 * over * over - 1.6 * back)

    driver.follow(path, 0.45)
    return driver


@plant("table", "finger tips go below the foot of the base")
def _() -> Driver:
    low = np.array([0.0, 0.6, 0.0, 0.6, 0.0, 0.0])
    assert lowest_tip_height(low.tolist()) < -0.02
    driver = Driver(ENVELOPE, HOME)
    driver.torque_on()
    driver.mark(Mark.MOTION_ASKED)
    driver.follow(smooth(HOME, low, 2.0), 2.0)
    return driver


@plant("goal without torque", "the goals move though torque is off")
def _() -> Driver:
    driver = moving()
    driver.mark(Mark.TORQUE_OFF_ASKED)
    driver.send(sync_write(40, {id: b"\0" for id in ENVELOPE.ids}))
    driver.torque = False
    driver.position = HOME.copy()  # it fell
    driver.read()
    driver.goals(driver.ticks(AWAY))
    return driver


@plant("goal without torque", "the goals go on though a servo switched itself off")
def _() -> Driver:
    driver = moving()
    driver.torque = False
    driver.read_torque()
    driver.read_torque()
    path = smooth(HOME, AWAY, 1.0)
    driver.follow(lambda t: path(0.5 + t), 0.2)
    return driver


@plant("goal without torque", "old goals are kept for torque that went off in a fault")
def _() -> Driver:
    driver = moving()
    held = driver.ticks(driver.position)
    driver.mark(Mark.FAULT)
    driver.position = HOME + 0.2  # it fell
    driver.torque = False
    driver.read_torque()
    driver.read_torque()
    driver.mark(Mark.TORQUE_ON_ASKED)
    driver.read()
    driver.goals(held)
    return driver


@plant("goal in fault", "goals go on after the driver said FAULT")
def _() -> Driver:
    driver = moving()
    driver.mark(Mark.FAULT)
    path = smooth(HOME, AWAY, 1.0)
    driver.follow(lambda t: path(0.5 + t), 0.2)
    return driver


@plant("e-stop motion", "the trajectory goes on after an e-stop")
def _() -> Driver:
    driver = moving()
    driver.mark(Mark.ESTOP)
    path = smooth(HOME, AWAY, 1.0)
    driver.follow(lambda t: path(0.5 + t), 0.5)
    return driver


@plant("blind", "the trajectory goes on while a servo is silent")
def _() -> Driver:
    driver = moving()
    driver.silent = {4}
    path = smooth(HOME, AWAY, 1.0)
    driver.follow(lambda t: path(0.5 + t), 0.5)
    return driver


@plant("first goal", "the first goal after torque on is where the arm is not")
def _() -> Driver:
    driver = Driver(ENVELOPE, HOME)
    driver.torque_on()
    driver.mark(Mark.MOTION_ASKED)
    driver.goals(driver.ticks(HOME + 0.1))
    return driver


@plant("torque jump", "torque on with the goals of long ago")
def _() -> Driver:
    driver = moving()
    driver.mark(Mark.TORQUE_OFF_ASKED)
    driver.send(sync_write(40, {id: b"\0" for id in ENVELOPE.ids}))
    driver.torque = False
    driver.position = HOME.copy()
    driver.torque_on(preload=False)
    return driver


@plant("unasked motion", "the start moves")
def _() -> Driver:
    driver = Driver(ENVELOPE, HOME)
    driver.torque_on()
    driver.follow(smooth(HOME, HOME + 0.2, 0.6), 0.6)
    return driver


@plant("torque on", "torque comes on by itself")
def _() -> Driver:
    driver = Driver(ENVELOPE, HOME)
    driver.wait(0.2)
    driver.torque_on(ask=False)
    return driver


@plant("torque off", "torque goes off by itself")
def _() -> Driver:
    driver = moving()
    driver.send(sync_write(40, {id: b"\0" for id in ENVELOPE.ids}))
    return driver


@plant("torque value", "the middle of a joint is moved")
def _() -> Driver:
    driver = Driver(ENVELOPE, HOME)
    driver.send(packet(3, 0x03, (40, 128)))
    return driver


@plant("torque limit", "a torque limit that no servo has")
def _() -> Driver:
    driver = Driver(ENVELOPE, HOME)
    driver.send(packet(6, 0x03, bytes((48,)) + word(1200)))
    return driver


@plant("eeprom", "a homing offset is written")
def _() -> Driver:
    driver = moving()
    driver.send(packet(2, 0x03, bytes((31,)) + word(17)))
    return driver


@plant("eeprom", "limits of all servos are written at once")
def _() -> Driver:
    driver = moving()
    driver.send(sync_write(9, {id: word(0) + word(4095) for id in ENVELOPE.ids}))
    return driver


@plant("unlock", "the EEPROM is opened")
def _() -> Driver:
    driver = moving()
    driver.send(sync_write(55, {id: b"\0" for id in ENVELOPE.ids}))
    return driver


@plant("register", "a register that a node has no business with")
def _() -> Driver:
    driver = moving()
    driver.send(packet(2, 0x03, (85, 254)))
    return driver


@plant("broadcast", "one write for every servo")
def _() -> Driver:
    driver = moving()
    driver.send(packet(254, 0x03, (40, 0)))
    return driver


@plant("instruction", "a factory reset")
def _() -> Driver:
    driver = moving()
    driver.send(packet(3, 0x06))
    return driver


@plant("instruction", "an instruction that does not exist")
def _() -> Driver:
    driver = moving()
    driver.send(packet(3, 0x55, (1, 2)))
    return driver


@plant("checksum", "one bit of a goal turned")
def _() -> Driver:
    driver = moving()
    data = bytearray(sync_write(42, {id: word(2048) for id in ENVELOPE.ids}))
    data[9] ^= 4
    driver.send(bytes(data))
    return driver


@plant("garbage", "text on the wire")
def _() -> Driver:
    driver = moving()
    driver.send(b"AT+GMR\r\n")
    driver.wait(0.1)
    return driver


@plant("layout", "a sync write whose length does not divide")
def _() -> Driver:
    driver = moving()
    driver.send(packet(254, 0x83, (42, 2, 1, 0, 8, 2, 0)))
    return driver


@plant("partial goal", "a goal for five of six joints")
def _() -> Driver:
    driver = moving()
    ticks = driver.ticks(driver.position)
    driver.send(sync_write(42, {id: word(int(t)) for id, t in zip(ENVELOPE.ids[:5], ticks, strict=False)}))
    return driver


@plant("stranger", "a servo that is not of this arm")
def _() -> Driver:
    driver = moving()
    driver.send(packet(9, 0x03, (40, 1)))
    return driver


@pytest.mark.parametrize(
    ("rule", "plant"), [pytest.param(rule, plant, id=f"{rule}: {what}") for rule, what, plant in PLANTED]
)
def test_a_planted_violation_is_caught_by_its_name(rule: str, plant: Plant) -> None:
    found = judge(plant())
    assert rule in found, f"found {found}"


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for rule, _, _ in PLANTED} == set(RULES)
    assert len(PLANTED) >= 20


# The envelope against the driver's own arithmetic, and against figures that neither made


def test_the_envelope_agrees_with_known_poses() -> None:
    """Heights of the fixed finger tip, from the URDF by another program; the jaw's tip is higher here."""
    known = {
        (0, 0, 0, 0, 0, 0): 0.2265,
        (0, 0.3, 0, 0, 0, 0): 0.1264,
        (0, 0, 0.3, 0, 0, 0): 0.1397,
        (0, 0, 0, 0.3, 0, 0): 0.1798,
    }
    poses = np.array([[*pose[:5], 1.7] for pose in known])
    ticks = ENVELOPE.zero + ENVELOPE.scale * poses
    assert ENVELOPE.heights(ticks) == pytest.approx(list(known.values()), abs=2e-3)


def test_the_envelope_is_where_urdf_and_calibration_meet(tmp_path: Path) -> None:
    document = json.loads(TWIN.read_text())
    document["elbow_flex"] |= {"range_min": 1500, "range_max": 2500}
    document["gripper"] |= {"drive_mode": 1, "range_min": 1000, "range_max": 2000}
    (tmp_path / "narrow.json").write_text(json.dumps(document))
    narrow = Envelope.of(tmp_path / "narrow.json", PARAMETERS)
    assert (narrow.low[2], narrow.high[2]) == (1500, 2500)
    assert (narrow.low[5], narrow.high[5]) == (1000, 2000)
    closed = narrow.zero[5] + narrow.scale[5] * LOWER[5]
    assert closed == pytest.approx(2000)
    wide = ENVELOPE.zero + ENVELOPE.scale * np.vstack([LOWER, UPPER])
    assert ENVELOPE.low[4] == pytest.approx(wide[0, 4])
    assert JOINTS[4] == "wrist_roll"


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    recording = whole().recording
    recording.save(tmp_path / "wire.jsonl")
    again = Recording.load(tmp_path / "wire.jsonl")
    assert list(again.in_order()) == list(recording.in_order())
