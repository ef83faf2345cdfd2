# SPDX-License-Identifier: Apache-2.0
"""A leader arm on its servo bus, as follower angles. No ROS in here.

The leader's calibration maps its ticks to LeRobot's units, and the same units map to the follower's radians:
degrees for the body, 0..100 for the gripper, so a leader's trigger that is half pressed is a follower's
gripper that is half closed, whichever way either is mounted (drive_mode).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.model import GRIPPER, JOINT_NAMES, LOWER, UPPER
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.registers import VOLTAGE_UNIT
from chefmate_driver.teleop.errors import LeaderJumpError, LeaderSupplyError

Vector = NDArray[np.float64]
# rad between two readings. At 100 Hz a hand would have to turn the joint by 100 rad/s; an encoder that passes
# from 4095 to 0 inside the joint's travel does so, and the follower would turn all the way round.
JUMP = 1.0
JUMP_TIME = 0.2  # s; readings further apart are not compared


@dataclass(frozen=True, slots=True)
class Reading:
    """One complete reading of the leader."""

    stamp: int  # ns, wall clock, when the replies had arrived
    position: Vector  # rad (6,), follower angles in joint order


@dataclass(frozen=True, slots=True)
class LeaderPort:
    """How to reach a leader arm.

    baudrate: bit/s. reply_timeout: s. retries: repetitions of a request. max_voltage: V, highest supply of a
    leader; 0 does not check.
    """

    port: str
    baudrate: int
    reply_timeout: float
    retries: int
    max_voltage: float


class Leader:
    """A leader arm that was found, checked and made limp. One thread uses it at a time."""

    def __init__(self, place: LeaderPort, units: ArmUnits) -> None:
        """Opens the port, checks servos, homing offsets and supply, then switches torque off.

        Raises FeetechError (port missing or busy, servo missing), CalibrationError, LeaderSupplyError.
        """
        self._units, self._last = units, (-np.inf, np.zeros(len(JOINT_NAMES)))
        bus = FeetechBus(place.port, place.baudrate, reply_timeout=place.reply_timeout, retries=place.retries)
        self._bus = bus
        try:
            servos = ArmServos(bus, units)
            if place.max_voltage > 0.0:
                self._check_supply(place)
            if any(servos.torque()):
                servos.disable()
        except DriverError:
            bus.close()
            raise

    def read(self) -> Reading:
        """Where the leader is. Raises ServoMissingError, BusProtocolError, BusLostError, LeaderJumpError."""
        ticks = self._bus.sync_read("present_position", self._units.ids)
        stamp, now = time.time_ns(), time.monotonic()
        position = self._units.radians([ticks[id] for id in self._units.ids])
        position[GRIPPER] = np.clip(position[GRIPPER], LOWER[GRIPPER], UPPER[GRIPPER])  # 0..100, as LeRobot
        heard, before = self._last
        change = np.abs(position - before)
        if now - heard < JUMP_TIME and change.max() > JUMP:
            joint = int(change.argmax())
            raise LeaderJumpError(
                f"{self._bus.port}: {JOINT_NAMES[joint]} of the leader jumped by {change[joint]:.2f} rad "
                f"within {now - heard:.3f} s: its encoder passes from 4095 to 0 inside the joint's travel; "
                "keep away from there, or calibrate the leader with this joint in the middle of its travel"
            )
        self._last = now, position
        return Reading(stamp, position)

    @property
    def errors(self) -> int:
        """Replies lost or corrupt since the port was opened."""
        return sum(self._bus.errors.values())

    def close(self) -> None:
        """Frees the port; the leader stays limp."""
        self._bus.close()

    def _check_supply(self, place: LeaderPort) -> None:
        volts = self._bus.sync_read("present_voltage", self._units.ids)
        highest = max(volts.values()) * VOLTAGE_UNIT
        if highest > place.max_voltage:
            raise LeaderSupplyError(
                f"{place.port}: the servos are supplied with {highest:.1f} V, a leader's 7.4 V servos with "
                f"at most {place.max_voltage:.1f} V: is this the follower's port? If it is the leader, check "
                "its power supply, or set the parameter `max_voltage`"
            )
