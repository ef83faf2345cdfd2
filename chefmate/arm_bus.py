# SPDX-License-Identifier: Apache-2.0
"""What the set-up commands share: the bus, an unfinished EEPROM writing, torque off with the owner's word."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from chefmate.arm_setup_options import BAUD
from chefmate.dialogue import Dialogue
from chefmate.errors import ChefmateError
from chefmate_driver.arm.setup.eeprom import Journal, go_limp, holding, restore
from chefmate_driver.arm.setup.ports import serial_ports, the_only_port
from chefmate_driver.feetech.bus import FeetechBus

REPLY_TIMEOUT = 0.02  # s; set-up is in no hurry, and adapters without low latency take 16 ms


@contextmanager
def arm_bus(options: argparse.Namespace, baud: int = BAUD) -> Iterator[FeetechBus]:
    """The bus on `--port`, or on the only USB serial port. Raises FeetechError, ArmError."""
    port = options.port or the_only_port(serial_ports())
    with FeetechBus(port, baud, reply_timeout=REPLY_TIMEOUT) as bus:
        yield bus


def finish_writing(bus: FeetechBus, dialogue: Dialogue) -> None:
    """Offers to restore what an earlier command left half written. ChefmateError if that is declined."""
    journal = Journal(bus.stable_port)
    entry = journal.load()
    if entry is None:
        return
    dialogue.tell(f"{bus.port}: {entry}.")
    if not dialogue.agree("Write the old values back?"):
        raise ChefmateError(
            f"the servos may be half written; their old values stay in {journal.path} (remove that file to "
            "keep what the servos hold now)"
        )
    make_limp(bus, list(entry.old), dialogue)
    restore(bus, journal)
    dialogue.tell(f"The old values of servo {', '.join(map(str, entry.old))} are back and verified.")


def make_limp(bus: FeetechBus, ids: Sequence[int], dialogue: Dialogue) -> None:
    """Torque off, if need be, once the owner supports the arm. ChefmateError if that is declined."""
    if not (tense := holding(bus, list(ids))):
        return
    names = ", ".join(map(str, tense))
    question = f"Servo {names} holds torque. The arm falls when it goes limp: support it. Switch torque off?"
    if not dialogue.agree(question):
        raise ChefmateError("the arm holds torque, so nothing was written")
    go_limp(bus, list(ids))
