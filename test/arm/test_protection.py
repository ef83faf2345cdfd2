# SPDX-License-Identifier: Apache-2.0
"""Load, current, temperature and supply slow, hold and release the arm in this order, and say why."""

from __future__ import annotations

import numpy as np
import pytest

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.model import GRIPPER
from chefmate_driver.arm.protection import Protection, ProtectionLimits, Stage, Thresholds, Verdict, Vitals
from chefmate_driver.feetech.packet import StatusBit

PERIOD = 0.05  # s
LIFT = 1


def vitals(joint: int = LIFT, **values: float) -> Vitals:
    """A healthy arm, apart from `values` of one joint."""
    healthy = {"load": 0.2, "current": 0.4, "temperature": 35.0, "voltage": 12.0, "status": 0}
    arrays = {name: np.full(6, value) for name, value in healthy.items()}
    for name, value in values.items():
        arrays[name][joint] = value
    return Vitals(**arrays)


class Arm:
    """Feeds a protection at PERIOD."""

    def __init__(self, limits: ProtectionLimits | None = None, period: float = PERIOD) -> None:
        self.protection, self.now, self.period = Protection(limits), 0.0, period
        self.feel(1.0)

    def feel(self, seconds: float, joint: int = LIFT, **values: float) -> Verdict:
        state = vitals(joint, **values)
        for _ in range(max(1, round(seconds / self.period))):
            self.now += self.period
            verdict = self.protection.update(state, self.now)
        return verdict

    def until(self, stage: Stage, **values: float) -> float:
        """Seconds until this stage."""
        begin = self.now
        while self.feel(self.period, **values).stage < stage:
            assert self.now - begin < 60.0
        return self.now - begin


def test_a_healthy_arm_is_left_alone() -> None:
    verdict = Arm().feel(60.0)
    assert verdict == Verdict(Stage.NORMAL, 1.0, (), "", 0.5)


@pytest.mark.parametrize(
    ("temperature", "stage", "speed"),
    [
        (54.0, Stage.NORMAL, 1.0),
        (57.5, Stage.SLOW, 0.65),
        (61.0, Stage.HOLD, 0.3),
        (66.0, Stage.RELEASE, 0.3),
    ],
)
def test_temperature_slows_holds_and_releases(temperature: float, stage: Stage, speed: float) -> None:
    verdict = Arm().feel(5.0, temperature=temperature)
    assert verdict.stage is stage
    assert verdict.speed == pytest.approx(speed, abs=0.01)
    if stage is not Stage.NORMAL:
        assert verdict.joints == ("shoulder_lift",)
        assert verdict.reason.startswith("shoulder_lift is at ") and "let it cool" in verdict.reason


def test_a_servo_is_released_before_it_switches_itself_off() -> None:
    """At 3 K/s, far faster than a motor warms, the release comes below the servo's own 70 degrees."""
    arm, temperature = Arm(), 50.0
    while arm.feel(PERIOD, temperature=temperature).stage is not Stage.RELEASE:
        temperature += 3.0 * PERIOD
    assert temperature < 68.0


def test_a_stage_ends_only_below_its_threshold_by_the_hysteresis() -> None:
    arm = Arm()
    assert arm.feel(5.0, temperature=61.0).stage is Stage.HOLD
    assert arm.feel(5.0, temperature=58.0).stage is Stage.HOLD
    assert arm.feel(5.0, temperature=56.5).stage is Stage.SLOW
    assert arm.feel(5.0, temperature=53.0).stage is Stage.SLOW
    assert arm.feel(5.0, temperature=51.0).stage is Stage.NORMAL
    assert arm.protection.counts == {"NORMAL": 1, "SLOW": 2, "HOLD": 1, "RELEASE": 0}


def test_a_trembling_temperature_does_not_make_the_stage_tremble() -> None:
    arm = Arm()
    for cycle in range(400):
        arm.feel(PERIOD, temperature=59.0 + 2.0 * (cycle % 2))
    assert arm.protection.counts["HOLD"] <= 1


@pytest.mark.parametrize("before", [0.0, 1.0])
@pytest.mark.parametrize("voltage", [0.0, 25.0])
def test_one_odd_reading_does_nothing(voltage: float, before: float) -> None:
    """Turned bits of a reply that slip through its checksum; also as the first reading of all."""
    arm = Arm()
    if not before:
        arm.protection = Protection()
    arm.feel(PERIOD, temperature=250.0, voltage=voltage, current=200.0, load=1.0)
    for _ in range(40):
        assert arm.feel(PERIOD) == Verdict(Stage.NORMAL, 1.0, (), "", 0.5)


def test_one_odd_reading_of_the_gripper_does_not_weaken_its_hold() -> None:
    arm, plain = Arm(), Arm()
    for each, current in ((arm, 200.0), (plain, 0.6)):
        each.feel(10.0, joint=GRIPPER, load=0.22, current=0.6)
        each.feel(PERIOD, joint=GRIPPER, load=0.22, current=current)
        each.feel(PERIOD, joint=GRIPPER, load=0.22, current=0.6)
    assert arm.protection.torque_limits[GRIPPER] == plain.protection.torque_limits[GRIPPER]


def test_a_release_is_latched_until_reset_and_returns_while_it_is_hot() -> None:
    arm = Arm()
    assert arm.feel(5.0, temperature=66.0).stage is Stage.RELEASE
    verdict = arm.feel(60.0, temperature=30.0)
    assert verdict.stage is Stage.RELEASE and "then call arm/torque" in verdict.reason
    arm.protection.reset()
    assert arm.feel(1.0, temperature=66.0).stage is Stage.RELEASE
    arm.protection.reset()
    assert arm.feel(1.0, temperature=40.0).stage is Stage.NORMAL


