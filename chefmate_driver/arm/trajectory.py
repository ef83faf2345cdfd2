# SPDX-License-Identifier: Apache-2.0
"""Joint trajectories by the contract of joint_trajectory_controller's topic interface, without ROS.

Times are seconds on one clock of the caller's choice (the arm uses the monotonic clock). Source of the
contract: ros2_controllers' joint_trajectory_controller, "Trajectory Representation" and "... Replacement".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.errors import TrajectoryRejectedError
from chefmate_driver.arm.model import JOINT_NAMES

Vector = NDArray[np.float64]
POLICY_LEASE = "policy"  # header.frame_id of a trajectory that ends with its sender's heartbeats
SHORTEST_SEGMENT = 1e-3  # s, for an unstamped trajectory whose only point is due at once


@dataclass(frozen=True)
class Trajectory:
    """A checked trajectory, columns in joint order."""

    start: float  # s, when it takes effect
    times: Vector  # (N,) s on the clock of `start`, strictly increasing
    positions: NDArray[np.float64]  # (N, 6) rad
    velocities: NDArray[np.float64] | None  # (N, 6) rad/s
    leased: bool = False  # True: follow it only while the policy's heartbeats are fresh


class Motion:
    """A trajectory in execution: from where the arm was commanded when it took over, to its last point."""

    def __init__(self, trajectory: Trajectory, now: float, position: Vector, velocity: Vector) -> None:
        """Drops the points that are past at `now` and splices the rest to `position` (rad), `velocity`
        (rad/s)."""
        self.trajectory, self.leased = trajectory, trajectory.leased
        first = int(np.searchsorted(trajectory.times, now, side="right"))
        times, first = (
            (trajectory.times[first:], first)
            if first < len(trajectory.times)
            else (
                np.array([now + SHORTEST_SEGMENT]),
                len(trajectory.times) - 1,
            )
        )
        self._times: list[float] = [now, *times.tolist()]
        self._positions = np.vstack([position, trajectory.positions[first:]])
        self._velocities = (
            None if trajectory.velocities is None else np.vstack([velocity, trajectory.velocities[first:]])
        )
        self._segment = 0

    @property
    def end(self) -> float:
        """s, when the last point is due."""
        return self._times[-1]

    @property
    def target(self) -> Vector:
        """The last point, rad (6,)."""
        return np.asarray(self._positions[-1])

    def sample(self, now: float) -> Vector:
        """Wanted position, rad (6,). Linear without velocities, else cubic Hermite. Calls must not go back in
        time."""
        times = self._times
        if now >= times[-1]:
            return self.target
        while now >= times[self._segment + 1]:
            self._segment += 1
        k = self._segment
        length = times[k + 1] - times[k]
        s = (now - times[k]) / length
        first, last = self._positions[k], self._positions[k + 1]
        if self._velocities is None:
            return np.asarray(first + s * (last - first))
        s2, s3 = s * s, s * s * s
        return np.asarray(
            (2 * s3 - 3 * s2 + 1) * first
            + (s3 - 2 * s2 + s) * length * self._velocities[k]
            + (3 * s2 - 2 * s3) * last
            + (s3 - s2) * length * self._velocities[k + 1]
        )


def check_trajectory(
    names: Sequence[str],
    times: Sequence[float],
    positions: Sequence[Sequence[float]],
    velocities: Sequence[Sequence[float]],
    *,
    stamp: float | None,
    now: float,
    leased: bool = False,
) -> Trajectory:
    """A trajectory from a message's parts, or TrajectoryRejectedError with the reason.

    names: columns of `positions`, each of the six joints once, in any order. times: s from start, one per
    point. positions: rad. velocities: rad/s, one row per point, all empty for none. stamp: s, start; None
    means now.
    """
    if unknown := sorted(set(names) - set(JOINT_NAMES)):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise TrajectoryRejectedError(
            f"unknown joint {unknown[0][:40]!r}{more}; the arm has {', '.join(JOINT_NAMES)}"
        )
    if missing := [name for name in JOINT_NAMES if name not in names]:
        raise TrajectoryRejectedError(f"missing joints {', '.join(missing)}")
    if len(names) != len(JOINT_NAMES):
        raise TrajectoryRejectedError("a joint is named twice")
    if not times:
        raise TrajectoryRejectedError("no points")
    for index, row in enumerate(positions):
        if len(row) != len(names):
            raise TrajectoryRejectedError(f"point {index} has {len(row)} positions for {len(names)} joints")
    with_velocities = any(len(row) for row in velocities)
    if with_velocities:
        for index, row in enumerate(velocities):
            if len(row) != len(names):
                raise TrajectoryRejectedError(
                    f"point {index} has {len(row)} velocities for {len(names)} joints"
                )
    due = np.array(times, dtype=np.float64)
    order = [list(names).index(name) for name in JOINT_NAMES]
    rows = np.array(positions, dtype=np.float64)[:, order]
    rates = np.array(velocities, dtype=np.float64)[:, order] if with_velocities else None
    for what, values in (("time", due), ("position", rows), ("velocity", rates)):
        if values is not None and not np.isfinite(values).all():
            index = int(np.argwhere(~np.isfinite(values))[0][0])
            raise TrajectoryRejectedError(f"a {what} is not finite, in point {index}")
    if due[0] < 0.0:
        raise TrajectoryRejectedError(f"times do not increase: point 0 is due at {due[0]:.4f} s")
    if (backward := np.flatnonzero(np.diff(due) <= 0.0)).size:
        index = int(backward[0]) + 1
        raise TrajectoryRejectedError(
            f"times do not increase: point {index} is due at {due[index]:.4f} s, "
            f"the one before at {due[index - 1]:.4f} s"
        )
    start = now if stamp is None else stamp
    if stamp is not None and start + due[-1] <= now:
        raise TrajectoryRejectedError(f"already finished {now - start - due[-1]:.3f} s ago")
    return Trajectory(start, start + due, rows, rates, leased)


def slow_move(
    waypoints: Sequence[Sequence[float] | Vector], position: Vector, speed: float, now: float
) -> Trajectory:
    """From `position` (rad, at rest) through way-points (rad), at rest in each, no joint faster than `speed`
    rad/s."""
    times, due, last = [], 0.0, np.asarray(position)
    for waypoint in waypoints:
        # A cubic between two rests peaks at 1.5 times its mean speed.
        due += max(1.5 * float(np.abs(np.asarray(waypoint) - last).max()) / speed, 0.5)
        times.append(now + due)
        last = np.asarray(waypoint)
    rows = np.array(waypoints, dtype=np.float64)
    return Trajectory(now, np.array(times), rows, np.zeros_like(rows))
