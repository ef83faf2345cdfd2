# SPDX-License-Identifier: Apache-2.0
"""A hand that moves the limp joints of an emulated arm, for trying set-up commands without an arm."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.emulated_settings import store
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.model import JOINT_NAMES, LOWER, UPPER
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.emulator import EmulatedPort, ServoEmulator
from chefmate_driver.feetech.faults import Fault, FaultKind, FaultScript
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_driver.feetech.registers import MAX_POSITION

SPEED = 2.0  # rad/s of a hand
TICK = 0.01  # s between two positions of the hand
DWELL = 0.1  # s at a stop, so that a slow reader sees it
MIDDLE = (LOWER + UPPER) / 2.0  # rad
# Ticks of each encoder where the joint is at the middle of its travel, less 2047: how the horns of a freshly
# built arm happen to sit on their splines. Signs and sizes as in files of real arms.
MOUNTING = (-1211, 1100, -975, 1402, -52, 1309)
# What differs from this arm's settings in a servo from the factory.
FACTORY = {
    "p_gain": 32,
    "return_delay": 250,
    "max_torque": 1000,
    "protection_current": 511,
    "overload_torque": 80,
}
HELP = f"""\
middle            hold every joint in the middle of its travel
sweep             move each joint from stop to stop, and back to the middle
JOINT DEGREES     turn a joint ({", ".join(JOINT_NAMES)})
unplug SECONDS    pull the USB cable, and plug it in again after that time"""


class EmulatedHand:
    """Moves joints whose torque is off; the others stay where their servos hold them."""

    def __init__(self, plant: SimplePlant, sleep: Callable[[float], None] = time.sleep) -> None:
        self._plant, self._sleep = plant, sleep

    def move(self, joint: int, angle: float) -> bool:
        """Turns joint `joint` to `angle` (rad, within the URDF's limits); False if it holds torque."""
        goal = float(np.clip(angle, LOWER[joint], UPPER[joint]))
        while (left := goal - float(self._plant.positions[joint])) != 0.0:
            if self._plant.enabled[joint]:
                return False
            step = SPEED * TICK
            self._plant.positions[joint] += math.copysign(min(step, abs(left)), left)
            self._sleep(TICK)
        return True

    def middle(self) -> bool:
        """All joints to the middle of their travel."""
        return all([self.move(joint, float(angle)) for joint, angle in enumerate(MIDDLE)])

    def sweep(self) -> bool:
        """All joints but wrist_roll from stop to stop, and back to the middle."""
        free = True
        for joint, name in enumerate(JOINT_NAMES):
            if name == "wrist_roll":
                continue
            for angle in (LOWER[joint], UPPER[joint], MIDDLE[joint]):
                free = self.move(joint, float(angle)) and free
                self._sleep(DWELL)
        return free


def obey(text: str, hand: EmulatedHand, port: EmulatedPort) -> str:
    """Carries out one line of HELP; returns what there is to say. ArmError if it is none."""
    words = text.split()
    free = True
    try:
        if words == ["middle"]:
            free = hand.middle()
        elif words == ["sweep"]:
            free = hand.sweep()
        elif len(words) == 2 and words[0] in JOINT_NAMES:
            free = hand.move(JOINT_NAMES.index(words[0]), math.radians(float(words[1])))
        elif len(words) == 2 and words[0] == "unplug":
            port.play(FaultScript((Fault(FaultKind.DISCONNECT, 0.0, float(words[1])),)))
        else:
            raise ArmError(f"{text!r} is unknown:\n{HELP}")
    except ValueError as error:
        raise ArmError(f"{text!r}: {words[1]!r} is no number") from error
    return "done" if free else "a joint holds torque: it cannot be moved by hand"


def new_arm(calibration: Path, plant: SimplePlant, link: Path | None = None) -> EmulatedPort:
    """An arm as it was just built: servos with ids, but neither configured nor calibrated. `calibration`
    tells how far its joints turn; its offsets become MOUNTING."""
    travel = read_calibration(calibration)
    mounted = {
        name: replace(joint, homing_offset=offset)
        for (name, joint), offset in zip(travel.items(), MOUNTING, strict=True)
    }
    emulator = ServoEmulator(ArmUnits(mounted).joints, plant)
    for servo in emulator.servos:
        limits = {"homing_offset": 0, "min_position_limit": 0, "max_position_limit": MAX_POSITION}
        store(servo, {**FACTORY, **limits})
    return EmulatedPort(emulator, link)