@pytest.mark.parametrize("period", [0.01, 0.05, 0.2])
def test_overload_slows_holds_and_releases_before_the_servo_cuts_its_torque(period: float) -> None:
    """The servo cuts its torque after 2 s above 80 % load (registers 34, 35, 36)."""
    arm = Arm(period=period)
    begin = arm.now
    arm.until(Stage.SLOW, load=0.9)
    assert arm.now - begin == pytest.approx(0.5, abs=period)
    arm.until(Stage.HOLD, load=-0.9)
    assert arm.now - begin == pytest.approx(1.0, abs=1.5 * period)
    assert "above 70% load for 1." in arm.feel(period, load=0.9).reason
    arm.until(Stage.RELEASE, load=0.9)
    assert arm.now - begin == pytest.approx(8.0, abs=2 * period)


def test_a_short_push_is_forgotten_and_a_repeated_one_is_not() -> None:
    arm = Arm()
    assert arm.feel(0.4, load=0.95).stage is Stage.NORMAL
    assert arm.feel(3.0).stage is Stage.NORMAL
    for _ in range(6):
        worst = arm.feel(0.4, load=0.95).stage
        arm.feel(0.4)
    assert worst is Stage.HOLD


@pytest.mark.parametrize(("current", "stage"), [(1.3, 0), (1.7, 1), (-2.2, 2), (2.6, 3)])
def test_a_long_high_current_slows_holds_and_releases(current: float, stage: int) -> None:
    arm = Arm()
    assert arm.feel(0.5, current=current).stage is Stage.NORMAL
    assert arm.feel(20.0, current=current).stage == stage


@pytest.mark.parametrize(
    ("voltage", "stage", "text"),
    [
        (11.0, Stage.NORMAL, ""),
        (10.3, Stage.SLOW, "check the adapter's power"),
        (9.0, Stage.HOLD, "shoulder_lift has 9.0 V of 12 V"),
        (5.0, Stage.HOLD, "check the adapter's power"),
        (13.2, Stage.SLOW, "check that the adapter fits"),
        (14.0, Stage.HOLD, "check that the adapter fits"),
    ],
)
def test_supply_slows_and_holds_but_never_drops_the_arm(voltage: float, stage: Stage, text: str) -> None:
    verdict = Arm().feel(60.0, voltage=voltage)
    assert verdict.stage is stage
    assert text in verdict.reason


def test_a_sag_of_the_low_voltage_servo_counts_from_its_own_supply() -> None:
    protection = Protection(ProtectionLimits(supply=7.4))
    low = Vitals(*(np.full(6, value) for value in (0.2, 0.4, 35.0, 7.3)), np.zeros(6, dtype=np.int64))
    for cycle in range(5):
        assert protection.update(low, cycle * PERIOD).stage is Stage.NORMAL


@pytest.mark.parametrize("bit", [StatusBit.OVERLOAD, StatusBit.CURRENT, StatusBit.VOLTAGE, StatusBit.SENSOR])
def test_a_status_bit_holds_and_is_named(bit: StatusBit) -> None:
    arm = Arm()
    verdict = arm.feel(PERIOD, status=int(bit))
    assert verdict.stage is Stage.HOLD
    assert (
        verdict.reason.startswith("shoulder_lift: the servo reports")
        and str(bit.name).lower() in verdict.reason
    )
    assert arm.feel(0.5).stage is Stage.HOLD  # a flicker does not set the arm free at once
    assert arm.feel(1.0).stage is Stage.NORMAL


def test_the_servos_own_over_temperature_releases() -> None:
    verdict = Arm().feel(PERIOD, status=int(StatusBit.TEMPERATURE))
    assert verdict.stage is Stage.RELEASE and "over-temperature" in verdict.reason


def test_several_causes_name_the_worst() -> None:
    arm = Arm()
    verdict = arm.feel(5.0, temperature=56.0, voltage=9.0)
    assert verdict.stage is Stage.HOLD and "9.0 V" in verdict.reason


def test_gripper_squeezing_at_its_limit_does_not_stop_the_arm() -> None:
    verdict = Arm().feel(30.0, joint=GRIPPER, load=0.5, current=1.37)
    assert verdict.stage is Stage.NORMAL
    assert verdict.gripper_torque < 0.25


def test_torque_limits_are_full_but_for_the_gripper() -> None:
    arm = Arm()
    assert arm.protection.torque_limits == pytest.approx([1, 1, 1, 1, 1, 0.5])
    verdict = arm.feel(10.0, joint=GRIPPER, load=0.5, current=1.37)
    assert arm.protection.torque_limits[GRIPPER] == verdict.gripper_torque
    arm.protection.reset()
    assert arm.protection.torque_limits[GRIPPER] == 0.5


@pytest.mark.parametrize(
    "thresholds", [(60.0, 55.0, 65.0, 3.0), (55.0, 60.0, 58.0, 3.0), (55.0, 60.0, 65.0, 0.0)]
)
def test_senseless_thresholds_are_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ArmError, match="rise from slow"):
        Thresholds(*thresholds)


def test_vitals_of_the_wrong_shape_or_not_finite_are_refused() -> None:
    good = [np.zeros(6)] * 4
    with pytest.raises(ArmError, match="vitals: status needs six"):
        Vitals(*good, np.zeros(5, dtype=np.int64))
    with pytest.raises(ArmError, match="temperature"):
        vitals(temperature=float("nan"))
