# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm calibrate`: LeRobot's procedure with a live picture, a review, and no half-written servos."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from chefmate.arm_bus import arm_bus, finish_writing, make_limp
from chefmate.dialogue import PICTURES, Dialogue
from chefmate.errors import ChefmateError
from chefmate_driver.arm.calibration import (
    DEGREES_PER_TICK,
    Calibration,
    calibration_folders,
    read_calibration,
    read_servo_calibration,
    write_calibration,
)
from chefmate_driver.arm.errors import CalibrationError
from chefmate_driver.arm.settings import ArmKind
from chefmate_driver.arm.setup.calibrate import STANDARD_IDS, CalibrationSession, write_calibration_to_servos
from chefmate_driver.arm.setup.eeprom import Journal
from chefmate_driver.arm.setup.plausible import (
    FULL_TURN_JOINT,
    Problem,
    accepted_travel,
    calibration_problems,
    expected_travel,
)
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.bus import FeetechBus

SAMPLE = 0.01  # s between readings of the sweep
WIDTH = 40  # characters of a range's picture: one turn of the encoder
MIDDLE = "Hold every joint in the middle of its travel, then press Enter."
SWEEP = f"Move each joint but {FULL_TURN_JOINT} slowly from stop to stop, then press Enter."
AGAIN = "Enter sweeps on, `again` starts with the middle, `quit` ends:"


def calibration_path(name: str, *, leader: bool) -> Path:
    """Where the calibration is kept: the path as given, the file that LeRobot has, or its newest folder."""
    if "/" in name or name.endswith(".json"):
        return Path(name).expanduser()
    places = [folder / f"{name}.json" for folder in calibration_folders(leader=leader)]
    return next((place for place in places if place.is_file()), places[0])


def calibrate(options: argparse.Namespace) -> int:
    """0 if the servos and the file hold the calibration, 1 if something speaks against it or was declined."""
    dialogue = Dialogue(json=options.json, assume_yes=options.yes)
    kind = ArmKind(options.kind)
    path = calibration_path(options.calibration, leader=kind is ArmKind.LEADER)
    again = f"chefmate arm calibrate --port PORT --kind {kind.value} --calibration {options.calibration}"
    with arm_bus(options) as bus:
        try:
            finish_writing(bus, dialogue)
            before = read_servo_calibration(bus, STANDARD_IDS)
            calibration, problems = obtain(bus, kind, path, options, dialogue)
            refuse(problems, dialogue, accept=options.accept_ranges)
            dialogue.tell(review(before, calibration))
            written = dialogue.agree(f"Write this to the servos, and to {path}?")
            if written:
                make_limp(bus, list(STANDARD_IDS.values()), dialogue)
                command = again.replace("PORT", bus.port)
                write_calibration_to_servos(bus, calibration, command, lambda: save(path, calibration))
        except (KeyboardInterrupt, ChefmateError, DriverError):
            if not Journal(bus.stable_port).path.exists():
                dialogue.tell("Not calibrated: the servos hold what they held before.")
            raise
        port = bus.port
    dialogue.tell(f"Written, read back, locked; saved to {path}." if written else "Nothing was written.")
    if options.json:
        document = {
            "port": port,
            "file": str(path),
            "written": written,
            "before": {name: asdict(joint) for name, joint in before.items()},
            "calibration": {name: asdict(joint) for name, joint in calibration.items()},
            "problems": [str(problem) for problem in problems],
        }
        print(json.dumps(document))
    return 0 if written else 1


def obtain(
    bus: FeetechBus, kind: ArmKind, path: Path, options: argparse.Namespace, dialogue: Dialogue
) -> tuple[Calibration, list[Problem]]:
    """The calibration that is to be written, and what speaks against it."""
    leader = kind is ArmKind.LEADER
    if options.use_file or options.from_servos:
        source = read_calibration(path) if options.use_file else read_servo_calibration(bus, STANDARD_IDS)
        return source, calibration_problems(source, leader=leader)
    session = CalibrationSession(bus, kind)
    make_limp(bus, list(session.ids.values()), dialogue)
    middle = True
    while True:
        if middle:
            dialogue.ask(MIDDLE)
            session.hold()
        dialogue.tell(SWEEP)
        sweep(session, dialogue)
        problems = session.problems()
        if all(problem.acceptable and options.accept_ranges for problem in problems):
            return session.result(), problems
        for problem in problems:
            dialogue.tell(f"- {problem}")
        answer = dialogue.ask(AGAIN)
        if answer == "quit":
            raise ChefmateError("given up")
        middle = answer == "again"


