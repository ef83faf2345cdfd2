# SPDX-License-Identifier: Apache-2.0
"""Whatever is asked for, what leaves the filter is within the limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.model import LOWER, UPPER, lowest_tip_height
from chefmate_driver.arm.safety import Limits, SafetyFilter

DT = 0.01
VELOCITY = np.array([2.0, 2.0, 2.5, 3.0, 4.0, 4.0])
ACCELERATION = np.array([10.0, 10.0, 12.0, 20.0, 30.0, 40.0])
NO_FLOOR = -10.0


def limits(floor: float = NO_FLOOR, body: bool = False) -> Limits:
    """Those of single joints, unless a floor or `body` asks for more."""
    return Limits(LOWER, UPPER, VELOCITY, ACCELERATION, floor, self_collision=body)


def made(position: np.ndarray | None = None, floor: float = NO_FLOOR, body: bool = False) -> SafetyFilter:
    safety = SafetyFilter(limits(floor, body))
    safety.reset(np.zeros(6) if position is None else position)
    return safety


def run(safety: SafetyFilter, wanted: list[np.ndarray | None]) -> np.ndarray:
    """Commands (n + 1, 6) for wanted positions; None brakes."""
    rows = [safety.position.copy()]
    for target in wanted:
        rows.append((safety.brake(DT) if target is None else safety.step(target, DT)).copy())
    return np.array(rows)


def assert_within(path: np.ndarray, override: float = 1.0) -> None:
    speed = np.diff(path, axis=0) / DT
    assert (np.abs(speed) <= VELOCITY * override + 1e-9).all()
    rise = np.diff(np.vstack([np.zeros(6), speed]), axis=0) / DT
    assert (np.abs(rise) <= ACCELERATION * (1 + 1e-6) + 1e-6).all()
    assert (path >= LOWER - 1e-9).all() and (path <= UPPER + 1e-9).all()


TARGET = st.lists(st.floats(-4, 4), min_size=6, max_size=6).map(np.array)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), TARGET), st.integers(1, 40)), min_size=1, max_size=8))
def test_any_sequence_of_targets_and_stops_stays_within_all_limits(
    parts: list[tuple[np.ndarray | None, int]],
) -> None:
    assert_within(run(made(), [target for target, count in parts for _ in range(count)]))


def test_a_step_is_reached_without_overshoot() -> None:
    target = np.array([1.0, -1.0, 0.5, 0.3, -2.0, 1.0])
    path = run(made(), [target] * 200)
    assert path[-1] == pytest.approx(target, abs=1e-9)
    assert (np.abs(path) <= np.abs(target) + 1e-9).all()
    assert_within(path)


def test_a_trajectory_within_the_limits_passes_unchanged() -> None:
    times = np.arange(1, 300) * DT
    wanted = np.outer(0.5 * (1 - np.cos(1.5 * times)), np.ones(6))
    safety = made()
    path = run(safety, list(wanted))
    assert path[1:] == pytest.approx(wanted, abs=1e-12)
    assert safety.interventions == 0


def test_a_lagging_command_catches_up_with_a_moving_target() -> None:
    ramp = [np.full(6, 0.3 + 0.5 * index * DT) for index in range(200)]
    path = run(made(), ramp)
    assert path[-1] == pytest.approx(ramp[-1], abs=1e-6)
    assert_within(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_brakes(bad: float) -> None:
    safety = made()
    run(safety, [np.full(6, 1.0)] * 20)
    path = run(safety, [np.array([1.0, 1.0, 1.0, bad, 1.0, 1.0])] * 60)
    assert np.isfinite(path).all()
    assert safety.still
    assert safety.interventions >= 60
    assert safety.reason == "not a finite position"


def test_braking_takes_the_distance_that_the_acceleration_limit_gives() -> None:
    safety = made()
    ramp = run(safety, [np.full(6, 1.6)] * 30)
    speed = (ramp[-1] - ramp[-2]) / DT
    path = run(safety, [None] * 60)
    assert safety.still
    assert np.abs(path[-1] - path[0]) == pytest.approx(speed**2 / (2 * ACCELERATION), abs=0.03)
    assert (np.diff(path, axis=0) >= -1e-12).all()


def test_speed_override_scales_speed_and_can_change_while_moving() -> None:
    safety = made()
    run(safety, [np.full(6, 1.6)] * 30)
    safety.speed_override = 0.2
    path = run(safety, [np.full(6, 1.6)] * 60)
    assert (np.abs(np.diff(path[-10:], axis=0)) / DT <= VELOCITY * 0.2 + 1e-9).all()
    assert (np.abs(np.diff(path, n=2, axis=0)) / DT**2 <= ACCELERATION + 1e-6).all()


@pytest.mark.parametrize("share", [0.0, 0.05, 1.01, float("nan")])
def test_speed_override_outside_10_to_100_percent_is_refused(share: float) -> None:
    with pytest.raises(ArmError, match="speed override"):
        made().speed_override = share


def test_the_finger_tips_stay_above_the_table() -> None:
    safety = made(floor=0.02)
    down = np.array([0.0, 1.0, 0.5, 0.5, 0.0, 0.0])
    assert lowest_tip_height(down) < -0.05
    path = run(safety, [down] * 300)
    heights = [lowest_tip_height(row) for row in path]
    assert min(heights) > 0.02 - 1e-3
    assert min(heights) < 0.05  # it did go down
    assert_within(path)
    assert safety.reason == "table"
    # And up again from there.
    path = run(safety, [np.zeros(6)] * 300)
    assert path[-1] == pytest.approx(np.zeros(6), abs=1e-6)


def test_an_arm_found_below_the_table_limit_may_only_rise() -> None:
    low = np.array([0.0, 0.6, 0.5, 0.5, 0.0, 0.0])
    safety = made(low, floor=lowest_tip_height(low) + 0.03)
    path = run(safety, [low + np.array([0, 0.2, 0, 0, 0, 0])] * 50)
    assert path[-1] == pytest.approx(low, abs=1e-6)
    path = run(safety, [np.zeros(6)] * 300)
    assert path[-1] == pytest.approx(np.zeros(6), abs=1e-6)


def test_an_arm_found_outside_its_limits_moves_only_inward() -> None:
    outside = UPPER + 0.05
    path = run(made(outside), [UPPER + 1.0] * 50)
    assert (np.diff(path, axis=0) <= 1e-12).all()
    assert path[-1] == pytest.approx(UPPER, abs=1e-6)


def test_senseless_limits_are_refused() -> None:
    with pytest.raises(ArmError, match="velocity needs six"):
        Limits(LOWER, UPPER, np.ones(5), ACCELERATION, 0.0)
    with pytest.raises(ArmError, match="above zero"):
        Limits(LOWER, UPPER, -VELOCITY, ACCELERATION, 0.0)
