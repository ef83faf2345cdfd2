# SPDX-License-Identifier: Apache-2.0
"""What moves behind the emulated servos: the interface, and a plain plant without physics."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.feetech.registers import ACCELERATION_UNIT, RADIANS_PER_STEP

# STS3215 at 12 V, from its data sheet: 30 kg cm stall torque, 0.222 s per 60 degrees without load.
STALL_TORQUE = 2.94  # N m
MAX_SPEED = math.radians(60.0) / 0.222  # rad/s
AT_REST = 1e-9  # rad a step
MAX_ACCELERATION = 254 * ACCELERATION_UNIT * RADIANS_PER_STEP  # rad/s^2, the largest that register 41 names


class ServoMeasurement(NamedTuple):
    """What one servo's sensors see."""

    position: float  # rad, the joint's URDF angle
    velocity: float  # rad/s
    torque: float  # N m, what the motor exerts, positive along the joint


class ServoDrive(NamedTuple):
    """What one servo's firmware was told to do."""

    enabled: bool  # False: the motor is off, the joint is free but for friction
    target: float  # rad
    speed: float  # rad/s, limit of the way to the target
    acceleration: float  # rad/s^2, limit of the way to the target
    torque_limit: float  # share of the stall torque, 0..1


class ServoPlant(Protocol):
    """Mechanics behind the servos of one arm.

    Both methods are called from the emulator's thread and have to return at once: never wait for a physics
    step in them.
    """

    def measure(self, index: int) -> ServoMeasurement:
        """The newest state of joint `index` (0-based, joint order)."""
        ...

    def drive(self, index: int, command: ServoDrive) -> None:
        """Takes over a new command for joint `index`: once for each joint at start, then on change."""
        ...


class ServoProfile:
    """Set-points on the way to the targets, limited in speed and acceleration as by the firmware.

    `step` is for the plant's own rate; `set` may come from another thread.
    """

    def __init__(self, positions: Sequence[float] | NDArray[np.float64]) -> None:
        """Starts at rest at `positions`, rad."""
        self.setpoint = np.array(positions, dtype=np.float64)  # rad
        self.velocity = np.zeros_like(self.setpoint)  # rad/s
        self.target = self.setpoint.copy()
        self.speed = np.full_like(self.setpoint, MAX_SPEED)
        self.acceleration = np.full_like(self.setpoint, MAX_ACCELERATION)

    def set(self, index: int, command: ServoDrive) -> None:
        """New target and limits of one joint."""
        self.target[index] = command.target
        self.speed[index] = min(command.speed, MAX_SPEED)
        self.acceleration[index] = min(command.acceleration, MAX_ACCELERATION)

    def hold(self, index: int, position: float) -> None:
        """Moves one joint's set-point to where the joint is, at rest: its torque was off."""
        self.setpoint[index] = position
        self.velocity[index] = 0.0

    def step(self, dt: float) -> NDArray[np.float64]:
        """Advances by `dt` seconds; returns the set-points, rad (the array itself: do not keep it)."""
        error = self.target - self.setpoint
        step = self.acceleration * dt
        # The largest speed from which the way that is left suffices to brake, in discrete time.
        reach = np.sqrt(step * step + 2.0 * self.acceleration * np.abs(error)) - step
        wanted = np.sign(error) * np.minimum(np.minimum(reach, np.abs(error) / dt), self.speed)
        self.velocity += np.clip(wanted - self.velocity, -step, step)
        self.setpoint += self.velocity * dt
        return self.setpoint


class SimplePlant:
    """Joints without mass: first-order lag behind the set-point, no motion while torque is off.

    Time advances when somebody looks, so it needs no thread.
    """

    def __init__(
        self,
        positions: Sequence[float],
        *,
        lag: float = 0.015,
        step: float = 0.002,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts at rest at `positions` (rad); `lag` and `step` in seconds."""
        self._profile = ServoProfile(positions)
        self.positions = np.array(positions, dtype=np.float64)
        self.velocities = np.zeros_like(self.positions)
        self.enabled = np.zeros(len(self.positions), dtype=bool)
        self._limits = np.ones_like(self.positions)
        self._lag, self._step, self._clock = lag, step, clock
        self._time = clock()
        self._lock = threading.Lock()

    def measure(self, index: int) -> ServoMeasurement:
        """State of one joint; its torque grows with the distance to the set-point."""
        with self._lock:
            self._advance()
            position = float(self.positions[index])
            torque = 0.0
            if self.enabled[index]:
                stretch = float(self._profile.setpoint[index]) - position
                limit = STALL_TORQUE * float(self._limits[index])
                torque = max(-limit, min(limit, 10.0 * stretch))
            return ServoMeasurement(position, float(self.velocities[index]), torque)

    def drive(self, index: int, command: ServoDrive) -> None:
        """New command of one joint."""
        with self._lock:
            self._advance()
            if command.enabled and not self.enabled[index]:
                self._profile.hold(index, float(self.positions[index]))
            self.enabled[index] = command.enabled
            self._limits[index] = command.torque_limit
            self._profile.set(index, command)

    def _advance(self) -> None:
        # After a long pause nothing moves any more: more than a second of steps would only cost time.
        now = self._clock()
        steps = min(int((now - self._time) / self._step), int(1.0 / self._step))
        if steps <= 0:
            return
        self._time = now
        if not self.enabled.any():
            self.velocities = np.zeros_like(self.positions)
            return
        share = 1.0 - math.exp(-self._step / self._lag)
        for _ in range(steps):
            setpoint = self._profile.step(self._step)
            move = np.where(self.enabled, (setpoint - self.positions) * share, 0.0)
            self.positions += move
            self.velocities = move / self._step
            # At rest: the steps that are left change nothing, and a servo that computes them answers late.
            if not self._profile.velocity.any() and np.abs(move).max() < AT_REST:
                break
