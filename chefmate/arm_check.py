# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm check`: is the arm fit for its first motion? Nothing is driven, and no EEPROM is written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from rich.text import Text

from chefmate.arm_bus import arm_bus, make_limp
from chefmate.dialogue import Dialogue
from chefmate_driver.arm.calibration import find_calibration, read_calibration
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.settings import ArmKind
from chefmate_driver.arm.setup.check import DirectionCheck, Finding, Outcome, inspect, read_angles
from chefmate_driver.arm.setup.eeprom import Journal
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.bus import FeetechBus

LOOK = 0.03  # s between readings while a joint is turned by hand
STYLES = {Outcome.OK: "green", Outcome.NOTE: "dim", Outcome.WARNING: "yellow", Outcome.ERROR: "red"}


def check(options: argparse.Namespace) -> int:
    """0 if no check ended with an error, else 1."""
    dialogue = Dialogue(json=options.json, assume_yes=options.yes)
    kind = ArmKind(options.kind)
    path = find_calibration(options.calibration, leader=kind is ArmKind.LEADER)
    calibration = read_calibration(path)
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        word = Text(f"{finding.outcome.value:8}", style=STYLES[finding.outcome])
        dialogue.tell(word.append(f"{finding.check}: {finding.text}", style="default"))

    with arm_bus(options) as bus:
        journal = Journal(bus.stable_port)
        if (entry := journal.load()) is not None:
            text = f"{entry}: run it again, it offers to restore the old values"
            report(Finding("eeprom", Outcome.ERROR, text))
        for finding in inspect(bus, calibration, kind):
            report(finding)
        port, fit = bus.port, all(finding.outcome is not Outcome.ERROR for finding in findings)
        if fit and not options.no_hands:
            directions(bus, ArmUnits(calibration), dialogue, report)
        elif not options.no_hands:
            report(Finding("direction", Outcome.NOTE, "left out until the errors above are mended"))
    fit = all(finding.outcome is not Outcome.ERROR for finding in findings)
    dialogue.tell("The arm is fit for its first motion." if fit else "The arm is not fit to move; see above.")
    if options.json:
        document = {
            "port": port,
            "file": str(path),
            "kind": kind.value,
            "fit": fit,
            "findings": [finding.as_dict() for finding in findings],
        }
        print(json.dumps(document))
    return 0 if fit else 1


def directions(
    bus: FeetechBus, units: ArmUnits, dialogue: Dialogue, report: Callable[[Finding], None]
) -> None:
    """Has each joint turned by hand in a told direction."""
    make_limp(bus, units.ids, dialogue)
    for name in JOINT_NAMES:
        turned = DirectionCheck(name, read_angles(bus, units))
        dialogue.tell(f"{name}: {turned.told}, by about 15 degrees (Enter leaves it out)")
        verdict = None
        with dialogue.live() as show:
            while verdict is None:
                verdict = turned.take(read_angles(bus, units))
                show(f"{name}: {turned.degrees:+.0f} degrees")
                if verdict is None and (dialogue.line(LOOK) is not None or dialogue.ended):
                    verdict = Finding(f"direction {name}", Outcome.WARNING, "left out")
        report(verdict)
