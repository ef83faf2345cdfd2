# SPDX-License-Identifier: Apache-2.0
"""What pressed keys ask of the arm."""

from __future__ import annotations

import numpy as np
import pytest

from chefmate_driver.arm.model import GRIPPER, JOINT_NAMES, LOWER, UPPER
from chefmate_driver.teleop.jog import BLOCKED, BY_KEY, GRIPPER_FACTOR, HOLD, KEYS, LEAD, SPEEDS, JogTarget

DT = 1.0 / 60.0
MIDDLE = np.zeros(6)


def run(target: JogTarget, start: float, seconds: float, measured: np.ndarray | None = None) -> np.ndarray:
    """Steps for some time with an arm that follows at once, or one that stays at `measured`."""
    position = target.position
    for index in range(round(seconds / DT)):
        position = target.step(start + index * DT, DT, position if measured is None else measured)
    return position


def jog() -> JogTarget:
    target = JogTarget()
    target.rest_at(MIDDLE)
    return target


def test_each_joint_has_a_key_for_each_direction_and_no_key_two_meanings() -> None:
    assert {(entry.joint, entry.direction) for entry in KEYS} == {
        (joint, direction) for joint in range(len(JOINT_NAMES)) for direction in (-1, 1)
    }
    assert len(BY_KEY) == len(KEYS)
    assert not set(BY_KEY) & set("x +-=\r\n")


@pytest.mark.parametrize("key", list(BY_KEY))
def test_a_tap_is_one_small_step_of_one_joint(key: str) -> None:
    target, entry = jog(), BY_KEY[key]
    target.press(entry, 10.0, MIDDLE)
    moved = run(target, 10.0, 1.0)
    factor = GRIPPER_FACTOR if entry.joint == GRIPPER else 1.0
    assert moved[entry.joint] == pytest.approx(
        entry.direction * target.speed * factor * HOLD, abs=2 * target.speed * factor * DT
    )
    assert np.count_nonzero(moved) == 1


def test_a_held_key_moves_on_and_its_release_stops_within_the_hold_time() -> None:
    target = jog()
    for index in range(30):  # 1 s of repeats at 30 Hz
        target.press(BY_KEY["2"], index / 30.0, target.position)
        run(target, index / 30.0, 1.0 / 30.0)
    held = target.position[1]
    assert held == pytest.approx(target.speed * 1.0, rel=0.1)
    run(target, 1.0, 1.0)
    assert target.position[1] - held <= target.speed * (HOLD + DT)
    assert target.position[1] == run(target, 3.0, 1.0)[1]


def test_space_stops_at_once() -> None:
    target = jog()
    target.press(BY_KEY["1"], 0.0, MIDDLE)
    moved = run(target, 0.0, 0.05).copy()
    target.halt()
    assert run(target, 0.05, 0.5) == pytest.approx(moved)


def test_the_target_does_not_run_ahead_of_an_arm_that_is_held_back() -> None:
    target = jog()
    for index in range(120):
        target.press(BY_KEY["3"], index / 30.0, MIDDLE)
        run(target, index / 30.0, 1.0 / 30.0, measured=MIDDLE)
    assert target.position[2] == pytest.approx(LEAD)


def test_turning_back_begins_at_the_arm_and_not_where_the_target_had_run_to() -> None:
    target = jog()
    for index in range(60):
        target.press(BY_KEY["3"], index / 30.0, MIDDLE)
        run(target, index / 30.0, 1.0 / 30.0, measured=MIDDLE)
    assert target.position[2] > BLOCKED
    target.press(BY_KEY["e"], 3.0, MIDDLE)
    target.step(3.0, DT, MIDDLE)
    assert target.position[2] < 0.0


def test_a_joint_that_sags_is_not_let_down_by_keys_of_other_joints() -> None:
    target, sagging = jog(), np.array([0.0, -0.3, 0.0, 0.0, 0.0, 0.0])
    target.press(BY_KEY["1"], 0.0, sagging)
    assert run(target, 0.0, 0.5, measured=sagging)[1] == 0.0


@pytest.mark.parametrize(("key", "limit"), [("1", UPPER[0]), ("q", LOWER[0]), ("c", LOWER[GRIPPER])])
def test_the_target_stays_within_the_models_limits(key: str, limit: float) -> None:
    target, entry = jog(), BY_KEY[key]
    start = MIDDLE.copy()
    start[entry.joint] = limit - entry.direction * 0.01
    target.rest_at(start)
    for index in range(60):
        target.press(entry, index / 30.0, target.position)
        run(target, index / 30.0, 1.0 / 30.0)
    assert target.position[entry.joint] == pytest.approx(limit)


def test_the_speed_goes_up_and_down_and_no_further_than_its_steps() -> None:
    target = jog()
    for _ in range(10):
        target.change_speed(+1)
    assert target.speed == SPEEDS[-1]
    for _ in range(10):
        target.change_speed(-1)
    assert target.speed == SPEEDS[0]


def test_while_the_arm_does_not_listen_the_target_is_where_it_is() -> None:
    target, moved = jog(), np.full(6, 0.4)
    target.press(BY_KEY["1"], 0.0, MIDDLE)
    target.rest_at(moved)
    assert run(target, 0.0, 0.5, measured=moved) == pytest.approx(moved)
