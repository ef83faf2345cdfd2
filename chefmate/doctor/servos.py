# SPDX-License-Identifier: Apache-2.0
"""The servos behind a port: do they answer, are they calibrated, is it this arm's calibration? Only reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chefmate.doctor.finding import Finding, Level, Machine, error, info, ok, warning
from chefmate.doctor.ports import ports_to_probe
from chefmate_driver.arm.calibration import (
    calibration_folders,
    compare_calibration,
    find_calibration,
    read_calibration,
)
from chefmate_driver.arm.errors import CalibrationError
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.settings import ArmKind, Difference, Severity, compare_settings, follower_kind
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.errors import BusPortBusyError, FeetechError, PortNotFoundError
from chefmate_driver.feetech.registers import VOLTAGE_UNIT

IDS = range(1, len(JOINT_NAMES) + 1)
REPLY_TIMEOUT = 0.02  # s
OUR_NODES = ("arm_node", "chefmate_driver.arm.node", "teleop_node", "chefmate_driver.teleop.node")
LEVELS = {Severity.ERROR: Level.ERROR, Severity.WARNING: Level.WARNING, Severity.NOTE: Level.INFO}
CALIBRATE = "run: chefmate arm calibrate"


def check_calibration(machine: Machine) -> Iterator[Finding]:
    """Calibration files: are there any, and can they be read?"""
    wanted = ((machine.calibration, machine.port, False), (machine.leader_calibration, machine.leader, True))
    for name, port, leader in wanted:
        whose = "leader" if leader else "follower"
        if name:
            try:
                path = find_calibration(name, leader=leader)
                read_calibration(path)
                yield ok("calibration", f"{whose}: {path}")
            except CalibrationError as problem:
                yield error("calibration", f"{whose}: {problem}", CALIBRATE)
            continue
        if leader and not port:
            continue
        files = calibration_files(leader)
        for path in files:
            try:
                read_calibration(path)
                yield ok("calibration", f"{whose}: {path}")
            except CalibrationError as problem:
                yield error("calibration", str(problem), CALIBRATE)
        if not files:
            looked = ", ".join(map(str, calibration_folders(leader=leader)))
            text = f"no calibration of a {whose} (looked in {looked})"
            if any(is_leader == leader for _, is_leader in ports_to_probe(machine)):
                yield error("calibration", text, CALIBRATE)
            else:
                yield info("calibration", f"{text}; the twin has its own", CALIBRATE)


def calibration_files(leader: bool) -> list[Path]:
    """LeRobot's calibration files on this machine."""
    return [path for folder in calibration_folders(leader=leader) for path in sorted(folder.glob("*.json"))]


def check_servos(machine: Machine) -> Iterator[Finding]:
    """Looks into each servo bus that can be opened."""
    for port, leader in ports_to_probe(machine):
        try:
            with FeetechBus(port, reply_timeout=REPLY_TIMEOUT) as bus:
                yield from _adapter(bus)
                yield from _servos(machine, bus, leader)
        except PortNotFoundError:
            continue  # said by check_ports
        except BusPortBusyError as problem:
            if any(node in str(problem) for node in OUR_NODES):
                yield ok(
                    "servos", f"{problem}".split(";")[0] + " (chefmate itself; see chefmate arm monitor)"
                )
            else:
                yield error("servos", str(problem), "end that process (its number is named), then try again")
        except FeetechError as problem:
            yield error("servos", str(problem), "run: chefmate arm scan")


def _adapter(bus: FeetechBus) -> Iterator[Finding]:
    latency = bus.latency
    text, _, mend = latency.text.partition("; run: ")
    if latency.slow:
        yield warning("adapter", text, f"run: {mend}" if mend else "")
    else:
        yield ok("adapter", text)


def _servos(machine: Machine, bus: FeetechBus, leader: bool) -> Iterator[Finding]:
    present = bus.scan(list(IDS))
    if not present:
        yield error(
            "servos", f"{bus.port}: no servo answers on ids 1..6", "check the servo supply; chefmate arm scan"
        )
        return
    if missing := [id for id in IDS if id not in present]:
        names = ", ".join(f"{id} ({JOINT_NAMES[id - 1]})" for id in missing)
        yield error(
            "servos", f"{bus.port}: no answer from servo {names}", "check the cables; chefmate arm scan"
        )
        return
    yield ok("servos", f"{bus.port}: all six servos answer")
    yield from _match(machine, bus, leader)
    yield from _settings(bus, leader)


def _settings(bus: FeetechBus, leader: bool) -> Iterator[Finding]:
    """Registers that are not as this arm's should be, one finding for each register and reason."""
    volts = max(bus.sync_read("present_voltage", list(IDS)).values()) * VOLTAGE_UNIT
    kind = ArmKind.LEADER if leader else follower_kind(volts)
    by_cause: dict[tuple[str, str], list[Difference]] = {}
    for difference in compare_settings(bus, list(IDS), kind):
        by_cause.setdefault((difference.register, difference.why), []).append(difference)
    for (name, why), found in by_cause.items():
        servos = ", ".join(f"{each.servo} has {each.found}, should be {each.expected}" for each in found)
        level = LEVELS[found[0].severity]
        yield Finding(
            "settings", level, f"{bus.port}: {name} of servo {servos}: {why}", f"run: {found[0].mend}"
        )
    if not by_cause:
        yield ok("settings", f"{bus.port}: all registers are as a {kind.value}'s should be")


def _match(machine: Machine, bus: FeetechBus, leader: bool) -> Iterator[Finding]:
    """Which calibration the servos hold."""
    name = machine.leader_calibration if leader else machine.calibration
    try:
        paths = [find_calibration(name, leader=leader)] if name else calibration_files(leader)
    except CalibrationError:
        return  # said by check_calibration
    compared = []
    for path in paths:
        try:
            compared.append((path, list(map(str, compare_calibration(bus, read_calibration(path))))))
        except CalibrationError:
            continue  # said by check_calibration
    if fitting := [path for path, wrong in compared if not wrong]:
        yield ok("calibration", f"{bus.port}: its servos hold {fitting[0]}")
        return
    for path, wrong in compared:
        yield error(
            "calibration",
            f"{bus.port} does not hold {path}: {'; '.join(wrong)}",
            f"name another file, or {CALIBRATE}",
        )
