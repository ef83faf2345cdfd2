# SPDX-License-Identifier: Apache-2.0
"""Calibration and settings against the servos' EEPROM, on emulated servos behind a pty."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chefmate_driver.arm.calibration import (
    Calibration,
    check_calibration,
    compare_calibration,
    read_calibration,
    read_servo_calibration,
)
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.emulated_hand import MIDDLE, MOUNTING, EmulatedHand, new_arm
from chefmate_driver.arm.emulated_settings import store
from chefmate_driver.arm.errors import ArmError, CalibrationError
from chefmate_driver.arm.model import JOINT_NAMES, LOWER, UPPER
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.settings import ArmKind, Severity, compare_settings
from chefmate_driver.arm.setup.calibrate import (
    STANDARD_IDS,
    CalibrationSession,
    Track,
    eeprom_values,
    write_calibration_to_servos,
)
from chefmate_driver.arm.setup.check import DirectionCheck, Outcome, inspect
from chefmate_driver.arm.setup.configure import configure, plan
from chefmate_driver.arm.setup.eeprom import Journal, JournalEntry, restore, write_values
from chefmate_driver.arm.setup.plausible import calibration_problems, joint_problems
from chefmate_driver.arm.setup.ports import serial_ports, the_only_port
from chefmate_driver.arm.setup.scan import scan, scan_problems, set_id
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.errors import EepromError, FeetechError
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_ros.share import share_file

TWIN = share_file("config", "calibration", "twin.json")
IDS = list(STANDARD_IDS.values())
LEROBOT = json.loads((Path(__file__).parent / "data" / "lerobot_units.json").read_text())


@pytest.fixture(autouse=True)
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "chefmate" / "eeprom"


@pytest.fixture
def plant() -> SimplePlant:
    return SimplePlant([float(angle) for angle in MIDDLE])


@pytest.fixture
def arm(plant: SimplePlant, tmp_path: Path) -> Iterator[EmulatedPort]:
    """An arm that is configured and calibrated."""
    with emulated_arm(TWIN, plant, tmp_path / "arm") as port:
        yield port


@pytest.fixture
def fresh(plant: SimplePlant, tmp_path: Path) -> Iterator[EmulatedPort]:
    """An arm as it was just built."""
    with new_arm(TWIN, plant, tmp_path / "arm") as port:
        yield port


def open_bus(port: EmulatedPort) -> FeetechBus:
    return FeetechBus(str(port.link), reply_timeout=0.05, retries=1)


def eeprom(port: EmulatedPort) -> list[bytes]:
    with port.emulator.lock:
        return [servo.read(0, 40) for servo in port.emulator.servos]


def move(session: CalibrationSession, plant: SimplePlant, joint: int, *angles: float) -> None:
    """The hand turns a joint in steps of at most 30 degrees, with a reading after each."""
    for angle in angles:
        while (left := angle - float(plant.positions[joint])) != 0.0:
            plant.positions[joint] += math.copysign(min(0.5, abs(left)), left)
            session.sample()


def sweep(session: CalibrationSession, plant: SimplePlant) -> None:
    for joint, name in enumerate(JOINT_NAMES):
        if name != "wrist_roll":
            move(session, plant, joint, LOWER[joint], UPPER[joint], MIDDLE[joint])


# The file against the servos


def test_a_calibration_that_the_servos_hold_is_accepted(arm: EmulatedPort) -> None:
    with open_bus(arm) as bus:
        assert compare_calibration(bus, read_calibration(TWIN)) == []
        check_calibration(bus, read_calibration(TWIN))
        assert read_servo_calibration(bus, STANDARD_IDS) == read_calibration(TWIN)


@pytest.mark.parametrize(
    ("register", "value", "message"),
    [
        ("homing_offset", 77, r"elbow_flex: the servo's homing offset is 77, the .* says 0 \(servo 3, \+6.8"),
        ("min_position_limit", 900, r"elbow_flex: the servo's range min is 900, .* says 946 .*-4.0 degrees"),
        (
            "max_position_limit",
            3200,
            r"elbow_flex: the servo's range max is 3200, .* says 3149 .*\+4.5 degrees",
        ),
    ],
)
def test_nothing_moves_with_another_arms_calibration(
    arm: EmulatedPort, register: str, value: int, message: str
) -> None:
    store(arm.emulator.servos[2], {register: value})
    with open_bus(arm) as bus, pytest.raises(CalibrationError, match=message) as caught:
        ArmServos(bus, ArmUnits(read_calibration(TWIN)))
    assert "chefmate arm calibrate" in str(caught.value)
    assert not any(servo.get("torque_enable") for servo in arm.emulator.servos)


def test_every_difference_is_named(arm: EmulatedPort) -> None:
    store(arm.emulator.servos[0], {"homing_offset": -5})
    store(arm.emulator.servos[5], {"max_position_limit": 4000})
    with open_bus(arm) as bus:
        found = [
            (difference.joint, difference.key)
            for difference in compare_calibration(bus, read_calibration(TWIN))
        ]
    assert found == [("shoulder_pan", "homing_offset"), ("gripper", "range_max")]


# LeRobot's procedure


def test_homing_offsets_are_lerobots() -> None:
    for actual, offset in LEROBOT["homing"]:
        assert Track.held(actual).offset == offset


def test_an_offset_that_does_not_fit_the_register_is_shortened_by_the_missing_tick() -> None:
    track = Track.held(4095)  # LeRobot computes 2048 and fails
    assert (track.offset, track.position) == (2047, 2048)


def test_the_procedure_finds_mounting_and_ranges_and_writes_nothing(
    fresh: EmulatedPort, plant: SimplePlant
) -> None:
    before = eeprom(fresh)
    with open_bus(fresh) as bus:
        session = CalibrationSession(bus, ArmKind.FOLLOWER)
        session.hold()
        sweep(session, plant)
        assert session.problems() == []
        found = session.result()
    travel = read_calibration(TWIN)
    for name, mounting in zip(JOINT_NAMES, MOUNTING, strict=True):
        middle = (travel[name].range_min + travel[name].range_max) / 2.0
        held = found[name].homing_offset - mounting  # by how much the held pose differs from tick 2047
        if name != "wrist_roll":
            assert abs(held - (middle - 2047)) <= 1
            assert found[name].range_max - found[name].range_min == pytest.approx(
                travel[name].range_max - travel[name].range_min, abs=2
            )
    assert (found["wrist_roll"].range_min, found["wrist_roll"].range_max) == (0, 4095)
    assert eeprom(fresh) == before


def test_written_calibration_is_read_back_and_positions_follow(
    fresh: EmulatedPort, plant: SimplePlant
) -> None:
    with open_bus(fresh) as bus:
        session = CalibrationSession(bus, ArmKind.FOLLOWER)
        session.hold()
        sweep(session, plant)
        write_calibration_to_servos(bus, session.result(), "test")
        assert compare_calibration(bus, session.result()) == []
        assert bus.sync_read("lock", IDS) == dict.fromkeys(IDS, 1)
        units = ArmUnits(session.result())
        plant.positions[:] = [0.3, -0.4, 0.5, -0.6, MIDDLE[4], 0.7]
        present = bus.sync_read("present_position", IDS)
        assert units.radians([present[id] for id in IDS])[:4] == pytest.approx(
            [0.3, -0.4, 0.5, -0.6], abs=4e-3
        )


def test_a_wrap_around_inside_the_travel_is_found(fresh: EmulatedPort, plant: SimplePlant) -> None:
    plant.positions[2] = LOWER[2] + 0.05  # held near the lower stop: tick 2047 there, 4096 is in the travel
    with open_bus(fresh) as bus:
        session = CalibrationSession(bus, ArmKind.FOLLOWER)
        session.hold()
        move(session, plant, 2, LOWER[2], UPPER[2])
        # As LeRobot sees it: the extremes of the positions modulo one turn.
        assert session.tracks["elbow_flex"].high > 4095
        problem = next(problem for problem in session.problems() if problem.joint == "elbow_flex")
        assert "passes from 4095 to 0 inside its travel" in problem.text
        assert not problem.acceptable
        move(session, plant, 0, -0.1), move(session, plant, 1, -0.1)
        with pytest.raises(CalibrationError, match=r"elbow_flex: \d+\.\.\d+ is no range"):
            session.result()


def test_a_full_turn_joint_that_passes_the_encoders_end_is_found(
    fresh: EmulatedPort, plant: SimplePlant
) -> None:
    plant.positions[4] = 2.0
    with open_bus(fresh) as bus:
        session = CalibrationSession(bus, ArmKind.FOLLOWER)
        session.hold()
        move(session, plant, 4, -2.7)
        assert [problem.joint for problem in session.problems() if not problem.acceptable] == ["wrist_roll"]


def test_a_joint_that_moved_too_fast_to_be_followed_is_refused(
    fresh: EmulatedPort, plant: SimplePlant
) -> None:
    with open_bus(fresh) as bus:
        session = CalibrationSession(bus, ArmKind.FOLLOWER)
        session.hold()
        plant.positions[0] = -1.7
        session.sample()
        assert "sweep slower" in str(session.problems()[0])


@pytest.mark.parametrize(
    ("joint", "low", "high", "message"),
    [
        ("elbow_flex", 1500, 2500, "swept over 88 degrees only, 194 degrees by the URDF"),
        ("elbow_flex", 500, 3800, "is this joint's servo on another joint"),
        ("elbow_flex", 3, 4090, "its encoder passed its end inside the travel"),
        ("elbow_flex", 400, 2600, "the middle of its travel is -48 degrees from the pose that was held"),
        ("elbow_flex", -20, 2200, r"range -20..2200, below 0"),
        ("wrist_roll", 100, 4000, r"LeRobot's is 0..4095"),
        ("gripper", 2030, 2700, "swept over 59 degrees only"),
    ],
)
def test_implausible_ranges_are_refused(joint: str, low: int, high: int, message: str) -> None:
    (problem,) = joint_problems(joint, low, high)
    assert message in problem.text


def test_ranges_of_real_arms_are_plausible() -> None:
    real = {name: replace(joint, drive_mode=0) for name, joint in lerobot_calibration().items()}
    assert calibration_problems(real) == []
    trigger = {**real, "gripper": replace(real["gripper"], range_min=2030, range_max=2600)}
    assert calibration_problems(trigger, leader=True) == []
    assert [problem.joint for problem in calibration_problems(trigger)] == ["gripper"]


def lerobot_calibration() -> Calibration:
    from chefmate_driver.arm.calibration import JointCalibration

    return {name: JointCalibration(drive_mode=0, **values) for name, values in LEROBOT["calibration"].items()}


def test_servos_without_a_meaningful_position_are_configured_first(fresh: EmulatedPort) -> None:
    store(fresh.emulator.servos[3], {"phase": 0x1C})
    with (
        open_bus(fresh) as bus,
        pytest.raises(ArmError, match=r"servo 4 .*phase is 28.*chefmate arm configure"),
    ):
        CalibrationSession(bus, ArmKind.FOLLOWER)


# EEPROM as a whole or not at all


def writes_offset(data: bytes, id: int) -> bool:
    """Whether these bytes write the homing offset of a servo (sync write of 2 bytes from register 31)."""
    return data[4:8] == bytes((0x83, 31, 2, id))


def wanted(offset: int = 5) -> dict[int, dict[str, int]]:
    return {id: {"homing_offset": offset, "min_position_limit": 100} for id in IDS}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ArmError])
def test_an_interrupted_writing_leaves_the_eeprom_as_it_was(
    arm: EmulatedPort, journals: Path, kind: type[BaseException]
) -> None:
    before = eeprom(arm)

    def fail() -> None:
        assert eeprom(arm) != before
        raise kind("the test says so")

    with open_bus(arm) as bus:
        with pytest.raises((kind, EepromError)):
            write_values(bus, wanted(), "test", fail)
        assert eeprom(arm) == before
        assert bus.sync_read("lock", IDS) == dict.fromkeys(IDS, 1)
    assert list(journals.iterdir()) == []


def test_servos_that_fall_silent_half_way_are_restored_by_the_next_run(
    arm: EmulatedPort, journals: Path
) -> None:
    before = eeprom(arm)
    writes = 0

    def cut(now: float, data: bytes) -> None:  # the cable goes with the third servo's first new value
        nonlocal writes
        writes += writes_offset(data, 3)
        if writes:
            arm.emulator.faults.silent.update(IDS)

    arm.tap = cut
    with open_bus(arm) as bus:
        with pytest.raises(EepromError, match=r"no answer from servo 3.*safe in .*`the command` again"):
            write_values(bus, wanted(), "the command")
    arm.tap = None
    assert eeprom(arm) != before
    arm.emulator.faults.silent.clear()
    with open_bus(arm) as bus:
        journal = Journal(bus.stable_port)
        with pytest.raises(ArmError, match="restore them first"):
            write_values(bus, wanted(), "another command")
        entry = restore(bus, journal)
        assert entry is not None and entry.command == "the command" and entry.new == wanted()
        assert eeprom(arm) == before
        assert bus.sync_read("lock", IDS) == dict.fromkeys(IDS, 1)
        assert restore(bus, journal) is None
    assert list(journals.iterdir()) == []


def test_another_arm_on_the_same_port_is_not_restored(arm: EmulatedPort, journals: Path) -> None:
    with open_bus(arm) as bus:
        journal = Journal(bus.stable_port)
        journal.begin(JournalEntry("test", {1: {"homing_offset": 4}}, {1: {"homing_offset": 5}}))
        before = eeprom(arm)
        with pytest.raises(ArmError, match="homing_offset = 0, neither the old value 4 nor the new one 5"):
            restore(bus, journal)
        assert eeprom(arm) == before and journal.path.exists()


def test_a_servo_under_torque_is_not_written(arm: EmulatedPort, journals: Path) -> None:
    before = eeprom(arm)
    with open_bus(arm) as bus:
        bus.sync_write("torque_enable", {4: 1})
        with pytest.raises(EepromError, match="servo 4 holds torque"):
            write_values(bus, wanted(), "test")
        assert eeprom(arm) == before


def test_positions_that_do_not_follow_a_new_offset_undo_the_calibration(
    arm: EmulatedPort, plant: SimplePlant
) -> None:
    before = eeprom(arm)
    turned = {
        name: replace(joint, homing_offset=joint.homing_offset + 50)
        for name, joint in read_calibration(TWIN).items()
    }

    def knock(now: float, data: bytes) -> None:
        if writes_offset(data, 6):
            plant.positions[1] += 0.2

    arm.tap = knock
    with (
        open_bus(arm) as bus,
        pytest.raises(EepromError, match=r"shoulder_lift \(servo 2\) reads .*are back"),
    ):
        write_calibration_to_servos(bus, turned, "test")
    assert eeprom(arm) == before


def test_an_unreadable_journal_is_named(arm: EmulatedPort, journals: Path) -> None:
    with open_bus(arm) as bus:
        journal = Journal(bus.stable_port)
        journals.mkdir(parents=True)
        journal.path.write_text("{")
        with pytest.raises(ArmError, match=str(journal.path)):
            write_values(bus, wanted(), "test")


# Settings


def test_the_emulated_arm_has_the_settings_of_a_follower(arm: EmulatedPort) -> None:
    with open_bus(arm) as bus:
        assert compare_settings(bus, IDS) == []


@pytest.mark.parametrize(
    ("servo", "register", "value", "severity"),
    [
        (1, "mode", 1, Severity.ERROR),
        (2, "phase", 0x1C, Severity.ERROR),
        (2, "phase", 0x8D, Severity.ERROR),
        (2, "phase", 0x04, Severity.ERROR),
        (2, "phase", 0x08, Severity.NOTE),
        (3, "return_delay", 250, Severity.WARNING),
        (4, "max_voltage", 80, Severity.ERROR),
        (5, "unloading_conditions", 0x0C, Severity.WARNING),
        (5, "max_temperature", 85, Severity.WARNING),
        (1, "p_gain", 32, Severity.WARNING),
        (1, "max_torque", 500, Severity.WARNING),
        (6, "max_torque", 1000, Severity.WARNING),
        (6, "overload_torque", 80, Severity.WARNING),
        (6, "protection_current", 511, Severity.WARNING),
    ],
)
def test_a_wrong_setting_is_named_with_its_mend(
    arm: EmulatedPort, servo: int, register: str, value: int, severity: Severity
) -> None:
    store(arm.emulator.servos[servo - 1], {register: value})
    with open_bus(arm) as bus:
        (difference,) = compare_settings(bus, IDS)
    assert (difference.servo, difference.register, difference.found) == (servo, register, value)
    assert difference.severity is severity
    assert difference.mend in str(difference) and difference.mend
    if difference.writable:
        assert difference.mend == f"chefmate arm configure --port {arm.link}"


def test_bits_that_do_not_matter_stay(arm: EmulatedPort) -> None:
    store(arm.emulator.servos[1], {"phase": 0x70, "unloading_conditions": 0x01})
    with open_bus(arm) as bus:
        wanted = plan(bus, IDS, ArmKind.FOLLOWER)
        assert wanted.values == {2: {"phase": 0x6C, "unloading_conditions": 0x2D}}
        assert configure(bus, IDS, ArmKind.FOLLOWER, wanted, "test") == []
    assert arm.emulator.servos[1].get("phase") == 0x6C


def test_configure_brings_a_new_arm_in_line_and_keeps_it_over_a_power_loss(fresh: EmulatedPort) -> None:
    with open_bus(fresh) as bus:
        wanted = plan(bus, IDS, ArmKind.FOLLOWER)
        assert {difference.register for difference in wanted.differences} == {
            "p_gain",
            "return_delay",
            "max_torque",
            "protection_current",
            "overload_torque",
        }
        assert configure(bus, IDS, ArmKind.FOLLOWER, wanted, "test") == []
        for servo in fresh.emulator.servos:
            servo.power_cycle()
        assert compare_settings(bus, IDS) == []


def test_a_leader_needs_no_gains_and_a_seven_volt_class(arm: EmulatedPort) -> None:
    store(arm.emulator.servos[0], {"p_gain": 32})
    with open_bus(arm) as bus:
        found = compare_settings(bus, IDS, ArmKind.LEADER)
    assert {difference.register for difference in found} == {"max_voltage"}
    assert {difference.severity for difference in found} == {Severity.NOTE}


# Before the first motion


def outcomes(
    port: EmulatedPort, calibration: Calibration, kind: ArmKind = ArmKind.FOLLOWER
) -> dict[str, Outcome]:
    with open_bus(port) as bus:
        return {finding.check: finding.outcome for finding in inspect(bus, calibration, kind)}


def test_an_arm_that_is_set_up_is_fit(arm: EmulatedPort) -> None:
    assert set(outcomes(arm, read_calibration(TWIN)).values()) == {Outcome.OK}


def test_an_arm_beyond_its_limits_is_not_fit(arm: EmulatedPort, plant: SimplePlant) -> None:
    plant.positions[1] = UPPER[1] + 0.2
    assert outcomes(arm, read_calibration(TWIN))["pose"] is Outcome.ERROR


def test_an_arm_below_the_table_is_suspicious(arm: EmulatedPort, plant: SimplePlant) -> None:
    plant.positions[:] = [0.0, 1.2, 0.6, 0.8, 0.0, 0.0]
    assert outcomes(arm, read_calibration(TWIN))["pose"] is Outcome.WARNING


def test_a_wrong_supply_is_named(arm: EmulatedPort) -> None:
    for servo in arm.emulator.servos:
        servo.supply = 7.2
    assert outcomes(arm, read_calibration(TWIN))["health"] is Outcome.ERROR


def test_firmware_that_lerobot_refuses_is_noted(arm: EmulatedPort) -> None:
    arm.emulator.servos[4]._store("firmware_minor", 9)
    assert outcomes(arm, read_calibration(TWIN))["health"] is Outcome.NOTE


@pytest.mark.parametrize(
    ("moved", "outcome", "text"),
    [
        ({2: +0.3}, Outcome.OK, "turns as the model says"),
        ({2: -0.3}, Outcome.ERROR, "-17 degrees after `bend the forearm down`"),
        ({1: +0.4}, Outcome.ERROR, "shoulder_lift moved by +23 degrees instead of elbow_flex"),
        ({2: +0.1}, None, ""),
        ({2: +0.2, 1: 0.5}, Outcome.OK, ""),
    ],
)
def test_the_direction_of_a_joint_is_judged_by_the_hand(
    moved: dict[int, float], outcome: Outcome | None, text: str
) -> None:
    check = DirectionCheck("elbow_flex", np.zeros(6))
    angles = np.zeros(6)
    for joint, angle in moved.items():
        angles[joint] = angle
    verdict = check.take(angles)
    assert (verdict and verdict.outcome) is outcome
    assert verdict is None or text in verdict.text


def test_the_hand_is_sent_where_there_is_room() -> None:
    assert DirectionCheck("elbow_flex", np.full(6, UPPER[2] - 0.1)).told == "lift the forearm"


# Ports and ids


def test_a_scan_describes_every_servo(arm: EmulatedPort) -> None:
    with open_bus(arm) as bus:
        found = scan(bus, range(8))
    assert [(servo.id, servo.joint, servo.model, servo.firmware) for servo in found] == [
        (id, JOINT_NAMES[id - 1], 777, "3.10") for id in IDS
    ]
    assert scan_problems(found, "PORT") == []


def test_two_servos_of_one_id_are_found_and_not_renamed(arm: EmulatedPort) -> None:
    store(arm.emulator.servos[2], {"id": 2})
    with open_bus(arm) as bus:
        found = scan(bus, range(8))
        assert [servo.id for servo in found if servo.duplicate] == [2]
        problems = " ".join(scan_problems(found, "PORT"))
        assert "two servos have id 2" in problems and "no servo 3 (elbow_flex)" in problems
        with pytest.raises(ArmError, match="both would become 3"):
            set_id(bus, 2, 3)


def test_an_id_is_changed_and_kept(arm: EmulatedPort) -> None:
    store(arm.emulator.servos[2], {"id": 9})
    with open_bus(arm) as bus:
        with pytest.raises(ArmError, match="another servo has id 4"):
            set_id(bus, 9, 4)
        with pytest.raises(ArmError, match="no servo has id 3"):
            set_id(bus, 3, 9)
        set_id(bus, 9, 3)
        arm.emulator.servos[2].power_cycle()
        assert scan_problems(scan(bus, range(12)), "PORT") == []


def test_a_silent_bus_names_what_to_try(arm: EmulatedPort) -> None:
    arm.emulator.faults.silent.update(IDS)
    with open_bus(arm) as bus:
        assert "no servo answers" in scan_problems(scan(bus, range(4)), "PORT")[0]
        with pytest.raises(FeetechError, match="no answer"):
            inspect(bus, read_calibration(TWIN), ArmKind.FOLLOWER)


def test_ports_are_listed_once_under_their_stable_name(tmp_path: Path) -> None:
    devices, by_id = tmp_path / "dev", tmp_path / "by-id"
    devices.mkdir(), by_id.mkdir()
    for name in ("ttyACM0", "ttyUSB0", "ttyS0"):
        (devices / name).touch()
    (by_id / "usb-arm").symlink_to(devices / "ttyACM0")
    ports = serial_ports(by_id, devices)
    assert ports == sorted([str(by_id / "usb-arm"), str(devices / "ttyUSB0")])
    with pytest.raises(ArmError, match="several serial ports"):
        the_only_port(ports)
    with pytest.raises(ArmError, match="plug the arm's adapter in"):
        the_only_port([])
    assert the_only_port(["a"]) == "a"


def test_the_emulated_hand_moves_limp_joints_only(arm: EmulatedPort, plant: SimplePlant) -> None:
    hand = EmulatedHand(plant, sleep=lambda seconds: None)
    assert hand.sweep() and hand.middle()
    with open_bus(arm) as bus:
        bus.write(3, "torque_enable", 1)
    assert not hand.move(2, 0.5)
    assert hand.move(1, 5.0) and plant.positions[1] == pytest.approx(UPPER[1])


def test_calibration_values_are_the_three_registers_that_lerobot_writes() -> None:
    values = eeprom_values(read_calibration(TWIN))
    assert values[3] == {"homing_offset": 0, "min_position_limit": 946, "max_position_limit": 3149}
