# SPDX-License-Identifier: Apache-2.0
"""The one filter between anyone and the servo bus.

Its reference is the last command sent (or the measured pose, after `reset`), so whatever is asked for, what
leaves is within position limits, per-joint speed and acceleration, and drives no part of the arm through the
table, nor the gripper into the arm's own base, shoulder or upper arm. docs/safety.md has the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.collision import LEVERS, heights, separations
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.following import Following, FollowingLimits
from chefmate_driver.arm.model import link_frames

Vector = NDArray[np.float64]
MIN_OVERRIDE, MAX_OVERRIDE = 0.1, 1.0
# A command nearer to what was asked than this is not counted as changed; a tenth of a servo tick.
UNCHANGED = 1.5e-4  # rad
# A corner in a target (way-points joined by lines) makes the command lag for some cycles, by v^2 / 2a at
# most. Up to here that is shaping, beyond it, or where the target is too fast for long, an intervention.
SHAPED = 0.05  # rad, about 3 degrees
STILL = 1e-4  # rad/s
# Joints need different times to stop, so the way to the end of a stop is bent. Near the table it is looked at
# in these shares of its time; to the own body this share of its length is kept free besides.
ON_THE_WAY = np.array([0.0, 0.2, 0.4, 0.6, 0.8])[:, None]
DETOUR = 0.1
ROUNDING = 1e-9  # m, differences of clearances below this are noise

BAD_NUMBER, POSITION, SPEED = "not a finite position", "position limit", "speed or acceleration"
TABLE, BODY, FOLLOWING = "table", "self-collision", "following error"
REASONS = (BAD_NUMBER, POSITION, SPEED, TABLE, BODY, FOLLOWING)


@dataclass(frozen=True)
class Limits:
    """What the filter enforces; arrays are (6,) in joint order."""

    lower: Vector  # rad
    upper: Vector  # rad
    velocity: Vector  # rad/s
    acceleration: Vector  # rad/s^2, also the deceleration of every stop
    floor: float  # m, height of the table over the base frame's z = 0
    clearance: float = 0.005  # m, smallest distance of gripper, wrist and forearm to the arm's own body
    self_collision: bool = True  # False: the arm's own body is not watched
    following: FollowingLimits = field(default_factory=FollowingLimits)

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "velocity", "acceleration"):
            if getattr(self, name).shape != (6,) or not np.isfinite(getattr(self, name)).all():
                raise ArmError(f"limits: {name} needs six finite numbers, got {getattr(self, name)}")
        if not np.isfinite(self.floor):
            raise ArmError(f"limits: the floor must be finite, got {self.floor}")
        if not 0.0 <= self.clearance < 0.1:
            raise ArmError(f"limits: the clearance must be 0..0.1 m, got {self.clearance}")
        if (
            not (self.lower < self.upper).all()
            or not (self.velocity > 0).all()
            or not (self.acceleration > 0).all()
        ):
            raise ArmError("limits: lower must be below upper, velocity and acceleration above zero")


def _share(name: str, share: float) -> float:
    if not MIN_OVERRIDE <= share <= MAX_OVERRIDE:
        raise ArmError(f"{name} {share} is outside {MIN_OVERRIDE}..{MAX_OVERRIDE}")
    return share


class SafetyFilter:
    """Turns wanted positions into commands. One call of `step` or `brake` per control cycle."""

    def __init__(self, limits: Limits) -> None:
        """The reference is unset until `reset`."""
        self.limits = limits
        self.counts: dict[str, int] = dict.fromkeys(REASONS, 0)  # interventions since start
        self.shaped = 0  # commands that lagged a corner of the target by a little: no interventions
        self.reason = ""  # what the newest intervention was about
        self.position: Vector = np.zeros(6)  # rad, last command
        self.velocity: Vector = np.zeros(6)  # rad/s, of the commands
        self._wanted: Vector | None = None
        self._override = self._slowdown = 1.0
        self._following = Following(limits.following)
        self._measured: tuple[Vector, float, float] | None = None  # last command, and `_here` of it
        self._body_at: tuple[Vector, float] | None = None  # a pose, rad, and its distance to the own body, m

    @property
    def interventions(self) -> int:
        """Commands that differ from what was asked for a reason of REASONS, since start."""
        return sum(self.counts.values())

    @property
    def speed_override(self) -> float:
        """Share of the speed limits in force, 0.1 to 1; acceleration limits are not scaled, so stops stay
        short."""
        return self._override

    @speed_override.setter
    def speed_override(self, share: float) -> None:
        self._override = _share("speed override", share)

    @property
    def slowdown(self) -> float:
        """Share of the speed limits that the protection of the servos leaves, 0.1 to 1, besides the
        override."""
        return self._slowdown

    @slowdown.setter
    def slowdown(self, share: float) -> None:
        self._slowdown = _share("slowdown", share)

    @property
    def blocked(self) -> str:
        """Which joint does not follow its command, and by how much; empty while all do."""
        return self._following.blocked

    @property
    def still(self) -> bool:
        """True if the commands do not move."""
        return bool(np.abs(self.velocity).max() < STILL)

    def reset(self, position: Sequence[float] | Vector) -> None:
        """Sets the reference to a pose at rest, rad: the measured one, or the goal that the servos hold."""
        self.position = np.array(position, dtype=np.float64)
        self.velocity = np.zeros(6)
        self._wanted = self._body_at = None
        self._following.reset()

    def observe(self, measured: Vector, dt: float) -> None:
        """A complete measurement, rad (6,), `dt` seconds after the one before; call it before `step`.

        A joint that lags far behind its command slows the arm, then sets `blocked`: from there on its command
        only moves towards where it is.
        """
        self._following.update(self.position, self.velocity, measured, dt)

    def brake(self, dt: float) -> Vector:
        """The next command, rad, of a stop within the acceleration limits; `dt` in seconds."""
        self._wanted = None
        return self._move(self._slower(dt), dt) if dt > 0.0 else self.position

    def step(self, wanted: Vector, dt: float) -> Vector:
        """The next command, rad, on the way to `wanted` (6,), rad; `dt` seconds since the last one.

        Without time (`dt` zero, negative or not a number) nothing moves.
        """
        if not dt > 0.0:
            return self.position
        if not np.isfinite(wanted).all():
            self._count(BAD_NUMBER)
            return self.brake(dt)
        limits = self.limits
        inside = np.clip(wanted, limits.lower, limits.upper)
        speed = limits.velocity * (self._override * self._slowdown * self._following.share)
        # Seen from the target, which may move: catch up at the largest speed from which the arm still stops
        # there.
        asked = np.zeros(6) if self._wanted is None else (inside - self._wanted) / dt
        target = np.minimum(np.maximum(asked, -speed), speed)
        self._wanted = inside
        velocity, hindered = self._follow(inside, target, speed, dt)
        hit = self._hit(velocity, dt)
        if hit:
            velocity = self._slower(dt)
        command = self._move(velocity, dt)
        lag = float(np.abs(command - wanted).max())
        if lag > UNCHANGED:
            if hit or hindered:
                self._count(hit or FOLLOWING)
            elif (inside != wanted).any():
                self._count(POSITION)
            elif lag > SHAPED:
                self._count(SPEED)
            else:
                self.shaped += 1
        return command

    def _follow(self, inside: Vector, target: Vector, speed: Vector, dt: float) -> tuple[Vector, bool]:
        """The velocity towards `inside` within all limits of single joints, and whether a blocked joint kept
        it from more."""
        step = self.limits.acceleration * dt
        gap = inside - self.position - target * dt
        way = np.abs(gap)
        # What is near enough to be reached in one step, and left with the next, is.
        velocity = target + np.sign(gap) * np.where(way <= step * dt, way / dt, self._reach(way, step))
        velocity = np.minimum(np.maximum(velocity, -speed), speed)
        low, high = self.velocity - step, self.velocity + step
        hindered = False
        if self.blocked:
            # Braking is the most that a blocked joint may do away from where it is.
            ahead = self._following.ahead
            calm = self._slower(dt)
            high = np.where(ahead > 0, np.maximum(calm, low), high)
            low = np.where(ahead < 0, np.minimum(calm, high), low)
            hindered = bool(((velocity > high) & (ahead > 0) | (velocity < low) & (ahead < 0)).any())
        velocity = np.minimum(np.maximum(velocity, low), high)
        return (
            np.minimum(
                np.maximum(velocity, -self._reach(self.position - self.limits.lower, step)),
                self._reach(self.limits.upper - self.position, step),
            ),
            hindered,
        )

    def _reach(self, distance: Vector, step: Vector) -> Vector:
        """Largest speeds from which the arm stops within `distance`, whatever the lengths of later cycles.

        v dt + v^2 / 2a = distance, solved for v; `step` is a dt, rad/s.
        """
        far = np.sqrt(step * step + 2.0 * self.limits.acceleration * np.maximum(distance, 0.0)) - step
        return np.asarray(far)

    def _slower(self, dt: float) -> Vector:
        step = self.limits.acceleration * dt
        return self.velocity - np.minimum(np.maximum(self.velocity, -step), step)

    def _hit(self, velocity: Vector, dt: float) -> str:
        """TABLE or BODY if a stop that begins after this step would end in it, deeper than now, or ""."""
        limits, speed = self.limits, np.abs(velocity)
        braking = speed / (2.0 * limits.acceleration)  # s of the present speed, per joint
        stop = self.position + velocity * (dt + braking)
        frames = link_frames(stop[None])
        height = float(heights(frames)[0])
        # Pan changes no height.
        if height - float((speed * (dt + braking))[1:] @ LEVERS[1:]) < limits.floor:
            height = min(height, self._lowest_on_the_way(velocity, dt))
            if height < limits.floor and height < self._here()[0] - ROUNDING:
                return TABLE
        reserve = DETOUR * float((speed * braking) @ LEVERS)
        clearance = self.limits.clearance + reserve
        if not self.limits.self_collision or self._body_is_far(stop, clearance):
            return ""
        distance = float(separations(frames).min())
        if distance < clearance and distance < self._here()[1] - ROUNDING:
            return BODY
        self._body_at = stop, distance
        return ""

    def _lowest_on_the_way(self, velocity: Vector, dt: float) -> float:
        """Lowest height, m, from the pose after this step to the end of a stop that begins there."""
        times = np.abs(velocity) / self.limits.acceleration
        times = np.minimum(ON_THE_WAY * times.max(), times)
        poses = self.position + velocity * (dt + times)
        poses -= 0.5 * np.sign(velocity) * self.limits.acceleration * times * times
        return float(heights(link_frames(poses)).min())

    def _here(self) -> tuple[float, float]:
        """Height over the base's foot and distance to the own body, m, of the last command: what is too near
        already may go on as long as it leaves."""
        if self._measured is None or self._measured[0] is not self.position:
            frames = link_frames(self.position[None])
            self._measured = self.position, float(heights(frames)[0]), float(separations(frames).min())
        return self._measured[1], self._measured[2]

    def _body_is_far(self, stop: Vector, clearance: float) -> bool:
        """True if the way from the pose that was measured last is too short to bring anything near."""
        if self._body_at is None:
            return False
        pose, distance = self._body_at
        return distance - float(np.abs(stop - pose) @ LEVERS) > clearance

    def _move(self, velocity: Vector, dt: float) -> Vector:
        self.velocity = velocity
        if velocity.any():
            self.position = self.position + velocity * dt
        return self.position

    def _count(self, reason: str) -> None:
        self.counts[reason] += 1
        self.reason = reason
