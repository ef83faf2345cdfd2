# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm emulate`: six emulated servos on a serial port, and a hand that moves them by typed lines."""

from __future__ import annotations

import argparse
import os
import sys
import time

from chefmate.dialogue import Dialogue
from chefmate.interrupting import interruptible
from chefmate_driver.arm.calibration import find_calibration
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.emulated_hand import HELP, MIDDLE, EmulatedHand, new_arm, obey
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.feetech.plant import SimplePlant

LOOK = 0.1  # s


def emulate(options: argparse.Namespace) -> int:
    """Serves the port until ctrl-C, or the end of what types (0). Without input, in the background, until
    ctrl-C."""
    dialogue = Dialogue()
    background = _no_input()
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
                if not background:
                    break  # who started it has closed the pipe, or has died
                time.sleep(LOOK)
            elif line:
                try:
                    dialogue.tell(obey(line, hand, port))
                except ArmError as error:
                    dialogue.tell(str(error))
    return 0


def _no_input() -> bool:
    """Whether standard input is closed, or /dev/null, from the start."""
    try:
        return os.path.samestat(os.fstat(sys.stdin.fileno()), os.stat(os.devnull))
    except (AttributeError, OSError, ValueError):
        return True
