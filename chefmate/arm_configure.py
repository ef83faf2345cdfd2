# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm configure`: the servos' EEPROM settings as this arm should have them."""

from __future__ import annotations

import argparse
import json

from rich.table import Table

from chefmate.arm_bus import arm_bus, finish_writing, make_limp
from chefmate.dialogue import Dialogue
from chefmate_driver.arm.settings import ArmKind, Difference, Severity, configure_command
from chefmate_driver.arm.setup.calibrate import STANDARD_IDS
from chefmate_driver.arm.setup.configure import configure, plan


def configure_arm(options: argparse.Namespace) -> int:
    """0 if nothing that can be written differs (any more), 1 if something does or was declined."""
    dialogue = Dialogue(json=options.json, assume_yes=options.yes)
    kind, ids = ArmKind(options.kind), list(STANDARD_IDS.values())
    with arm_bus(options) as bus:
        if not options.dry_run:
            finish_writing(bus, dialogue)
        wanted = plan(bus, ids, kind)
        left, written = wanted.differences, False
        if wanted.differences:
            dialogue.tell(table(wanted.differences))
        to_write = bool(wanted.values or wanted.unlocked)
        if to_write and not options.dry_run:
            if not dialogue.agree("Write this to the servos' EEPROM?"):
                dialogue.tell("Nothing was written.")
            else:
                make_limp(bus, ids, dialogue)
                left = configure(bus, ids, kind, wanted, configure_command(bus.port, kind))
                written = True
        if written:
            dialogue.tell("Written, read back, and locked again.")
        elif not to_write:
            dialogue.tell("There is nothing to write.")
        port = bus.port
    if options.json:
        document = {
            "port": port,
            "kind": kind.value,
            "differences": [difference.as_dict() for difference in wanted.differences],
            "written": written,
            "left": [difference.as_dict() for difference in left],
        }
        print(json.dumps(document))
    for difference in left if written else []:
        dialogue.tell(f"- left: {difference}")
    serious = [
        difference for difference in left if difference.writable or difference.severity is Severity.ERROR
    ]
    return 1 if serious else 0


def table(differences: list[Difference]) -> Table:
    """One row per register and change, with the servos that it concerns."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for difference in differences:
        severity = difference.severity.value + ("" if difference.writable else ", not written")
        why = difference.why if difference.writable else f"{difference.why}; {difference.mend}"
        change = (difference.register, f"{difference.found} -> {difference.expected}", severity, why)
        rows.setdefault(change, []).append(difference.servo)
    shown = Table("servo", "register", "is -> should be", "", "else", box=None)
    for texts, servos in rows.items():
        shown.add_row(" ".join(map(str, servos)), *texts)
    return shown
