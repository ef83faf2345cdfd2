# SPDX-License-Identifier: Apache-2.0
"""Builds what the node runs from its parameters, and trajectories from their message."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.following import FollowingLimits
from chefmate_driver.arm.grip import GripSettings
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.protection import Protection, ProtectionLimits, Thresholds
from chefmate_driver.arm.safety import MAX_OVERRIDE, MIN_OVERRIDE, Limits, SafetyFilter
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.trajectory import POLICY_LEASE, Trajectory, check_trajectory
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.bus import FeetechBus

Value = Callable[[str], Any]  # value of a parameter by name
# Hysteresis of the protection's thresholds: K, A, s.
COOLING, RELIEF, RECOVERY = 3.0, 0.2, 0.4
STAGES = ("slows", "holds", "releases")


@dataclass(frozen=True)
class ListRule:
    """What the numbers of a parameter that is a list may be."""

    name: str
    labels: tuple[str, ...]  # of its numbers
    low: float
    high: float
    unit: str
    why: str  # what the ends come from


# Speed: the STS3215 turns at 4.7 rad/s without load (data sheet: 60 degrees in 0.222 s), lighter gears a
# little faster. Acceleration: the largest that register 41 names, 254 times 100 ticks/s^2, is 39 rad/s^2.
# Temperature: register 13. Current: the stall current of the data sheet.
LIST_RULES = (
    ListRule("velocity_limits", JOINT_NAMES, 0.05, 5.0, "rad/s", "a servo does 4.7 without load"),
    ListRule("acceleration_limits", JOINT_NAMES, 0.5, 40.0, "rad/s^2", "a servo's own largest is 39"),
    ListRule("home_pose", JOINT_NAMES[:5], -math.pi, math.pi, "rad", "one turn"),
    ListRule("park_pose", JOINT_NAMES[:5], -math.pi, math.pi, "rad", "one turn"),
    ListRule("following_limits", ("slows", "stops"), 0.01, 1.0, "rad", "a joint further behind is blocked"),
    ListRule("temperature_limits", STAGES, 20.0, 70.0, "degrees Celsius", "a servo itself stops at 70"),
    ListRule("current_limits", STAGES, 0.05, 2.7, "A", "a servo draws 2.7 when it stalls"),
    ListRule("overload_times", STAGES, 0.05, 30.0, "s", "a servo's own is 2"),
)


def open_servos(value: Value, units: ArmUnits, port: str = "") -> ArmServos:
    """Opens the bus that the parameters name, or the same one by the name that stays when it is unplugged,
    and checks its servos. Raises FeetechError, ArmError."""
    bus = FeetechBus(
        port or value("port"),
        value("baudrate"),
        reply_timeout=value("reply_timeout"),
        retries=value("retries"),
    )
    try:
        return ArmServos(bus, units)
    except DriverError:
        bus.close()
        raise


def check_lists(value: Value) -> None:
    """ArmError names a parameter with too many or too few numbers, or one out of its range."""
    for rule in LIST_RULES:
        numbers = value(rule.name)
        if len(numbers) != len(rule.labels):
            raise ArmError(
                f"the parameter `{rule.name}` has {len(numbers)} numbers and needs one for each of "
                f"{', '.join(rule.labels)}"
            )
        for label, number in zip(rule.labels, numbers, strict=True):
            if not rule.low <= number <= rule.high:  # not a number is not, either
                raise ArmError(
                    f"the parameter `{rule.name}` is {number:g} for {label}; it must be {rule.low:.4g} to "
                    f"{rule.high:.4g} {rule.unit} ({rule.why})"
                )


def safety_filter(value: Value, units: ArmUnits) -> SafetyFilter:
    """The filter with the parameters' limits; positions by URDF and calibration. ArmError names a wrong
    parameter."""
    check_lists(value)
    lower, upper = units.limits()
    velocity, acceleration = np.array(value("velocity_limits")), np.array(value("acceleration_limits"))
    slow, hold = value("following_limits")
    limits = Limits(
        lower,
        upper,
        velocity,
        acceleration,
        value("workspace_floor"),
        clearance=value("self_clearance"),
        self_collision=value("self_collision"),
        following=FollowingLimits(slow=slow, hold=hold, lag=value("following_lag")),
    )
    safety = SafetyFilter(limits)
    safety.speed_override = override_in_range(value("speed_override"))
    return safety


def protection(value: Value) -> Protection:
    """The protection with the parameters' thresholds. ArmError names a wrong parameter."""
    check_lists(value)
    limits = ProtectionLimits(
        temperature=_thresholds(value, "temperature_limits", COOLING),
        current=_thresholds(value, "current_limits", RELIEF),
        current_time=value("current_time"),
        overload_time=_thresholds(value, "overload_times", RECOVERY),
        overload=value("overload"),
        supply=value("supply_voltage"),
        slowest=value("protection_speed"),
    )
    grip = GripSettings(
        torque=value("grip_torque"),
        hold_torque=value("grip_hold_torque"),
        hold_current=value("grip_hold_current"),
        least=value("grip_least_torque"),
        patience=value("grip_patience"),
    )
    return Protection(limits, grip)


def _thresholds(value: Value, name: str, hysteresis: float) -> Thresholds:
    slow, hold, release = value(name)
    return Thresholds(slow, hold, release, hysteresis)


def override_in_range(share: float) -> float:
    """A finite `speed_override`, clamped: the parameter server lets pass what is a little out of range."""
    return min(max(share, MIN_OVERRIDE), MAX_OVERRIDE)


def trajectory_from_message(message: JointTrajectory, now: float, wall: int) -> Trajectory:
    """A checked trajectory on the monotonic clock, or TrajectoryRejectedError.

    now: s, monotonic; wall: ns, the same moment in ROS time. frame_id "policy" makes it leased.
    """
    stamp = message.header.stamp
    due = stamp.sec * 1_000_000_000 + stamp.nanosec
    return check_trajectory(
        message.joint_names,
        [point.time_from_start.sec + point.time_from_start.nanosec * 1e-9 for point in message.points],
        [point.positions for point in message.points],
        [point.velocities for point in message.points],
        stamp=now + (due - wall) * 1e-9 if due else None,
        now=now,
        leased=message.header.frame_id == POLICY_LEASE,
    )
