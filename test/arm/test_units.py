# SPDX-License-Identifier: Apache-2.0
"""Ticks, radians and LeRobot's units; LeRobot's calibration file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chefmate_driver.arm.calibration import (
    Calibration,
    JointCalibration,
    find_calibration,
    read_calibration,
    write_calibration,
)
from chefmate_driver.arm.errors import CalibrationError
from chefmate_driver.arm.model import JOINT_NAMES, LOWER, UPPER
from chefmate_driver.arm.units import ArmUnits, LeRobotUnit
from chefmate_ros.share import share_file

TWIN = share_file("config", "calibration", "twin.json")
# As a real arm's file looks: no range is symmetric, the gripper is mounted the other way round.
REAL: Calibration = {
    name: JointCalibration(id, 0, offset, low, high)
    for (name, id, offset, low, high) in (
        ("shoulder_pan", 1, -1211, 743, 3402),
        ("shoulder_lift", 2, 1100, 812, 3195),
        ("elbow_flex", 3, -975, 870, 3087),
        ("wrist_flex", 4, 1402, 861, 3208),
        ("wrist_roll", 5, -52, 0, 4095),
        ("gripper", 6, 1309, 2030, 3490),
    )
}
MIRRORED: Calibration = {**REAL, "gripper": replace(REAL["gripper"], drive_mode=1)}
CALIBRATIONS = st.sampled_from([REAL, MIRRORED])
TICKS = st.tuples(*(st.integers(REAL[name].range_min, REAL[name].range_max) for name in JOINT_NAMES))


@given(CALIBRATIONS, TICKS)
def test_ticks_survive_a_round_trip_through_radians(calibration: Calibration, ticks: tuple[int, ...]) -> None:
    units = ArmUnits(calibration)
    assert units.ticks(units.radians(ticks)) == list(ticks)


@given(CALIBRATIONS, TICKS, st.sampled_from(LeRobotUnit))
def test_ticks_survive_a_round_trip_through_lerobot_units(
    calibration: Calibration, ticks: tuple[int, ...], unit: LeRobotUnit
) -> None:
    units = ArmUnits(calibration)
    values = units.to_lerobot(units.radians(ticks), unit)
    assert units.ticks(units.from_lerobot(values, unit)) == list(ticks)


def lerobot_units() -> Any:
    """Numbers of LeRobot's own FeetechMotorsBus; the file names the version."""
    return json.loads((Path(__file__).parent / "data" / "lerobot_units.json").read_text())


LEROBOT = lerobot_units()


def lerobot_case(case: dict[str, Any]) -> tuple[ArmUnits, LeRobotUnit]:
    calibration = {
        name: JointCalibration(drive_mode=case["drive_mode"], **values)
        for name, values in LEROBOT["calibration"].items()
    }
    return ArmUnits(calibration), LeRobotUnit(case["unit"])


@pytest.mark.parametrize("case", LEROBOT["cases"], ids=lambda case: f"{case['unit']} {case['drive_mode']}")
def test_ticks_become_the_numbers_that_lerobot_makes_of_them(case: dict[str, Any]) -> None:
    units, unit = lerobot_case(case)
    for ticks, values in case["normalize"]:
        assert units.to_lerobot(units.radians(ticks), unit) == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("case", LEROBOT["cases"], ids=lambda case: f"{case['unit']} {case['drive_mode']}")
def test_lerobots_numbers_become_its_ticks_rounded_where_it_truncates(case: dict[str, Any]) -> None:
    units, unit = lerobot_case(case)
    for values, ticks in case["unnormalize"]:
        radians = units.from_lerobot(values, unit)
        exact = [joint.ticks(angle) for joint, angle in zip(units.joints, radians, strict=True)]
        for mine, theirs in zip(exact, ticks, strict=True):
            ahead = (mine - theirs) * (1 if theirs >= 0 else -1)  # int() cuts towards zero
            assert -1e-6 < ahead < 1.0 + 1e-6
        rounded = [min(max(round(tick), 0), 4095) for tick in exact]
        assert units.ticks(radians) == rounded


def test_body_joints_mirror_only_in_range_units() -> None:
    turned = {**REAL, "elbow_flex": replace(REAL["elbow_flex"], drive_mode=1)}
    plain, mirrored = ArmUnits(REAL), ArmUnits(turned)
    angles = np.full(6, 0.3)
    assert (
        mirrored.to_lerobot(angles, LeRobotUnit.DEGREES)[2]
        == plain.to_lerobot(angles, LeRobotUnit.DEGREES)[2]
    )
    assert mirrored.to_lerobot(angles, LeRobotUnit.RANGE)[2] == pytest.approx(
        -plain.to_lerobot(angles, LeRobotUnit.RANGE)[2]
    )
    back = mirrored.from_lerobot(mirrored.to_lerobot(angles, LeRobotUnit.RANGE), LeRobotUnit.RANGE)
    assert back == pytest.approx(angles)


