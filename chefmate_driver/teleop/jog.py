# SPDX-License-Identifier: Apache-2.0
"""Where a keyboard sends the arm. No ROS and no terminal in here.

A terminal reports a key when it goes down and, while it stays down, again and again after a delay; it never
reports its release. So each report moves a joint for HOLD seconds: a tap is a small step, a held key a motion
that ends at most HOLD after its release.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.model import JOINT_NAMES, LOWER, UPPER

Vector = NDArray[np.float64]
# s; longer than the time between two repeats of a held key (33 to 40 ms, and what a network adds to it).
HOLD = 0.15
# rad/s of the arm's joints; the gripper goes faster, it travels 1.9 rad from closed to open.
SPEEDS = (0.05, 0.1, 0.2, 0.4, 0.8)
GRIPPER_FACTOR = 2.0
# rad that the target may be ahead of the measured joint: what the filter or an obstacle holds back does not
# pile up.
LEAD = 0.2
# rad ahead of the measured joint beyond which a key that turns back begins at the joint itself.
BLOCKED = 0.1


@dataclass(frozen=True, slots=True)
class JogKey:
    """A key that moves a joint. effect: where the finger tips go, seen from behind the base."""

    key: str
    joint: int
    direction: int
    effect: str


KEYS: tuple[JogKey, ...] = (
    JogKey("1", 0, +1, "right"),
    JogKey("q", 0, -1, "left"),
    JogKey("2", 1, +1, "forward, down"),
    JogKey("w", 1, -1, "back, up"),
    JogKey("3", 2, +1, "down"),
    JogKey("e", 2, -1, "up"),
    JogKey("4", 3, +1, "down"),
    JogKey("r", 3, -1, "up"),
    JogKey("5", 4, +1, "roll +"),
    JogKey("t", 4, -1, "roll -"),
    JogKey("o", 5, +1, "open"),
    JogKey("c", 5, -1, "close"),
)
BY_KEY = {entry.key: entry for entry in KEYS}


class JogTarget:
    """The pose that the keys ask for. Times are s on one monotonic clock."""

    def __init__(self, level: int = 2) -> None:
        """level: index into SPEEDS."""
        self.level = level
        self.position: Vector = np.zeros(len(JOINT_NAMES))  # rad
        self._direction = np.zeros(len(JOINT_NAMES))
        self._until = np.full(len(JOINT_NAMES), -np.inf)

    @property
    def speed(self) -> float:
        """rad/s of the joints before the gripper."""
        return SPEEDS[self.level]

    def change_speed(self, steps: int) -> None:
        """Goes up or down in SPEEDS, as far as they go."""
        self.level = min(max(self.level + steps, 0), len(SPEEDS) - 1)

    def rest_at(self, measured: Vector) -> None:
        """The arm does not listen: the target is where it is, rad (6,)."""
        self.halt()
        self.position = measured.copy()

    def halt(self) -> None:
        """Nothing is pressed any more."""
        self._until[:] = -np.inf

    def press(self, key: JogKey, now: float, measured: Vector) -> None:
        """A key was reported. measured: rad (6,)."""
        joint = key.joint
        ahead = self.position[joint] - measured[joint]
        if abs(ahead) > BLOCKED and np.sign(ahead) != key.direction:
            self.position[joint] = measured[joint]
        self._direction[joint], self._until[joint] = key.direction, now + HOLD

    def step(self, now: float, dt: float, measured: Vector) -> Vector:
        """The target `dt` s later, rad (6,), within the URDF's limits and LEAD of the measured pose.

        A joint that no key moves keeps its target: what sags under its weight is not let down further.
        """
        pressed = now < self._until
        speed = np.full(len(JOINT_NAMES), self.speed)
        speed[-1] *= GRIPPER_FACTOR
        wanted = self.position + self._direction * speed * dt
        near = np.clip(wanted, measured - LEAD, measured + LEAD)
        # Never backwards: a joint that is further ahead than LEAD already stays where it is.
        near = np.where(self._direction * (near - self.position) > 0.0, near, self.position)
        self.position = np.where(pressed, np.clip(near, LOWER, UPPER), self.position)
        return self.position
