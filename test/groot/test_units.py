# SPDX-License-Identifier: Apache-2.0
"""Units of datasets and models: equal to LeRobot's formulas and to the arm's own conversion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chefmate_driver.arm.calibration import JointCalibration
from chefmate_driver.arm.model import JOINTS
from chefmate_driver.arm.units import ArmUnits, LeRobotUnit
from chefmate_policy.units import JointUnit, JointUnits, UnitError, calibrated_ends, so101_units

TURN = 4095
BODY = JOINTS[:-1]


@st.composite
def calibrations(draw: st.DrawFn) -> dict[str, JointCalibration]:
    """An arm's calibration: ranges anywhere, some joints mirrored."""
    return {
        joint.name: JointCalibration(
            index + 1,
            draw(st.integers(0, 1)),
            0,
            draw(st.integers(300, 1500)),
            draw(st.integers(2300, 3900)),
        )
        for index, joint in enumerate(JOINTS)
    }


def table(calibration: dict[str, JointCalibration], unit: str) -> JointUnits:
    """The units of that arm's data."""
    parsed = {name: vars_of(entry) for name, entry in calibration.items()}
    return JointUnits(so101_units([joint.name for joint in JOINTS], unit, parsed))


def vars_of(entry: JointCalibration) -> dict[str, int]:
    return {name: getattr(entry, name) for name in ("drive_mode", "range_min", "range_max")}


@given(calibrations(), st.sampled_from(LeRobotUnit), st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_values_and_angles_are_those_of_the_arms_conversion(
    calibration: dict[str, JointCalibration], unit: LeRobotUnit, shares: list[float]
) -> None:
    arm, units = ArmUnits(calibration), table(calibration, unit.value)
    ticks = [
        calibration[joint.name].range_min
        + share * (calibration[joint.name].range_max - calibration[joint.name].range_min)
        for joint, share in zip(JOINTS, shares, strict=True)
    ]
    angles = arm.radians(ticks)
    values = units.values(angles)
    np.testing.assert_allclose(values, arm.to_lerobot(angles, unit), rtol=0, atol=1e-9)
    np.testing.assert_allclose(units.radians(values), arm.from_lerobot(values, unit), rtol=0, atol=1e-9)
    np.testing.assert_allclose(units.radians(values), angles, rtol=0, atol=1e-9)


@given(calibrations(), st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_values_are_lerobots_formulas(calibration: dict[str, JointCalibration], shares: list[float]) -> None:
    for joint, share in zip(BODY, shares, strict=False):
        entry = calibration[joint.name]
        low, high = entry.range_min, entry.range_max
        tick = low + share * (high - low)
        angle = (tick - (low + high) / 2) * 2 * math.pi / TURN
        degrees = JointUnits([JointUnit(joint.name, "degrees")]).values([angle])[0]
        assert degrees == pytest.approx((tick - (low + high) / 2) * 360 / TURN, abs=1e-9)
        ends = calibrated_ends(low, high, bool(entry.drive_mode))
        ranged = JointUnits([JointUnit(joint.name, "-100..100", *ends)]).values([angle])[0]
        expected = (tick - low) / (high - low) * 200 - 100
        assert ranged == pytest.approx(-expected if entry.drive_mode else expected, abs=1e-9)


def test_ranges_are_clamped_and_angles_are_not() -> None:
    units = JointUnits(
        [JointUnit("a", "0..100", -0.2, 1.8), JointUnit("b", "degrees"), JointUnit("c", "rad")]
    )
    assert units.values([5.0, 5.0, 5.0]).tolist() == pytest.approx([100.0, math.degrees(5.0), 5.0])
    assert units.radians([-20.0, 400.0, 9.0]).tolist() == pytest.approx([-0.2, math.radians(400.0), 9.0])


def test_a_table_survives_its_file() -> None:
    joints = [JointUnit("a", "0..100", -0.2, 1.8), JointUnit("b", "degrees")]
    assert [JointUnit.from_dict(joint.to_dict()) for joint in joints] == joints


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"joint": "elbow_flex", "unit": "gradians"}, "gradians"),
        ({"joint": "elbow_flex", "unit": "-100..100"}, "calibrated range"),
        ({"joint": "elbow_flex", "unit": "degrees", "low": 0.0, "high": 1.0}, "leave low and high out"),
        ({"joint": "elbow_flex"}, "unit"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(entry: dict[str, object], words: str) -> None:
    with pytest.raises(UnitError, match=words) as caught:
        JointUnit.from_dict(entry)
    assert "elbow_flex" in str(caught.value)


def test_joints_that_do_not_match_are_named() -> None:
    units = JointUnits([JointUnit("pan", "rad"), JointUnit("jaw", "rad")])
    assert units.order(["jaw", "pan"]) == [1, 0]
    with pytest.raises(UnitError, match="lacks jaw; the model does not know wrist"):
        units.order(["pan", "wrist"])


def test_range_units_without_the_arms_calibration_are_refused() -> None:
    with pytest.raises(UnitError, match="shoulder_pan's calibrated range"):
        so101_units(["shoulder_pan"], "-100..100")
    assert [joint.unit for joint in so101_units(["shoulder_pan", "gripper"], "rad")] == ["rad", "rad"]