def sweep(session: CalibrationSession, dialogue: Dialogue) -> None:
    """Takes readings until Enter. Without a terminal, a line tells which joint has been swept far enough."""
    told: set[str] = set()
    shown = 0.0
    with dialogue.live() as show:
        while dialogue.line(SAMPLE) is None:
            if dialogue.ended:
                raise ChefmateError("input ended during the sweep; nothing was written")
            session.sample()
            now = time.monotonic()
            if now - shown < 1.0 / PICTURES:
                continue
            shown = now
            show(picture(session))
            for name, track in session.tracks.items():
                enough = track.high - track.low >= accepted_travel(name, leader=session.leader)[0]
                if enough and name not in told and not dialogue.console.is_terminal:
                    dialogue.tell(
                        f"{name}: swept over {(track.high - track.low) * DEGREES_PER_TICK:.0f} degrees"
                    )
                    told.add(name)


def picture(session: CalibrationSession) -> Table:
    """Each joint's range so far on one turn of the encoder, and how much of the URDF's travel that is."""
    table = Table("joint", "range", "now", "degrees", "of the travel", box=None)
    for name, track in session.tracks.items():
        travel = track.high - track.low
        least = accepted_travel(name, leader=session.leader)[0]
        share = "whole turn" if name == FULL_TURN_JOINT else f"{100 * travel / expected_travel(name):.0f} %"
        style = "green" if travel >= least or name == FULL_TURN_JOINT else "yellow"
        table.add_row(
            name,
            bar(track.low, track.high, track.position),
            str(track.position),
            f"{travel * DEGREES_PER_TICK:.0f}",
            share + (", passed the encoder's end" if track.low < 0 or track.high > 4095 else ""),
            style=style,
        )
    return table


def bar(low: int, high: int, position: int) -> str:
    """A range in 0..4095 as characters: `-` where the joint has been, `|` where it is."""
    cells = [" "] * WIDTH
    place = [max(0, min(WIDTH - 1, tick * WIDTH // 4096)) for tick in (low, high, position)]
    for cell in range(place[0], place[1] + 1):
        cells[cell] = "-"
    cells[place[2]] = "|"
    return f"[{''.join(cells)}]"


def refuse(problems: Sequence[Problem], dialogue: Dialogue, *, accept: bool) -> None:
    """ChefmateError if something speaks against a calibration; what may be accepted is told."""
    for problem in problems:
        if not (problem.acceptable and accept):
            raise ChefmateError(
                f"{'; '.join(map(str, problems))}. Nothing was written"
                + ("" if not problem.acceptable else " (--accept-ranges writes it all the same)")
            )
        dialogue.tell(f"- accepted: {problem}")


def review(before: Calibration, after: Calibration) -> Table:
    """What the servos hold, and what they are to hold."""
    table = Table("joint", "servo", "homing offset", "range", "travel", box=None)
    for name, new in after.items():
        old = before[name]
        offsets = f"{old.homing_offset} -> {new.homing_offset}"
        ranges = f"{old.range_min}..{old.range_max} -> {new.range_min}..{new.range_max}"
        same = (old.homing_offset, old.range_min, old.range_max) == (
            new.homing_offset,
            new.range_min,
            new.range_max,
        )
        degrees = f"{(new.range_max - new.range_min) * DEGREES_PER_TICK:.0f} degrees"
        table.add_row(name, str(new.id), offsets, ranges, degrees, style="dim" if same else "")
    return table


def save(path: Path, calibration: Calibration) -> None:
    """Writes the file; one that was there is kept beside it as `NAME.json.bak`. CalibrationError."""
    try:
        if path.is_file():
            shutil.copy2(path, path.with_name(f"{path.name}.bak"))
        write_calibration(path, calibration)
    except OSError as error:
        raise CalibrationError(f"{path} cannot be written: {error.strerror}") from error
