# SPDX-License-Identifier: Apache-2.0
"""What keeps the servos from harm: load, current, temperature and supply, and the force of the gripper.

Each quantity of each servo has three thresholds: from the first on the arm slows, at the second it brakes and
holds, at the third it is let go in order (park if it can, then torque off). The thresholds lie before the
servo's own protection, which switches one motor off without telling the others. docs/safety.md has the table.

Sources: Feetech STS3215 memory table (registers 13, 14, 15, 28, 34, 35, 36 and their factory values: 70
degree Celsius, 14 V, 4 V, 3.3 A, torque cut to 20 % after 2 s above 80 % load); data sheet at 12 V (stall at
2.94 N m and 2.7 A).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.grip import GripForce, GripSettings
from chefmate_driver.arm.model import GRIPPER, JOINT_NAMES
from chefmate_driver.feetech.packet import StatusBit, status_text

Vector = NDArray[np.float64]
# Readings of which the middle one counts: turned bits of a reply slip through its checksum once in 256 times.
WITNESSES = 3
LONGEST_STEP = 0.5  # s; a longer gap between two updates counts as this much
# s of overload forgotten in a second without: who pushes again and again is stopped for most of the time.
RELIEF = 0.25
STATUS_TIME = 1.0  # s that a reported status bit is acted on after it was seen last
# Reactions to the bits of the servo's status byte: these need the arm to stand still until somebody looks.
HOLD_BITS = StatusBit.VOLTAGE | StatusBit.SENSOR | StatusBit.CURRENT | StatusBit.OVERLOAD


class Stage(IntEnum):
    """How far the protection has gone; a higher one includes the lower."""

    NORMAL = 0
    SLOW = 1  # speeds are scaled by Verdict.speed
    HOLD = 2  # brake and hold, joints that push go to their measured position; trajectories are refused
    RELEASE = 3  # park if possible, then torque off; latched until `Protection.reset`


@dataclass(frozen=True)
class Vitals:
    """What six servos report, in joint order, each (6,)."""

    load: Vector  # share of full PWM duty, -1..1
    current: Vector  # A, sign of the direction
    temperature: Vector  # degree Celsius
    voltage: Vector  # V
    status: NDArray[np.int64]  # bits as feetech.packet.StatusBit

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if np.shape(values) != (6,) or not np.isfinite(values).all():
                raise ArmError(f"vitals: {field.name} needs six finite numbers, got {values}")


@dataclass(frozen=True)
class Verdict:
    """What the arm has to do now."""

    stage: Stage
    speed: float  # share of the speed limits, 0.1..1; multiply the owner's speed override by it
    joints: tuple[str, ...]  # names of the servos that are the cause; empty in NORMAL
    reason: str  # what, where, the value, the mend; empty in NORMAL
    gripper_torque: float  # share of the stall torque, for the gripper's torque_limit (register 48)


@dataclass(frozen=True)
class Thresholds:
    """When one quantity slows the arm, stops it, and lets it go; math.inf: never."""

    slow: float
    hold: float
    release: float
    hysteresis: float  # a stage ends when the value is this far below its threshold

    def __post_init__(self) -> None:
        rising = self.slow < self.hold <= self.release
        if math.isnan(self.slow) or not rising or not 0.0 < self.hysteresis < math.inf:
            raise ArmError(
                "protection: thresholds must rise from slow to hold to release and the hysteresis must be "
                f"above zero, got {self}"
            )


@dataclass(frozen=True)
class ProtectionLimits:
    """Thresholds and time constants of the protection. Defaults: docs/safety.md, with the reasons."""

    # degree Celsius; the servo switches itself off at 70 (register 13)
    temperature: Thresholds = Thresholds(55.0, 60.0, 65.0, 3.0)
    # A, averaged over current_time: at 1.0 A an STS3215 settles some 10 K above ambient, at 2.7 A it cooks.
    current: Thresholds = Thresholds(1.5, 2.0, 2.4, 0.2)
    current_time: float = 2.0  # s, time constant of the average
    # s for which the load was above `overload`; the servo cuts its torque after 2 s above 80 % (34, 35, 36)
    overload_time: Thresholds = Thresholds(0.5, 1.0, 8.0, 0.4)
    overload: float = 0.7  # share of full PWM duty
    supply: float = 12.0  # V, nominal; 7.4 for the low-voltage STS3215
    # share of the nominal supply that is missing; servos hold better than they fall, so it never releases
    sag: Thresholds = Thresholds(0.12, 0.22, math.inf, 0.03)
    # share above the nominal supply; 14.0 V is the servo's own limit at 12 V (register 14)
    excess: Thresholds = Thresholds(0.08, 0.14, math.inf, 0.03)
    smoothing: float = 0.3  # s, time constant for temperature and supply: trembling readings do nothing
    slowest: float = 0.3  # share of speed at the hold threshold; in between linear from 1

    def __post_init__(self) -> None:
        for name in ("current_time", "supply", "smoothing"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ArmError(f"protection: {name} must be above zero, got {getattr(self, name)}")
        if not 0.1 <= self.slowest <= 1.0 or not 0.0 < self.overload <= 1.0:
            raise ArmError(
                f"protection: slowest must be 0.1..1 and overload above 0 and at most 1, got {self.slowest} "
                f"and {self.overload}"
            )


# The quantities that are watched, in the order of their rows.
TEMPERATURE, CURRENT, OVERLOAD, SAG, EXCESS = range(5)


_DOES = {Stage.SLOW: "slowed", Stage.HOLD: "holding", Stage.RELEASE: "letting go"}


class _Watch:
    """All quantities of six servos against their thresholds, with hysteresis: rows (5, 6)."""

    def __init__(self, thresholds: tuple[Thresholds, ...]) -> None:
        levels = np.array([[row.slow, row.hold, row.release] for row in thresholds])  # (5, 3)
        self.level = levels
        self.end = levels - np.array([[row.hysteresis] for row in thresholds])
        self._rise, self._fall = levels.T[:, :, None], self.end.T[:, :, None]
        self.value: Vector = np.zeros((len(thresholds), 6))
        self.stage: NDArray[np.int64] = np.zeros((len(thresholds), 6), dtype=np.int64)

    def look(self) -> None:
        """Brings the stages up to date with the values."""
        reached = (self.value >= self._rise).sum(axis=0)
        kept = np.minimum(self.stage, (self.value >= self._fall).sum(axis=0))
        self.stage = np.maximum(reached, kept)

    def speed(self, slowest: float) -> float:
        """Share of speed: 1 at the slow thresholds, `slowest` at the hold thresholds, linear in between."""
        low, high = self.level[:, 0], self.level[:, 1]
        share = float(((self.value.max(axis=1) - low) / (high - low)).max())
        return 1.0 - (1.0 - slowest) * min(max(share, 0.0), 1.0)


class Protection:
    """Watches the servos. One call of `update` for each complete feedback, or slower (at least 5 Hz)."""

    def __init__(self, limits: ProtectionLimits | None = None, grip: GripSettings | None = None) -> None:
        """limits, grip: None takes the defaults."""
        self.limits = limits or ProtectionLimits()
        self.grip = GripForce(grip)
        self.counts: dict[str, int] = {stage.name: 0 for stage in Stage}  # entries into each since start
        self.reset()

    def reset(self) -> None:
        """Starts anew, also after a latched RELEASE: call it when torque is switched on by hand.

        What is still too hot or too low holds again after WITNESSES updates.
        """
        limits = self.limits
        # (4, 6) each: temperature, current, supply, load
        self._readings: deque[Vector] = deque(maxlen=WITNESSES)
        self._fresh = True  # nothing has been smoothed yet
        self._last = math.nan  # s, the newest update
        self._stage = Stage.NORMAL
        self._released = ""  # reason of a latched release
        self._released_joints: tuple[str, ...] = ()
        self._watch = _Watch(
            (limits.temperature, limits.current, limits.overload_time, limits.sag, limits.excess)
        )
        self._voltage: Vector = np.full(6, limits.supply)
        self._reported = np.zeros(6, dtype=np.int64)  # status bits seen last
        self._reported_for: Vector = np.zeros(6)  # s for which they still count
        self.grip.restore()

    @property
    def torque_limits(self) -> Vector:
        """Register 48 of each servo as a share of the stall torque, (6,).

        Write all six when torque goes on, and after servos were found again: at power-up a servo takes
        register 16. Later only the gripper's changes.
        """
        limits = np.ones(6)
        limits[GRIPPER] = self.grip.limit
        return limits

    def update(self, vitals: Vitals, now: float) -> Verdict:
        """What is to be done about `vitals`, read at `now` (s, monotonic). Of the first WITNESSES - 1 only
        the status bits count."""
        dt = 0.0 if math.isnan(self._last) else min(max(now - self._last, 0.0), LONGEST_STEP)
        self._last = now
        self._readings.append(
            np.array([vitals.temperature, np.abs(vitals.current), vitals.voltage, np.abs(vitals.load)])
        )
        if len(self._readings) == WITNESSES:
            self._filter(vitals, dt)
        return self._verdict(vitals, dt)

    def _filter(self, vitals: Vitals, dt: float) -> None:
        limits, value = self.limits, self._watch.value
        temperature, current, voltage, load = np.sort(np.array(self._readings), axis=0)[WITNESSES // 2]
        share = 1.0 if self._fresh else 1.0 - math.exp(-dt / limits.smoothing)
        self._fresh = False
        value[TEMPERATURE] += share * (temperature - value[TEMPERATURE])
        value[CURRENT] += (1.0 - math.exp(-dt / limits.current_time)) * (current - value[CURRENT])
        over = np.where(np.abs(vitals.load) > limits.overload, dt, -RELIEF * dt)
        value[OVERLOAD] = np.minimum(np.maximum(value[OVERLOAD] + over, 0.0), limits.overload_time.release)
        self._voltage += share * (voltage - self._voltage)
        value[SAG] = 1.0 - self._voltage / limits.supply
        value[EXCESS] = -value[SAG]
        self._watch.look()
        self.grip.update(
            float(current[GRIPPER]), float(load[GRIPPER]), float(value[TEMPERATURE, GRIPPER]), dt
        )

    def _verdict(self, vitals: Vitals, dt: float) -> Verdict:
        stages = self._watch.stage
        worst = int(stages.max())
        bits = vitals.status & int(HOLD_BITS)
        self._reported_for = np.where(bits != 0, STATUS_TIME, np.maximum(self._reported_for - dt, 0.0))
        self._reported = np.where(bits != 0, bits, self._reported)
        latched = self._reported_for > 0.0
        cooked = (vitals.status & int(StatusBit.TEMPERATURE)) != 0
        if self._released:
            stage, reason, joints = Stage.RELEASE, self._released, self._released_joints
        elif cooked.any():
            stage, joints = Stage.RELEASE, _names(cooked)
            reason = (
                f"{', '.join(joints)}: the servo reports over-temperature; let it cool, then call arm/torque"
            )
        elif worst >= Stage.HOLD or not latched.any():
            index = int(stages.max(axis=1).argmax())
            stage, joints = Stage(worst), _names(stages[index] == worst) if worst else ()
            reason = self._explain(index, stage, int(stages[index].argmax())) if worst else ""
        else:
            stage, joints = Stage.HOLD, _names(latched)
            text = status_text(int(np.bitwise_or.reduce(self._reported[latched])))
            reason = f"{', '.join(joints)}: the servo reports {text}; see docs/safety.md"
        if stage is not self._stage:
            self.counts[stage.name] += 1
            self._stage = stage
        if stage is Stage.RELEASE and not self._released:
            self._released, self._released_joints = reason, joints
        slowest = self.limits.slowest
        speed = slowest if stage >= Stage.HOLD else self._watch.speed(slowest)
        return Verdict(stage, speed, joints, reason, self.grip.limit)

    def _explain(self, quantity: int, stage: Stage, joint: int) -> str:
        limits, name = self.limits, JOINT_NAMES[joint]
        value, end = self._watch.value[quantity, joint], self._watch.end[quantity, stage - 1]
        supply = f"{name} has {self._voltage[joint]:.1f} V of {limits.supply:g} V"
        text = {
            TEMPERATURE: f"{name} is at {value:.0f} degrees Celsius: let it cool below {end:g}",
            CURRENT: f"{name} draws {value:.1f} A on average: lighten its load, below {end:g} A",
            OVERLOAD: f"{name} was above {limits.overload:.0%} load for {value:.1f} s: free what blocks it "
            "or lighten its load",
            SAG: f"{supply}: check the adapter's power and the cables",
            EXCESS: f"{supply}: check that the adapter fits the servos",
        }[quantity]
        more = "; then call arm/torque" if stage is Stage.RELEASE else ""
        return f"{text}{more} ({_DOES[stage]})"


def _names(mask: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, hit in zip(JOINT_NAMES, mask, strict=True) if hit)