@pytest.mark.parametrize("calibration", [REAL, MIRRORED])
def test_gripper_0_is_closed_and_100_open(calibration: Calibration) -> None:
    units = ArmUnits(calibration)
    closed, opened = np.zeros(6), np.array([0, 0, 0, 0, 0, 100.0])
    assert units.from_lerobot(closed, LeRobotUnit.DEGREES)[5] == pytest.approx(LOWER[5])
    assert units.from_lerobot(opened, LeRobotUnit.DEGREES)[5] == pytest.approx(UPPER[5])


def test_range_units_are_clamped_and_degrees_are_not() -> None:
    units = ArmUnits(REAL)
    far = units.radians([4095] * 6)
    assert units.to_lerobot(far, LeRobotUnit.RANGE)[0] == 100.0
    assert units.to_lerobot(far, LeRobotUnit.DEGREES)[0] > np.degrees(UPPER[0])


def test_the_twins_calibration_covers_the_urdf_and_no_more() -> None:
    lower, upper = ArmUnits(read_calibration(TWIN)).limits()
    assert lower == pytest.approx(LOWER, abs=1e-3)
    assert upper == pytest.approx(UPPER, abs=1e-3)
    assert (lower >= LOWER).all() and (upper <= UPPER).all()


def test_limits_are_the_calibrated_range_where_that_is_smaller() -> None:
    narrow = {**REAL, "shoulder_lift": replace(REAL["shoulder_lift"], range_min=1500, range_max=2500)}
    lower, upper = ArmUnits(narrow).limits()
    assert upper[1] == pytest.approx(500 * 2 * np.pi / 4095)
    assert lower[1] == pytest.approx(-upper[1])
    assert upper[0] == UPPER[0]


def test_files_are_written_as_lerobot_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "arm.json"
    write_calibration(path, read_calibration(TWIN))
    assert path.read_text() == TWIN.read_text()
    assert path.read_text().startswith('{\n    "shoulder_pan": {\n        "id": 1,\n        "drive_mode": 0,')


@pytest.mark.parametrize("folder", ["so_follower", "so101_follower"])
def test_an_id_is_found_in_both_of_lerobots_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    place = tmp_path / "robots" / folder / "my_arm.json"
    write_calibration(place, REAL)
    assert find_calibration("my_arm") == place
    assert read_calibration(place) == REAL


def test_the_home_of_lerobot_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_LEROBOT_CALIBRATION", raising=False)
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    place = tmp_path / "calibration" / "robots" / "so_follower" / "my_arm.json"
    write_calibration(place, REAL)
    assert find_calibration("my_arm") == place


def test_a_path_is_taken_as_it_is_and_the_shipped_file_by_name(tmp_path: Path) -> None:
    assert find_calibration(str(TWIN)) == TWIN
    assert find_calibration("twin") == TWIN
    with pytest.raises(CalibrationError, match=r"no calibration file './here.json'"):
        find_calibration("./here.json")


def test_a_missing_calibration_names_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    with pytest.raises(
        CalibrationError, match=r"so_follower/nobody.json.*so101_follower/nobody.json.*calibrate"
    ):
        find_calibration("nobody")
    with pytest.raises(CalibrationError, match="no calibration is named"):
        find_calibration("")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"range_min": 3000}, "elbow_flex: range 3000..3000 is no part"),
        ({"range_min": 2999, "range_max": 3000}, "elbow_flex: range 2999..3000 is narrower than 100 ticks"),
        ({"range_max": 4096}, "elbow_flex: range 946..4096 is no part"),
        ({"homing_offset": 2048}, "elbow_flex: homing_offset 2048 does not fit"),
        ({"id": 1}, "two joints share a servo id"),
        ({"id": 0}, "elbow_flex: id 0 is not"),
        ({"drive_mode": 2}, "elbow_flex: drive_mode 2"),
        ({"range_min": "946"}, "elbow_flex needs the integers"),
        ({"range_min": None}, "elbow_flex needs the integers"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    document = json.loads(TWIN.read_text())
    document["elbow_flex"] |= change
    if change.get("range_min") == 3000:
        document["elbow_flex"]["range_max"] = 3000
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CalibrationError, match=message) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value)


def test_a_missing_joint_and_broken_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"shoulder_pan": ')
    with pytest.raises(CalibrationError, match="is not JSON"):
        read_calibration(path)
    document = json.loads(TWIN.read_text())
    del document["gripper"]
    path.write_text(json.dumps(document))
    with pytest.raises(CalibrationError, match="lacks gripper"):
        read_calibration(path)
