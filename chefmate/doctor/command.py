# SPDX-License-Identifier: Apache-2.0
"""The command: runs the checks, prints the findings. Works without a robot and without a running graph."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.text import Text

from chefmate.doctor.finding import Finding, Level, Machine
from chefmate.doctor.machine import check_cameras, check_disk, check_graphics, check_packages
from chefmate.doctor.ports import check_names, check_ports
from chefmate.doctor.ros import check_environment, check_frames, check_shared_memory, check_workspace
from chefmate.doctor.servos import check_calibration, check_servos

Check = Callable[[Machine], Iterable[Finding]]
CHECKS: tuple[Check, ...] = (
    check_packages,
    check_workspace,
    check_environment,
    check_shared_memory,
    check_ports,
    check_names,
    check_servos,
    check_calibration,
    check_cameras,
    check_graphics,
    check_disk,
)
STYLES = {Level.OK: "green", Level.INFO: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}
WIDTH = max(len(level.value) for level in Level)


def doctor(options: argparse.Namespace) -> int:
    """0: no error; 1: there are errors, each with its mend."""
    machine = Machine(
        port=options.port or "",
        leader=options.leader or "",
        calibration=options.calibration or "",
        leader_calibration=options.leader_calibration or "",
    )
    console = Console(stderr=options.json, highlight=False, soft_wrap=True)
    findings = []
    for finding in examine(machine, quick=options.quick, announce=lambda text: print(text, file=sys.stderr)):
        findings.append(finding)
        if not options.json:
            console.print(line(finding))
    errors, warnings = (
        sum(finding.level is level for finding in findings) for level in (Level.ERROR, Level.WARNING)
    )
    if options.json:
        rows = [
            {"check": f.check, "level": f.level.value, "message": f.message, "mend": f.mend} for f in findings
        ]
        print(
            json.dumps({"ok": not errors, "errors": errors, "warnings": warnings, "findings": rows}, indent=2)
        )
    else:
        console.print(f"{errors} errors, {warnings} warnings")
    return 1 if errors else 0


def examine(machine: Machine, *, quick: bool, announce: Callable[[str], None]) -> Iterator[Finding]:
    """All findings, in the order of the checks. quick: without the frame test, which takes some seconds."""
    for check in CHECKS:
        yield from check(machine)
    if not quick:
        announce("sending frames between two processes, some 5 s ...")
        yield from check_frames(machine)


def line(finding: Finding) -> Text:
    """A finding for a terminal, its mend below."""
    text = Text(f"{finding.level.value:<{WIDTH}}  ", style=STYLES[finding.level])
    text.append(f"{finding.check}: {finding.message}", style="")
    if finding.mend and finding.level is not Level.OK:
        text.append(f"\n{'':<{WIDTH}}    {finding.mend}", style="bold")
    return text
