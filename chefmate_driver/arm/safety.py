# SPDX-License-Identifier: Apache-2.0
"""The one filter between anyone and the servo bus.

Its reference is the last command sent (or the measured pose, after `reset`), so whatever is asked for, what
leaves is within position limits, per-joint speed and acceleration, and does not drive a finger tip through
the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.model import lowest_tip_height

Vector = NDArray[np.float64]
MIN_OVERRIDE, MAX_OVERRIDE = 0.1, 1.0
# A command nearer to what was asked than this is not counted as changed; a tenth of a servo tick.
UNCHANGED = 1.5e-4  # rad
STILL = 1e-4  # rad/s


@dataclass(frozen=True)
class Limits:
    """What the filter enforces; arrays are (6,) in joint order."""

    lower: Vector  # rad
    upper: Vector  # rad
    velocity: Vector  # rad/s
    acceleration: Vector  # rad/s^2, also the deceleration of every stop
    floor: float  # m, height of the table over the base frame's z = 0

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "velocity", "acceleration"):
            if getattr(self, name).shape != (6,) or not np.isfinite(getattr(self, name)).all():
                raise ArmError(f"limits: {name} needs six finite numbers, got {getattr(self, name)}")
        if not np.isfinite(self.floor):
            raise ArmError(f"limits: the floor must be finite, got {self.floor}")
        if (
            not (self.lower < self.upper).all()
            or not (self.velocity > 0).all()
            or not (self.acceleration > 0).all()
        ):
            raise ArmError("limits: lower must be below upper, velocity and acceleration above zero")


class SafetyFilter:
    """Turns wanted positions into commands. One call of `step` per control cycle."""

    def __init__(self, limits: Limits) -> None:
        """The reference is unset until `reset`."""
        self.limits = limits
        self.interventions = 0  # commands that differ from what was asked
        self.reason = ""  # what the newest intervention was about
        self.position: Vector = np.zeros(6)  # rad, last command
        self.velocity: Vector = np.zeros(6)  # rad/s, of the commands
        self._wanted: Vector | None = None
        self._override = 1.0

    @property
    def speed_override(self) -> float:
        """Share of the speed limits in force, 0.1 to 1; acceleration limits are not scaled, so stops stay
        short."""
        return self._override

    @speed_override.setter
    def speed_override(self, share: float) -> None:
        if not MIN_OVERRIDE <= share <= MAX_OVERRIDE:
            raise ArmError(f"speed override {share} is outside {MIN_OVERRIDE}..{MAX_OVERRIDE}")
        self._override = share

    @property
    def still(self) -> bool:
        """True if the commands do not move."""
        return bool(np.abs(self.velocity).max() < STILL)

    def reset(self, position: Sequence[float] | Vector) -> None:
        """Sets the reference to a pose at rest, rad: the measured one, or the goal that the servos hold."""
        self.position = np.array(position, dtype=np.float64)
        self.velocity = np.zeros(6)
        self._wanted = None

    def brake(self, dt: float) -> Vector:
        """The next command, rad, of a stop within the acceleration limits; `dt` in seconds."""
        self._wanted = None
        return self._move(self._slower(dt), dt)

    def step(self, wanted: Vector, dt: float) -> Vector:
        """The next command, rad, on the way to `wanted` (6,), rad; `dt` seconds since the last one."""
        if not np.isfinite(wanted).all():
            return self._changed("not a finite position", self.brake(dt))
        limits = self.limits
        inside = np.clip(wanted, limits.lower, limits.upper)
        step = limits.acceleration * dt
        speed = limits.velocity * self._override
        # Seen from the target, which may move: catch up at the largest speed from which the arm still stops
        # there.
        target = np.zeros(6) if self._wanted is None else np.clip((inside - self._wanted) / dt, -speed, speed)
        self._wanted = inside
        gap = inside - self.position - target * dt
        velocity = np.clip(target + np.sign(gap) * self._reach(np.abs(gap), step, dt), -speed, speed)
        velocity = np.clip(velocity, self.velocity - step, self.velocity + step)
        velocity = np.clip(
            velocity,
            -self._reach(self.position - limits.lower, step, dt),
            self._reach(limits.upper - self.position, step, dt),
        )
        blocked = self._hits_floor(velocity, dt)
        if blocked:
            velocity = self._slower(dt)
        command = self._move(velocity, dt)
        if np.abs(command - wanted).max() > UNCHANGED:
            if blocked:
                return self._changed("table", command)
            return self._changed(
                "position limit" if (inside != wanted).any() else "speed or acceleration", command
            )
        return command

    def _reach(self, distance: Vector, step: Vector, dt: float) -> Vector:
        """Largest speeds from which the arm stops within `distance`, in steps of `dt`."""
        room = np.maximum(distance, 0.0)
        far = np.sqrt(step * step + 2.0 * self.limits.acceleration * room) - step
        # What is near enough to be reached in one step, and left with the next, is.
        return np.where(room <= step * dt, room / dt, far)

    def _slower(self, dt: float) -> Vector:
        step = self.limits.acceleration * dt
        return self.velocity - np.clip(self.velocity, -step, step)

    def _hits_floor(self, velocity: Vector, dt: float) -> bool:
        """True if even a stop that begins after this step would end below the table, and lower than now."""
        stop = self.position + velocity * dt + velocity * np.abs(velocity) / (2.0 * self.limits.acceleration)
        height = lowest_tip_height(stop.tolist())
        return height < self.limits.floor and height < lowest_tip_height(self.position.tolist()) - 1e-6

    def _move(self, velocity: Vector, dt: float) -> Vector:
        self.velocity = velocity
        self.position = self.position + velocity * dt
        return self.position

    def _changed(self, reason: str, command: Vector) -> Vector:
        self.interventions += 1
        self.reason = reason
        return command
