# SPDX-License-Identifier: Apache-2.0
"""What a calibration of an SO-ARM 101 can be: travel of each joint by the URDF, middle, wrap-around."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from chefmate_driver.arm.calibration import DEGREES_PER_TICK, JointCalibration
from chefmate_driver.arm.model import GRIPPER, JOINT_NAMES, JOINTS
from chefmate_driver.feetech.registers import MAX_POSITION, STEPS_PER_TURN

HALF_TURN = 2047  # ticks; LeRobot's int(4095 / 2), the position of the pose that was held
FULL_TURN_JOINT = "wrist_roll"  # LeRobot does not sweep it: its range is the whole turn
# Swept travel as a share of the URDF's. Arms calibrated with LeRobot have 1.00 to 1.17 of it.
BODY_TRAVEL = (0.8, 1.3)
GRIPPER_TRAVEL = (0.75, 1.4)
TRIGGER_TRAVEL = (0.3, 1.4)  # a leader has a trigger in place of the gripper
# Ticks (26 degrees) between the middle of the travel and the pose that was held. A body joint further off was
# either not held in the middle or not swept to one of its ends. The gripper's middle means nothing.
ASYMMETRY = 300


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a joint's calibration cannot be right."""

    joint: str
    text: str
    acceptable: bool  # True where an arm that is built otherwise may have it

    def __str__(self) -> str:
        return f"{self.joint}: {self.text}"


def expected_travel(joint: str) -> float:
    """Travel of a joint by the URDF, ticks."""
    model = JOINTS[JOINT_NAMES.index(joint)]
    return (model.upper - model.lower) * MAX_POSITION / (2.0 * math.pi)


def accepted_travel(joint: str, *, leader: bool = False) -> tuple[float, float]:
    """Least and most travel of a swept joint, ticks."""
    share = BODY_TRAVEL
    if joint == JOINT_NAMES[GRIPPER]:
        share = TRIGGER_TRAVEL if leader else GRIPPER_TRAVEL
    return share[0] * expected_travel(joint), share[1] * expected_travel(joint)


def joint_problems(joint: str, low: int, high: int, *, leader: bool = False) -> list[Problem]:
    """What is wrong with a range in ticks after homing; it may lie outside 0..4095 if that is where the
    encoder passed its end."""
    if joint == FULL_TURN_JOINT:
        if (low, high) == (0, MAX_POSITION):
            return []
        return [Problem(joint, f"its range is {low}..{high}, LeRobot's is 0..{MAX_POSITION}", True)]
    if low < 0 or high > MAX_POSITION:
        end = "below 0" if low < 0 else f"above {MAX_POSITION}"
        return [
            Problem(
                joint,
                f"its encoder passes from {MAX_POSITION} to 0 inside its travel (range {low}..{high}, "
                f"{end}): hold it nearer to the middle of its travel, and calibrate again",
                False,
            )
        ]
    found: list[Problem] = []
    travel = high - low
    least, most = accepted_travel(joint, leader=leader)
    expected = f"{_degrees(expected_travel(joint))} by the URDF"
    if travel < least:
        text = f"it was swept over {_degrees(travel)} only, {expected}: move it from stop to stop"
        found.append(Problem(joint, text, True))
    elif travel > most:
        wrapped = travel > 0.95 * STEPS_PER_TURN
        text = f"its range is {_degrees(travel)}, {expected}: " + (
            "its encoder passed its end inside the travel; hold it nearer to the middle"
            if wrapped
            else "is this joint's servo on another joint?"
        )
        found.append(Problem(joint, text, not wrapped))
    middle = (low + high) / 2.0 - HALF_TURN
    if joint != JOINT_NAMES[GRIPPER] and travel >= least and abs(middle) > ASYMMETRY:
        text = (
            f"the middle of its travel is {_degrees(middle)} from the pose that was held: hold it in the "
            "middle, and sweep it to both stops"
        )
        found.append(Problem(joint, text, True))
    return found


def calibration_problems(
    calibration: Mapping[str, JointCalibration], *, leader: bool = False
) -> list[Problem]:
    """What is wrong with a calibration by itself, in joint order."""
    return [
        problem
        for name, joint in calibration.items()
        for problem in joint_problems(name, joint.range_min, joint.range_max, leader=leader)
    ]


def _degrees(ticks: float) -> str:
    return f"{ticks * DEGREES_PER_TICK:.0f} degrees"
