# SPDX-License-Identifier: Apache-2.0
"""The trajectory contract, case by case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chefmate_driver.arm.errors import TrajectoryRejectedError
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.trajectory import Motion, Trajectory, check_trajectory, slow_move

NOW = 1000.0
REST = np.zeros(6)


def made(**changes: Any) -> Trajectory:
    """Two points at 1 s and 2 s, all joints at 0.1 and 0.3 rad, unless changed."""
    parts: dict[str, Any] = {
        "names": JOINT_NAMES,
        "times": [1.0, 2.0],
        "positions": [[0.1] * 6, [0.3] * 6],
        "velocities": [[], []],
        "stamp": None,
        "now": NOW,
    }
    return check_trajectory(**{**parts, **changes})


def values(motion: Motion, *times: float) -> list[float]:
    return [float(motion.sample(NOW + time)[0]) for time in times]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"names": JOINT_NAMES[:5], "positions": [[0.1] * 5] * 2}, "missing joints gripper"),
        ({"names": [*JOINT_NAMES[:5], "jaw"]}, "unknown joint 'jaw'; the arm has"),
        ({"names": [*JOINT_NAMES, "gripper"], "positions": [[0.1] * 7] * 2}, "a joint is named twice"),
        ({"names": [], "positions": [[], []]}, "missing joints"),
        ({"times": [], "positions": [], "velocities": []}, "no points"),
        ({"names": [*JOINT_NAMES, "a", "b", "c"]}, "unknown joint 'a' and 2 more; the arm has"),
        (
            {"times": [1.0, 1.0]},
            "times do not increase: point 1 is due at 1.0000 s, the one before at 1",
        ),
        (
            {"times": [2.0, 1.0]},
            "times do not increase: point 1 is due at 1.0000 s, the one before at 2",
        ),
        ({"times": [-0.1, 1.0]}, "times do not increase: point 0 is due at -0.1000 s"),
        ({"times": [1.0, float("nan")]}, "a time is not finite, in point 1"),
        ({"positions": [[0.1] * 6, [0.1] * 5 + [float("nan")]]}, "a position is not finite"),
        ({"positions": [[0.1] * 6, [float("inf")] * 6]}, "a position is not finite"),
        ({"velocities": [[0.0] * 6, [float("nan")] * 6]}, "a velocity is not finite"),
        ({"positions": [[0.1] * 6, [0.1] * 5]}, "point 1 has 5 positions for 6 joints"),
        ({"velocities": [[0.0] * 6, []]}, "point 1 has 0 velocities"),
        ({"stamp": NOW - 2.5}, "already finished 0.500 s ago"),
        ({"stamp": NOW - 2.0}, "already finished"),
    ],
)
def test_what_breaks_the_contract_is_rejected_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(TrajectoryRejectedError, match=reason):
        made(**changes)


def test_a_reason_names_the_first_offender_only() -> None:
    count = 500
    with pytest.raises(TrajectoryRejectedError) as caught:
        made(times=[1.0] * count, positions=[[0.1] * 6] * count, velocities=[[]] * count)
    assert len(str(caught.value)) < 120
    assert "point 1 " in str(caught.value)


def test_joints_may_come_in_any_order() -> None:
    trajectory = made(names=JOINT_NAMES[::-1], positions=[[6, 5, 4, 3, 2, 1], [0.3] * 6])
    assert trajectory.positions[0].tolist() == [1, 2, 3, 4, 5, 6]


def test_without_velocities_interpolation_is_linear_from_the_reference() -> None:
    motion = Motion(made(), NOW, REST, REST)
    assert values(motion, 0.0, 0.5, 1.0, 1.5, 2.0, 9.0) == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.3, 0.3])


def test_with_velocities_interpolation_is_cubic_hermite() -> None:
    trajectory = made(velocities=[[0.4] * 6, [0.0] * 6])
    motion = Motion(trajectory, NOW, REST, np.full(6, 0.2))

    def hermite(p0: float, v0: float, p1: float, v1: float, s: float) -> float:
        return (
            (1 + 2 * s) * (1 - s) ** 2 * p0
            + s * (1 - s) ** 2 * v0
            + s * s * (3 - 2 * s) * p1
            + s * s * (s - 1) * v1
        )

    expected = [hermite(0.0, 0.2, 0.1, 0.4, s) for s in (0.25, 0.5, 0.75)]
    assert values(motion, 0.25, 0.5, 0.75) == pytest.approx(expected)
    assert values(motion, 1.0, 1.5) == pytest.approx([0.1, hermite(0.1, 0.4, 0.3, 0.0, 0.5)])
    # The rates match the given ones at the points.
    step = 1e-4
    before, at, after = values(Motion(trajectory, NOW, REST, np.full(6, 0.2)), 1.0 - step, 1.0, 1.0 + step)
    assert (at - before) / step == pytest.approx(0.4, abs=1e-3)
    assert (after - at) / step == pytest.approx(0.4, abs=1e-3)


def test_stamp_0_starts_now() -> None:
    assert made(stamp=None).start == NOW


def test_a_past_stamp_drops_past_points_and_splices() -> None:
    trajectory = made(stamp=NOW - 1.5)  # the first point is past, the second due in 0.5 s
    motion = Motion(trajectory, NOW, np.full(6, 0.9), REST)
    assert values(motion, 0.0, 0.25, 0.5) == pytest.approx([0.9, 0.6, 0.3])


def test_a_new_trajectory_never_jumps() -> None:
    """Whatever its first point is, it begins where the arm was commanded."""
    motion = Motion(made(positions=[[1.5] * 6, [1.6] * 6], times=[0.0, 1.0]), NOW, np.full(6, -1.0), REST)
    assert values(motion, 0.0)[0] == pytest.approx(-1.0)
    assert values(motion, 0.01)[0] == pytest.approx(-1.0 + 0.01 * 2.6)


def test_a_single_point_due_at_once_becomes_the_target() -> None:
    motion = Motion(made(times=[0.0], positions=[[0.4] * 6], velocities=[[]]), NOW, REST, REST)
    assert motion.target.tolist() == [0.4] * 6
    assert values(motion, 0.0, 0.01) == pytest.approx([0.0, 0.4])


def test_the_slow_move_keeps_to_its_speed_and_rests_at_each_way_point() -> None:
    target = np.array([0.0, -1.0, 0.5, 0.2, 0.0, 0.0])
    trajectory = slow_move([target, np.zeros(6)], REST, 0.5, NOW)
    motion = Motion(trajectory, NOW, REST, REST)
    times = np.arange(0.0, trajectory.times[-1] - NOW, 0.01)
    path = np.array([motion.sample(NOW + time) for time in times])
    speeds = np.abs(np.diff(path, axis=0)) / 0.01
    assert speeds.max() == pytest.approx(0.5, rel=0.02)
    middle = int((trajectory.times[0] - NOW) / 0.01)
    assert speeds[middle].max() < 0.02
    assert path[middle] == pytest.approx(target, abs=1e-3)
