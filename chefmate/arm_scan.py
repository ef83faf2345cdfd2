# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm scan`: which servos are on which port, at which baud rate, and what is wrong with that."""

from __future__ import annotations

import argparse
import json

from rich.table import Table

from chefmate.arm_bus import arm_bus, make_limp
from chefmate.dialogue import Dialogue
from chefmate.errors import ArgumentError, ChefmateError
from chefmate_driver.arm.setup.ports import serial_ports
from chefmate_driver.arm.setup.scan import FoundServo, check_new_id, scan, scan_problems, set_id
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.packet import MAX_ID
from chefmate_driver.feetech.registers import BAUD_RATES


def bauds(text: str) -> list[int]:
    """Baud rates of the option. ArgumentError if one is none."""
    rates = list(BAUD_RATES.values())
    if text == "all":
        return rates
    try:
        chosen = [int(part) for part in text.split(",")]
    except ValueError:
        chosen = []
    if not chosen or not set(chosen) <= set(rates):
        raise ArgumentError(f"--baud {text}: give some of {', '.join(map(str, rates))}, or `all`")
    return chosen


def id_range(text: str) -> range:
    """Servo ids of the option. ArgumentError if it is no range."""
    first, _, last = text.partition("-")
    try:
        ids = range(int(first), int(last or first) + 1)
    except ValueError:
        ids = range(0)
    if not ids or ids[0] < 0 or ids[-1] > MAX_ID:
        raise ArgumentError(f"--ids {text}: give a range within 0-{MAX_ID}, for example 1-6")
    return ids


def scan_command(options: argparse.Namespace) -> int:
    """0 if the port's servos are those of an arm, 1 if not or if a port cannot be used."""
    dialogue = Dialogue(json=options.json, assume_yes=options.yes)
    rates, ids = bauds(options.baud), id_range(options.ids)
    if options.set_id:
        if len(rates) > 1:
            raise ArgumentError("--set-id needs the one baud rate at which the servo talks (--baud)")
        return change_id(options, dialogue, rates[0])
    ports = [options.port] if options.port else serial_ports()
    if not ports:
        raise ChefmateError("no USB serial port is there: plug the arm's adapter in, or name a --port")
    documents = []
    for port in ports:
        options.port = port
        document = look_at(options, dialogue, rates, ids)
        documents.append(document)
    if options.json:
        print(json.dumps(documents[0] if len(documents) == 1 else documents))
    return 1 if any(document["problems"] for document in documents) else 0


def look_at(
    options: argparse.Namespace, dialogue: Dialogue, rates: list[int], ids: range
) -> dict[str, object]:
    """Scans one port and shows it."""
    found: list[FoundServo] = []
    try:
        for rate in rates:
            with arm_bus(options, rate) as bus, dialogue.live() as show:

                def look(id: int, rate: int = rate) -> None:
                    show(f"{options.port} at {rate} baud: asking servo {id}")

                found += scan(bus, ids, look)
        problems = scan_problems(found, options.port)
    except DriverError as error:
        problems = [str(error)]
    if found:
        dialogue.tell(table(options.port, found))
    for problem in problems:
        dialogue.tell(f"- {problem}")
    return {"port": options.port, "servos": [servo.as_dict() for servo in found], "problems": problems}


def table(port: str, found: list[FoundServo]) -> Table:
    """One row per servo."""
    shown = Table(
        "id", "joint", "baud", "model", "firmware", "V", "°C", "torque", "status", title=port, box=None
    )
    for servo in found:
        shown.add_row(
            str(servo.id) + (" (twice)" if servo.duplicate else ""),
            servo.joint,
            str(servo.baud),
            "?" if servo.model is None else str(servo.model),
            servo.firmware,
            "" if servo.voltage is None else f"{servo.voltage:.1f}",
            "" if servo.temperature is None else str(servo.temperature),
            {None: "", True: "on", False: "off"}[servo.torque],
            servo.status,
        )
    return shown


def change_id(options: argparse.Namespace, dialogue: Dialogue, rate: int) -> int:
    """`--set-id OLD NEW`."""
    old, new = options.set_id
    with arm_bus(options, rate) as bus:
        check_new_id(bus, old, new)
        dialogue.tell(f"{bus.port}: id of servo {old}: {old} -> {new}")
        if not dialogue.agree("Write it to the servo's EEPROM?"):
            dialogue.tell("Nothing was written.")
            return 1
        make_limp(bus, [old], dialogue)
        set_id(bus, old, new)
        dialogue.tell(f"Servo {old} is servo {new} now; its EEPROM is locked again.")
        if options.json:
            print(json.dumps({"port": bus.port, "old": old, "new": new}))
    return 0
