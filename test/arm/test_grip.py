# SPDX-License-Identifier: Apache-2.0
"""The gripper's torque limit: it neither drops what it holds nor cooks its motor."""

from __future__ import annotations

from itertools import pairwise

import pytest

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.grip import GripForce, GripSettings
from chefmate_driver.feetech.emulated_servo import (
    AMBIENT,
    IDLE_CURRENT,
    STALL_CURRENT,
    STALL_WARMING,
    WARMING_TIME,
)

PERIOD = 0.05  # s
SERVO_OVERLOAD, SERVO_TIME = (
    0.25,
    2.0,
)  # LeRobot's overload threshold of the gripper; how long it is tolerated


class Motor:
    """A gripper's servo with the emulated servo's electrical and thermal constants.

    Where the position loop asks for more than the limit, the load is the limit. `exponent`: of the current
    over the duty; a meter in the supply line reads the square.
    """

    def __init__(self, grip: GripForce, exponent: float = 1.0, ambient: float = AMBIENT) -> None:
        self.grip, self.exponent, self.ambient = grip, exponent, ambient
        self.temperature, self.load, self.time = ambient, 0.0, 0.0

    def run(self, seconds: float, wanted: float) -> list[float]:
        """The load in each cycle while the position loop asks for `wanted` (share of the stall torque)."""
        loads = []
        for _ in range(round(seconds / PERIOD)):
            self.load = min(wanted, self.grip.limit)
            current = IDLE_CURRENT + STALL_CURRENT * self.load**self.exponent
            steady = self.ambient + STALL_WARMING * self.load**2
            self.temperature += (steady - self.temperature) * PERIOD / WARMING_TIME
            self.grip.update(current, self.load, self.temperature, PERIOD)
            self.time += PERIOD
            loads.append(self.load)
        return loads


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_a_long_squeeze_is_relieved_before_the_servo_would_cut_its_torque(exponent: float) -> None:
    motor = Motor(GripForce(), exponent)
    loads = motor.run(30.0, wanted=1.0)
    assert loads[0] == 0.5  # closes with full force
    above = sum(load > SERVO_OVERLOAD for load in loads) * PERIOD
    assert above < 0.8 * SERVO_TIME
    assert 0.15 <= loads[-1] <= 0.23
    assert motor.grip.lowered == 1


def test_a_hold_is_steady() -> None:
    """No hunting: after it has settled, the limit is not written again."""
    motor = Motor(GripForce())
    motor.run(10.0, wanted=1.0)
    settled = motor.grip.limit
    limits = set()
    for _ in range(1200):
        motor.run(PERIOD, wanted=1.0)
        limits.add(motor.grip.limit)
    assert limits == {settled}


def test_the_bus_is_written_few_times() -> None:
    motor = Motor(GripForce())
    limits = []
    for _ in range(200):
        motor.run(PERIOD, wanted=1.0)
        limits.append(motor.grip.limit)
    assert sum(one != other for one, other in pairwise(limits)) < 30


def test_an_hour_of_holding_keeps_the_motor_cool_where_full_force_would_not() -> None:
    motor = Motor(GripForce())
    motor.run(3600.0, wanted=1.0)
    assert motor.temperature < AMBIENT + 4.0
    full = Motor(GripForce(GripSettings(hold_torque=0.5, hold_current=2.7)))
    full.run(3600.0, wanted=1.0)
    assert full.temperature > AMBIENT + 14.0


def test_in_a_hot_place_it_holds_weaker_but_never_below_the_least() -> None:
    warm, hot = Motor(GripForce(), ambient=53.0), Motor(GripForce(), ambient=62.0)
    at_warm, at_hot = warm.run(600.0, wanted=1.0), hot.run(600.0, wanted=1.0)
    assert 0.16 < at_warm[-1] < 0.2
    assert at_hot[-1] == min(at_hot) == GripSettings().least


def test_it_never_drops_below_the_least_whatever_is_measured() -> None:
    grip = GripForce()
    for _ in range(2000):
        grip.update(5.0, 1.0, 90.0, PERIOD)
    assert grip.limit == GripSettings().least


def test_a_jaw_that_moves_freely_keeps_its_force() -> None:
    motor = Motor(GripForce())
    motor.run(20.0, wanted=0.15)
    assert motor.grip.limit == 0.5 and motor.grip.lowered == 0


def test_a_short_push_is_not_relieved() -> None:
    motor = Motor(GripForce())
    motor.run(0.4, wanted=1.0)  # 0.15 s of it until the load counts as pushing
    assert motor.grip.limit == 0.5
    motor.run(1.0, wanted=0.05)
    assert motor.grip.limit == 0.5


def test_after_letting_go_the_full_force_returns() -> None:
    motor = Motor(GripForce())
    motor.run(10.0, wanted=1.0)
    motor.run(1.0, wanted=0.02)
    assert motor.grip.limit == 0.5
    motor.run(10.0, wanted=1.0)
    assert motor.grip.limit < 0.25 and motor.grip.lowered == 2


def test_restore_is_the_full_limit() -> None:
    motor = Motor(GripForce())
    motor.run(10.0, wanted=1.0)
    motor.grip.restore()
    assert motor.grip.limit == 0.5


@pytest.mark.parametrize(
    "settings", [{"least": 0.3}, {"hold_torque": 0.6}, {"torque": 1.2}, {"hold_current": 0.0}]
)
def test_senseless_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ArmError, match="grip: needs"):
        GripSettings(**settings)
