# SPDX-License-Identifier: Apache-2.0
"""Is this arm fit for its first motion? Looks at servos, settings, calibration, pose; drives nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.calibration import Calibration, compare_calibration
from chefmate_driver.arm.model import JOINT_NAMES, LOWER, UPPER, lowest_tip_height
from chefmate_driver.arm.settings import ArmKind, Severity, compare_settings
from chefmate_driver.arm.setup.plausible import calibration_problems
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.packet import status_text
from chefmate_driver.feetech.registers import (
    FEEDBACK_ADDRESS,
    FEEDBACK_SIZE,
    VOLTAGE_UNIT,
    Feedback,
    decode_feedback,
)

Vector = NDArray[np.float64]
POSE_MARGIN = math.radians(5.0)  # rad past a limit; backlash and a stop's give are below it
TABLE_MARGIN = 0.02  # m that a finger tip may be below the foot of the base: the table bends, the arm sags
WARM = 55.0  # degree Celsius; from there on the arm's protection slows it
# V, by class. The 12 V one: a 12 V supply less its sag, up to three full lithium cells.
SUPPLY = {False: (9.0, 13.0), True: (4.5, 8.4)}
TOLD_ANGLE = math.radians(10.0)  # rad that a joint has to be turned by hand
OTHER_ANGLE = math.radians(20.0)  # rad of another joint from which on it is the one that was moved
ROOM = math.radians(25.0)  # rad to a limit, without which the other direction is asked for


class Outcome(Enum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


_OUTCOMES = {Severity.ERROR: Outcome.ERROR, Severity.WARNING: Outcome.WARNING, Severity.NOTE: Outcome.NOTE}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    outcome: Outcome
    text: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "outcome": self.outcome.value}


def inspect(bus: FeetechBus, calibration: Calibration, kind: ArmKind) -> list[Finding]:
    """Everything that can be said without moving anything, worst things of each check.

    Raises ServoMissingError, BusProtocolError, BusLostError.
    """
    ids = [joint.id for joint in calibration.values()]
    for id in ids:
        bus.ping(id)
    differences = compare_settings(bus, ids, kind)
    held = compare_calibration(bus, calibration)
    odd = calibration_problems(calibration, leader=kind is ArmKind.LEADER)
    return [
        *_report(
            "settings",
            [(_OUTCOMES[difference.severity], str(difference)) for difference in differences],
            "EEPROM settings of all servos are as they should be",
        ),
        *_report(
            "calibration",
            [(Outcome.ERROR, f"{difference}; chefmate arm calibrate") for difference in held],
            "the servos hold the offsets and limits of the file",
        ),
        *_report(
            "ranges",
            [(Outcome.WARNING if problem.acceptable else Outcome.ERROR, str(problem)) for problem in odd],
            "the calibrated ranges are those of an SO-ARM 101",
        ),
        *_report("health", *_health(bus, ids, kind)),
        *_report("pose", *_pose(bus, ArmUnits(calibration))),
    ]


def _report(check: str, found: Sequence[tuple[Outcome, str]], fine: str) -> list[Finding]:
    return [Finding(check, outcome, text) for outcome, text in found] or [Finding(check, Outcome.OK, fine)]


def _feedback(bus: FeetechBus, ids: Sequence[int]) -> dict[int, Feedback]:
    blocks = bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, ids, patient=True)
    return {id: decode_feedback(block) for id, block in blocks.items()}


def _health(bus: FeetechBus, ids: Sequence[int], kind: ArmKind) -> tuple[list[tuple[Outcome, str]], str]:
    feedback = _feedback(bus, ids)
    least, most = SUPPLY[kind.low_voltage]
    found = []
    for id in ids:
        if id not in feedback:
            found.append((Outcome.ERROR, f"servo {id} does not answer; check its cable"))
            continue
        servo = feedback[id]
        volts = servo.voltage * VOLTAGE_UNIT
        if not least <= volts <= most:
            text = (
                f"servo {id} is supplied with {volts:.1f} V, a {kind.value} arm with {least:g} to {most:g} V"
            )
            found.append((Outcome.ERROR, f"{text}; check the power supply, or name the arm with --kind"))
        if servo.temperature >= WARM:
            found.append(
                (Outcome.WARNING, f"servo {id} has {servo.temperature} degrees Celsius; let it cool")
            )
        if bits := status_text(servo.status):
            found.append((Outcome.ERROR, f"servo {id} reports {bits}; switch its supply off and on"))
    majors, minors = bus.sync_read("firmware_major", ids), bus.sync_read("firmware_minor", ids)
    versions = {id: f"{majors[id]}.{minors[id]}" for id in ids}
    if len(set(versions.values())) > 1:
        listed = ", ".join(f"{id}: {version}" for id, version in versions.items())
        text = f"the servos' firmware differs ({listed}): LeRobot refuses such an arm"
        found.append((Outcome.NOTE, f"{text}; Feetech's own tool updates it"))
    volts = min((servo.voltage for servo in feedback.values()), default=0) * VOLTAGE_UNIT
    warmest = max((servo.temperature for servo in feedback.values()), default=0)
    return found, f"supply {volts:.1f} V, warmest servo {warmest} degrees Celsius, no status bit is set"


def _pose(bus: FeetechBus, units: ArmUnits) -> tuple[list[tuple[Outcome, str]], str]:
    angles = read_angles(bus, units)
    lower, upper = units.limits()
    found = []
    for index, name in enumerate(JOINT_NAMES):
        beyond = max(lower[index] - angles[index], angles[index] - upper[index])
        if beyond > POSE_MARGIN:
            found.append(
                (
                    Outcome.ERROR,
                    f"{name} reads {math.degrees(angles[index]):.0f} degrees, its limits are "
                    f"{math.degrees(lower[index]):.0f}..{math.degrees(upper[index]):.0f}: if it is not "
                    "there, the calibration is wrong: chefmate arm calibrate",
                )
            )
    height = lowest_tip_height(angles)
    if not found and height < -TABLE_MARGIN:
        found.append(
            (
                Outcome.WARNING,
                f"by its angles the arm reaches {-1000 * height:.0f} mm below the foot of its base: if there "
                "is a table, the calibration is wrong: chefmate arm calibrate",
            )
        )
    shown = ", ".join(
        f"{name} {math.degrees(angle):.0f}" for name, angle in zip(JOINT_NAMES, angles, strict=True)
    )
    return found, f"within the limits (degrees: {shown})"


def read_angles(bus: FeetechBus, units: ArmUnits) -> Vector:
    """Joint angles, rad (6,). ServoMissingError, BusProtocolError, BusLostError."""
    present = bus.sync_read("present_position", units.ids)
    return units.radians([present[id] for id in units.ids])


# What a hand does to turn a joint in its positive and its negative direction, seen from behind the base.
HAND_MOTIONS: dict[str, tuple[str, str]] = {
    "shoulder_pan": ("turn the whole arm to the right", "turn the whole arm to the left"),
    "shoulder_lift": ("tilt the upper arm forward and down", "tilt the upper arm back and up"),
    "elbow_flex": ("bend the forearm down", "lift the forearm"),
    "wrist_flex": ("bend the gripper down", "lift the gripper"),
    "wrist_roll": (
        "roll the gripper counter-clockwise, as seen from behind it",
        "roll the gripper clockwise, as seen from behind it",
    ),
    "gripper": ("open the gripper", "close the gripper"),
}


class DirectionCheck:
    """A limp joint is turned by hand in a told direction; which joint moved, and which way?"""

    def __init__(self, joint: str, start: Vector) -> None:
        """`start`: joint angles now, rad (6,); the direction asked for is the one with room."""
        self.joint, self.index = joint, JOINT_NAMES.index(joint)
        self._start = np.array(start)
        self.sign = +1 if UPPER[self.index] - start[self.index] > ROOM else -1
        if self.sign < 0 and start[self.index] - LOWER[self.index] < ROOM:
            self.sign = +1
        self.moved = 0.0  # rad, the joint's own way so far

    @property
    def told(self) -> str:
        """What the hand should do."""
        return HAND_MOTIONS[self.joint][0 if self.sign > 0 else 1]

    @property
    def degrees(self) -> float:
        """The joint's own way so far."""
        return math.degrees(self.moved)

    def take(self, angles: Vector) -> Finding | None:
        """The verdict, once there is one."""
        moved = np.asarray(angles) - self._start
        self.moved = float(moved[self.index])
        name = f"direction {self.joint}"
        if abs(self.moved) >= TOLD_ANGLE:
            if self.moved * self.sign > 0:
                text = f"turns as the model says ({self.degrees:+.0f} degrees)"
                return Finding(name, Outcome.OK, text)
            text = (
                f"{self.joint} reads {self.degrees:+.0f} degrees after `{self.told}`: if that "
                "is what you did, its servo is mounted or set up the other way round (register phase, bits 0 "
                "and 7)"
            )
            return Finding(name, Outcome.ERROR, text)
        other = int(np.argmax(np.abs(moved)))
        if abs(moved[other]) >= OTHER_ANGLE:
            text = (
                f"{JOINT_NAMES[other]} moved by {math.degrees(moved[other]):+.0f} degrees instead of "
                f"{self.joint}: either that joint was turned, or the ids of these servos are swapped "
                "(`chefmate arm scan --set-id`)"
            )
            return Finding(name, Outcome.ERROR, text)
        return None
