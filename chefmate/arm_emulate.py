# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm emulate`: six emulated servos on a serial port, and a hand that moves them by typed lines."""

from __future__ import annotations

import argparse
import time

from chefmate.dialogue import Dialogue
from chefmate.up import interruptible
from chefmate_driver.arm.calibration import find_calibration
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.emulated_hand import HELP, MIDDLE, EmulatedHand, new_arm, obey
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.feetech.plant import SimplePlant

LOOK = 0.1  # s


def emulate(options: argparse.Namespace) -> int:
    """Serves the port until ctrl-C (0)."""
    dialogue = Dialogue()
    plant = SimplePlant([float(angle) for angle in MIDDLE])
    make = new_arm if options.new else emulated_arm
    with interruptible() as interrupt, make(find_calibration("twin"), plant, options.link) as port:
        hand = EmulatedHand(plant)
        state = "not configured, not calibrated" if options.new else "its calibration is `twin`"
        dialogue.tell(f"An emulated arm is on {options.link} ({state}). Type what a hand does; ctrl-C ends.")
        dialogue.tell(HELP)
        while not interrupt():
            line = dialogue.line(LOOK)
            if line is None and dialogue.ended:
                time.sleep(LOOK)  # input is closed: only ctrl-C is left to wait for
            elif line:
                try:
                    dialogue.tell(obey(line, hand, port))
                except ArmError as error:
                    dialogue.tell(str(error))
    return 0
