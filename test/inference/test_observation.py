# SPDX-License-Identifier: Apache-2.0
"""Which inputs may be acted on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chefmate_policy.inference.observation import (
    InputLimit,
    InputWatch,
    JointHistory,
    joint_fault,
    joint_vector,
)

JOINTS = ("pan", "lift")


@pytest.fixture
def watch() -> InputWatch:
    watch = InputWatch(
        [
            InputLimit("scene", "scene camera", "frame", 0.3),
            InputLimit("joint_states", "joint states", "message", 0.1),
        ]
    )
    watch.restart(100.0)
    return watch


def test_fresh_inputs_have_no_fault(watch: InputWatch) -> None:
    watch.arrived("scene", 100.0)
    watch.arrived("joint_states", 100.1)
    assert watch.fault(100.15) == ""
    assert watch.oldest_age(100.15) == pytest.approx(0.15)


def test_an_old_input_is_named_with_its_age(watch: InputWatch) -> None:
    watch.arrived("scene", 100.0)
    watch.arrived("joint_states", 100.3)
    assert watch.fault(100.31) == "scene camera: no frame for 0.31 s (limit 0.30 s)"


def test_an_input_that_never_came_is_named(watch: InputWatch) -> None:
    watch.arrived("scene", 102.0)
    assert watch.fault(102.0) == "joint states: no message yet, for 2.0 s"
    assert math.isinf(watch.oldest_age(102.0))


def test_an_old_stamp_does_not_make_an_input_older(watch: InputWatch) -> None:
    watch.arrived("scene", 100.2)
    watch.arrived("scene", 100.1)
    assert watch.stamps == {"scene": 100.2}


def test_a_stamp_from_the_future_is_a_fault(watch: InputWatch) -> None:
    watch.arrived("scene", 103.0)
    watch.arrived("joint_states", 100.0)
    assert "2.95 s in the future" in watch.fault(100.05)


def test_wrong_content_stands_until_good_content(watch: InputWatch) -> None:
    watch.arrived("scene", 100.0)
    watch.arrived("joint_states", 100.0, fault="the position of pan is nan")
    assert watch.fault(100.01) == "joint states: the position of pan is nan"
    watch.arrived("joint_states", 100.01)
    assert watch.fault(100.02) == ""


def test_restart_forgets_what_came_before(watch: InputWatch) -> None:
    watch.arrived("scene", 100.0)
    watch.arrived("joint_states", 100.0)
    watch.restart(100.05)
    assert watch.fault(100.06).startswith("scene camera: no frame yet")


@pytest.mark.parametrize(
    ("names", "positions", "velocities", "words"),
    [
        (["pan"], [0.0], [], "has no joint lift"),
        (["pan", "lift"], [0.0], [], "2 names but 1 positions"),
        (["pan", "lift"], [0.0, math.nan], [], "position of lift is nan"),
        (["pan", "lift"], [0.0, 0.0], [math.inf, 0.0], "velocity of pan is inf"),
        (["lift", "pan", "jaw"], [0.0, 0.0, math.nan], [], ""),
    ],
)
def test_joint_states_are_judged(
    names: list[str], positions: list[float], velocities: list[float], words: str
) -> None:
    fault = joint_fault(names, positions, velocities, JOINTS)
    assert (words in fault) if words else not fault


def test_joints_are_sorted_by_name_and_missing_velocities_are_zero() -> None:
    np.testing.assert_array_equal(joint_vector(["lift", "pan"], [1.0, 2.0], JOINTS), [2.0, 1.0])
    np.testing.assert_array_equal(joint_vector(["lift", "pan"], [], JOINTS), [0.0, 0.0])


def test_joints_of_a_moment_lie_between_two_stamps() -> None:
    history = JointHistory()
    assert history.at(1.0)[0].size == 0
    for number in range(300):  # 3 s at 100 Hz
        stamp = 10.0 + number / 100
        history.add(stamp, np.array([stamp, -stamp]), np.array([1.0, number]))
    positions, velocities = history.at(12.505)
    assert positions == pytest.approx([12.505, -12.505])
    assert velocities == pytest.approx([1.0, 250.5])
    assert history.at(99.0)[0] == pytest.approx([12.99, -12.99])  # not beyond the newest
    assert history.at(10.0)[0] == pytest.approx([11.99, -11.99], abs=0.011)  # a second is kept
    history.add(5.0, np.array([7.0, 7.0]), np.zeros(2))  # the clock was set back
    assert history.at(12.0)[0] == pytest.approx([7.0, 7.0])
