# SPDX-License-Identifier: Apache-2.0
"""What a leader arm (or a jog) asks for, without ROS: its newest pose, how old that is, and the way to it.

Engagement is a ramp: the reference goes from where the arm is commanded to the leader's pose at a slow speed,
and only once both agree does it follow the leader itself. Times are s on one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.errors import TrajectoryRejectedError
from chefmate_driver.arm.model import JOINT_NAMES

Vector = NDArray[np.float64]
WITHIN = 0.05  # rad, of every joint, at which the ramp ends
# rad between two commands. A hand moves a joint at some 5 rad/s, 0.1 rad in the 20 ms between two commands at
# 50 Hz; what jumps further is another pose, after a hand let go of a leader or a cable came loose.
JUMP = 0.35
LONGEST_SPAN = 0.05  # s, over which one command leads to the next


class Leader:
    """Newest command of the leader. `begin` starts an engagement, `reference` is called once per cycle."""

    def __init__(self, age_limit: float, speed: float) -> None:
        """age_limit: s, beyond which a command is stale. speed: rad/s of the ramp, of the fastest joint."""
        self.age_limit, self.speed = age_limit, speed
        self.tracking = False  # True: the ramp is over
        self._at = self._taken = -np.inf
        self._span = 0.0
        self._pose: Vector = np.zeros(6)
        self._before: Vector = np.zeros(6)
        self._gap: Vector = np.zeros(6)

    def age(self, now: float) -> float:
        """s since the newest command was made; inf if there was none."""
        return now - self._at

    def stale(self, now: float) -> bool:
        """True if the newest command is too old to move anything."""
        return self.age(now) > self.age_limit

    def heard(self, pose: Vector, at: float, now: float) -> None:
        """A command arrived at `now`: the pose (6,), rad, that the leader had at `at`. Older ones than the
        newest are forgotten."""
        if at <= self._at:
            return
        if np.abs(pose - self._pose).max() > JUMP:
            self.tracking = False
        # The reference goes on to it in the time that the next one will take to come: one command late, and
        # without steps.
        self._span = min(at - self._at, LONGEST_SPAN)
        self._at, self._taken = at, now
        self._before, self._pose = self._pose, pose

    def begin(self, position: Vector) -> None:
        """An engagement begins at the commanded pose `position`, rad (6,)."""
        self.tracking = False
        self._gap = self._pose - position

    def reference(self, now: float, dt: float, command: Vector, speed_share: float) -> Vector:
        """The wanted pose at `now`, rad (6,). dt: s since the last call; command: the last command sent, rad;
        speed_share: of `speed`, in force."""
        self._gap = self._pose - command
        if self.tracking:
            share = min((now - self._taken) / self._span, 1.0) if self._span > 0.0 else 1.0
            return np.asarray(self._before + max(share, 0.0) * (self._pose - self._before))
        self.tracking = bool(np.abs(self._gap).max() < WITHIN)
        step = self.speed * speed_share * dt
        return np.asarray(command + np.clip(self._gap, -step, step))

    @property
    def waits_for(self) -> str:
        """Which joint the ramp waits for; empty once it is over."""
        if self.tracking:
            return ""
        joint = int(np.abs(self._gap).argmax())
        return f"engaging: {JOINT_NAMES[joint]} is {abs(self._gap[joint]):.2f} rad from the leader"


def leader_pose(names: Sequence[str], positions: Sequence[float]) -> Vector:
    """The pose of a command in joint order, rad (6,). TrajectoryRejectedError names what is wrong with it."""
    if sorted(names) != sorted(JOINT_NAMES) or len(positions) != len(names):
        raise TrajectoryRejectedError(
            f"teleop/joint_command needs one position for each of {', '.join(JOINT_NAMES)}; "
            f"it has {len(positions)} for {', '.join(names)[:120] or 'no joint'}"
        )
    by_name = dict(zip(names, positions, strict=True))
    pose = np.array([by_name[name] for name in JOINT_NAMES], dtype=np.float64)
    if not np.isfinite(pose).all():
        joint = JOINT_NAMES[int(np.argmin(np.isfinite(pose)))]
        raise TrajectoryRejectedError(f"teleop/joint_command: {joint} is {by_name[joint]}")
    return pose
