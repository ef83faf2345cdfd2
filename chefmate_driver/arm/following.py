# SPDX-License-Identifier: Apache-2.0
"""Following error: how far each joint is behind its command, and what that means for the arm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.model import GRIPPER, JOINT_NAMES

Vector = NDArray[np.float64]
SLOWEST = 0.1  # share of the speed limits next to the hold threshold


@dataclass(frozen=True)
class FollowingLimits:
    """When a joint counts as not following. A moving joint may besides be `lag` times its speed behind.

    In the twin the largest error of the expert's motions is 0.03 rad; a real servo with LeRobot's P gain of
    16 sags by up to some 0.05 rad. Errors of the gripper are how it holds things: it is not watched.
    """

    slow: float = 0.12  # rad, from here on the arm slows
    hold: float = 0.25  # rad, from here on the joint is blocked
    lag: float = 0.1  # s
    time: float = 0.05  # s for which the error has to stand; one odd reading does nothing

    def __post_init__(self) -> None:
        if not (0.0 < self.slow < self.hold and 0.0 <= self.lag < 1.0 and 0.0 <= self.time < 5.0):
            raise ArmError(f"following: needs 0 < slow < hold, lag below 1 s and time below 5 s, got {self}")


class Following:
    """Compares commands with measurements. `share` and `blocked` say what to do."""

    def __init__(self, limits: FollowingLimits) -> None:
        self.limits = limits
        self.reset()

    def reset(self) -> None:
        """Forgets what was seen: the reference is a new one."""
        self.share = 1.0  # of the speed limits
        self.blocked = ""  # which joint does not follow and by how much; empty while all do
        self.ahead: Vector = np.zeros(6)  # -1, 0, 1 per joint: where the command of a blocked joint stands
        self._speed: Vector = np.zeros(6)  # rad/s, of the command, decaying
        self._since = 0.0  # s for which a joint was beyond `hold`

    def update(self, command: Vector, velocity: Vector, measured: Vector, dt: float) -> None:
        """command and measured: rad (6,); velocity: of the command, rad/s; dt: s since the last call."""
        limits = self.limits
        self._speed = np.maximum(np.abs(velocity), self._speed * math.exp(-dt / max(2 * limits.lag, 1e-3)))
        error = command - measured
        error[GRIPPER] = 0.0
        excess = np.abs(error) - limits.lag * self._speed
        worst = float(excess.max())
        self.share = 1.0 - (1.0 - SLOWEST) * min(
            max((worst - limits.slow) / (limits.hold - limits.slow), 0.0), 1.0
        )
        beyond = excess > limits.hold
        self._since = self._since + dt if beyond.any() else 0.0
        if self.blocked:
            self.ahead = np.where(excess > limits.slow, np.sign(error), 0.0)
            if not self.ahead.any():
                self.blocked = ""
        elif self._since > limits.time:
            self.ahead = np.where(beyond, np.sign(error), 0.0)
            joint = int(excess.argmax())
            self.blocked = (
                f"{JOINT_NAMES[joint]} does not follow: {abs(error[joint]):.2f} rad behind its command; free "
                "what blocks it, or lighten its load"
            )
