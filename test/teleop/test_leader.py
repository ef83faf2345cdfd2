# SPDX-License-Identifier: Apache-2.0
"""A leader arm on a pty: what is read from it, what is refused, and what a loss and a return do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from two_arms import ANY_SUPPLY, REST

from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.errors import CalibrationError
from chefmate_driver.arm.model import GRIPPER, LOWER, UPPER
from chefmate_driver.arm.units import ArmUnits, LeRobotUnit
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_driver.teleop.errors import LeaderJumpError, LeaderSupplyError
from chefmate_driver.teleop.leader import Leader, LeaderPort
from chefmate_driver.teleop.reader import RECONNECT, LeaderReader, ReaderState, Reading
from chefmate_ros.share import share_file

FOLLOWER = read_calibration(share_file("config", "calibration", "twin.json"))
# As for tests with processes: other work may keep the emulated servos silent for a tenth of a second.
TICK = 2e-3  # rad, about one servo tick


def wait(condition: Callable[[], Any], what: str, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}")
        time.sleep(0.005)


@pytest.fixture
def units(leader_file: Path) -> ArmUnits:
    return ArmUnits(read_calibration(leader_file))


@pytest.fixture
def place(leader_port: EmulatedPort) -> LeaderPort:
    return LeaderPort(str(leader_port.link), 1_000_000, 0.02, 2, ANY_SUPPLY)


def test_angles_are_the_followers_whatever_the_leaders_calibration(
    place: LeaderPort, units: ArmUnits, leader_plant: SimplePlant
) -> None:
    leader = Leader(place, units)
    try:
        assert leader.read().position == pytest.approx(REST, abs=TICK)
        leader_plant.positions[:5] = 0.3
        assert leader.read().position[:5] == pytest.approx(np.full(5, 0.3), abs=TICK)
    finally:
        leader.close()


@pytest.mark.parametrize("share", [0.0, 25.0, 50.0, 100.0])
def test_a_mirrored_leaders_gripper_gives_the_follower_the_same_opening(
    place: LeaderPort, units: ArmUnits, leader_plant: SimplePlant, share: float
) -> None:
    assert units.joints[GRIPPER].ticks_per_radian < 0 < ArmUnits(FOLLOWER).joints[GRIPPER].ticks_per_radian
    leader_plant.positions[GRIPPER] = LOWER[GRIPPER] + share / 100.0 * (UPPER[GRIPPER] - LOWER[GRIPPER])
    leader = Leader(place, units)
    try:
        position = leader.read().position
    finally:
        leader.close()
    follower = ArmUnits(FOLLOWER).to_lerobot(position, LeRobotUnit.DEGREES)
    assert follower[GRIPPER] == pytest.approx(share, abs=0.2)


def test_a_leader_that_holds_is_made_limp(
    leader_port: EmulatedPort, place: LeaderPort, units: ArmUnits, leader_plant: SimplePlant
) -> None:
    with leader_port.emulator.lock:
        for servo in leader_port.emulator.servos:
            servo.write(40, b"\x01")
    assert leader_plant.enabled.all()
    Leader(place, units).close()
    assert not leader_plant.enabled.any()


def test_a_followers_supply_is_refused_before_torque_goes_off(
    leader_port: EmulatedPort, units: ArmUnits, leader_plant: SimplePlant
) -> None:
    with leader_port.emulator.lock:
        for servo in leader_port.emulator.servos:
            servo.write(40, b"\x01")
    with pytest.raises(LeaderSupplyError, match=r"12\.\d V.*follower's port"):
        Leader(LeaderPort(str(leader_port.link), 1_000_000, 0.02, 2, 9.0), units)
    assert leader_plant.enabled.all()


def test_another_arms_calibration_is_refused(place: LeaderPort) -> None:
    with pytest.raises(CalibrationError, match="homing offset"):
        Leader(place, ArmUnits(FOLLOWER))


def test_a_jump_past_the_encoders_end_is_named(
    place: LeaderPort, units: ArmUnits, leader_plant: SimplePlant
) -> None:
    leader = Leader(place, units)
    try:
        leader_plant.positions[4] = 3.1
        leader.read()
        leader_plant.positions[4] = -3.1
        with pytest.raises(LeaderJumpError, match="wrist_roll of the leader jumped"):
            leader.read()
    finally:
        leader.close()


class Record:
    """What a reader delivered and said."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.said: list[tuple[bool, str]] = []

    @contextmanager
    def reading(self, place: LeaderPort, units: ArmUnits) -> Iterator[LeaderReader]:
        reader = LeaderReader(
            lambda: Leader(place, units),
            rate=100.0,
            answer_timeout=0.1,
            deliver=self.readings.append,
            say=lambda good, text: self.said.append((good, text)),
        )
        reader.connect()
        reader.start()
        try:
            yield reader
        finally:
            reader.stop()


def test_one_lost_reply_leaves_one_reading_out_and_no_more(
    leader_port: EmulatedPort, units: ArmUnits
) -> None:
    record = Record()
    place = LeaderPort(str(leader_port.link), 1_000_000, 0.005, 0, ANY_SUPPLY)
    leader_port.emulator.faults.drop = 0.0
    with record.reading(place, units) as reader:
        wait(lambda: len(record.readings) > 10, "readings")
        leader_port.emulator.faults.drop = 0.1
        wait(lambda: reader.status().errors >= 5, "lost replies")
        leader_port.emulator.faults.drop = 0.0
        assert reader.status().state is ReaderState.READING
        assert reader.status().losses == 0
        assert all(reading.position == pytest.approx(REST, abs=TICK) for reading in record.readings)


def test_a_silent_servo_stops_the_readings_and_names_itself(
    leader_port: EmulatedPort, place: LeaderPort, units: ArmUnits
) -> None:
    record = Record()
    with record.reading(place, units) as reader:
        wait(lambda: len(record.readings) > 5, "readings")
        leader_port.emulator.faults.silent.add(3)
        wait(lambda: reader.status().state is ReaderState.LOST, "the loss")
        delivered = len(record.readings)
        assert "no answer from servo 3" in record.said[-1][1]
        time.sleep(
            2.0 * RECONNECT
        )  # as long as it is silent, nothing may come: there is no event to wait for
        assert len(record.readings) == delivered
        leader_port.emulator.faults.silent.clear()
        wait(lambda: len(record.readings) > delivered + 5, "readings after the servo is back")
        assert record.said[-1][0]


def test_an_unplugged_leader_falls_silent_and_is_found_again_by_its_name(
    tmp_path: Path, leader_file: Path, units: ArmUnits
) -> None:
    record, link = Record(), tmp_path / "plug"
    first = emulated_arm(leader_file, SimplePlant(REST), link)
    first.start()
    place = LeaderPort(str(link), 1_000_000, 0.02, 2, ANY_SUPPLY)
    with record.reading(place, units) as reader:
        wait(lambda: len(record.readings) > 5, "readings")
        gone = time.monotonic()
        first.close()
        wait(lambda: reader.status().state is ReaderState.LOST, "the loss", 5.0)
        assert time.monotonic() - gone < 0.5
        delivered = len(record.readings)
        assert "is lost" in record.said[0][1]
        moved = [0.2, *REST[1:]]
        with emulated_arm(leader_file, SimplePlant(moved), link):
            wait(lambda: len(record.readings) > delivered + 5, "readings after it is plugged in again")
            assert record.readings[-1].position == pytest.approx(moved, abs=TICK)
            silence = (record.readings[delivered].stamp - record.readings[delivered - 1].stamp) * 1e-9
            assert silence > 0.25  # so the arm has ended teleoperation
            assert reader.status().losses == 1
