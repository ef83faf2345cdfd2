# SPDX-License-Identifier: Apache-2.0
"""Which servos are on a bus, and changing a servo's id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.settings import joint_of
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.errors import BusProtocolError, ServoMissingError
from chefmate_driver.feetech.packet import MAX_ID, status_text
from chefmate_driver.feetech.registers import BAUD_RATES, MODEL_STS3215, VOLTAGE_UNIT

ALL_IDS = range(MAX_ID + 1)
STANDARD_IDS = range(1, len(JOINT_NAMES) + 1)
PATIENT = 5.0  # times the reply timeout, for ids that have answered too late


@dataclass(frozen=True, slots=True)
class FoundServo:
    """A servo that answered, and what it is. Numbers are None where its registers could not be read."""

    baud: int
    id: int
    joint: str  # by its id; empty where the arm has no such servo
    duplicate: bool  # two servos have this id
    model: int | None
    firmware: str
    voltage: float | None  # V
    temperature: int | None  # degree Celsius
    torque: bool | None
    status: str  # names of the status bits that are set

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def scan(
    bus: FeetechBus, ids: Iterable[int] = ALL_IDS, look: Callable[[int], None] = lambda id: None
) -> list[FoundServo]:
    """Every servo that answers at the bus's baud rate; a silent id costs one reply timeout.

    `look` is called with each id before it is asked. Ids that answer too late are asked again, with more
    patience. BusLostError.
    """
    asked = list(ids)
    before = bus.late_replies(asked)
    found = {}
    for id in asked:
        look(id)
        if servo := _look_for(bus, id):
            found[id] = servo
    late = bus.late_replies(asked, bus.reply_timeout)
    timeout = bus.reply_timeout
    bus.reply_timeout = PATIENT * timeout
    try:
        for id in asked:
            if id not in found and late[id] > before[id] and (servo := _look_for(bus, id)):
                found[id] = servo
    finally:
        bus.reply_timeout = timeout
    return [found[id] for id in asked if id in found]


def _look_for(bus: FeetechBus, id: int) -> FoundServo | None:
    probe = bus.probe(id)
    return _describe(bus, id, probe.duplicate) if probe.present else None


def _describe(bus: FeetechBus, id: int, duplicate: bool) -> FoundServo:
    values: dict[str, int] = {}
    try:
        for name in (
            "model_number",
            "firmware_major",
            "firmware_minor",
            "present_voltage",
            "present_temperature",
            "torque_enable",
        ):
            values[name] = bus.read(id, name)
    except (ServoMissingError, BusProtocolError):
        pass  # two servos of one id, or another device: what is known is shown
    known = "firmware_minor" in values
    voltage = values.get("present_voltage")
    torque = values.get("torque_enable")
    return FoundServo(
        bus.baudrate,
        id,
        joint_of(id),
        duplicate,
        values.get("model_number"),
        f"{values['firmware_major']}.{values['firmware_minor']}" if known else "",
        None if voltage is None else round(voltage * VOLTAGE_UNIT, 1),
        values.get("present_temperature"),
        None if torque is None else torque == 1,
        status_text(bus.status.get(id, 0)),
    )


def scan_problems(found: Sequence[FoundServo], port: str) -> list[str]:
    """What is wrong with the servos of one port for an SO-ARM 101, with the command that mends it."""
    if not found:
        rates = ", ".join(map(str, BAUD_RATES.values()))
        return [
            f"{port}: no servo answers: check the servo supply and the cable, or try other baud rates "
            f"({rates}) with `chefmate arm scan --port {port} --baud all`"
        ]
    problems = []
    for servo in found:
        if servo.duplicate:
            problems.append(
                f"two servos have id {servo.id}: leave only one of them on the cable, then "
                f"`chefmate arm scan --port {port} --set-id {servo.id} NEW`"
            )
        elif servo.model is None:
            problems.append(f"servo {servo.id} answers pings and cannot be read: is it a Feetech STS3215?")
        elif servo.model != MODEL_STS3215:
            problems.append(f"servo {servo.id} is model {servo.model}, not an STS3215 ({MODEL_STS3215})")
        if servo.id not in STANDARD_IDS:
            problems.append(
                f"servo {servo.id}: the arm's ids are 1 ({JOINT_NAMES[0]}) to {STANDARD_IDS[-1]} "
                f"({JOINT_NAMES[-1]}): `chefmate arm scan --port {port} --set-id {servo.id} NEW`"
            )
        if servo.baud != BAUD_RATES[0]:
            problems.append(f"servo {servo.id} talks at {servo.baud} baud, the arm at {BAUD_RATES[0]}")
    present = {servo.id for servo in found}
    missing = [id for id in STANDARD_IDS if id not in present]
    if missing and len(found) > 1:  # one servo alone is being given its id
        names = ", ".join(f"{id} ({joint_of(id)})" for id in missing)
        problems.append(f"no servo {names}: check the cable that leads there, and its supply")
    return problems


def set_id(bus: FeetechBus, old: int, new: int) -> None:
    """Changes the id of one limp servo in its EEPROM and verifies it.

    Raises ArmError if the change is impossible or ambiguous, EepromError, FeetechError.
    """
    check_new_id(bus, old, new)
    with bus.eeprom([old]):
        bus.write(old, "id", new)
    if not bus.probe(new).present or bus.probe(old).present:
        raise ArmError(f"{bus.port}: the servo does not answer as {new} alone; scan the bus again")


def check_new_id(bus: FeetechBus, old: int, new: int) -> None:
    """ArmError if `old` cannot become `new`: values, a missing servo, two servos of one id."""
    for id in (old, new):
        if not 0 <= id <= MAX_ID:
            raise ArmError(f"{id} is no servo id: they are 0..{MAX_ID}")
    if old == new:
        raise ArmError(f"the servo has id {old} already")
    probe = bus.probe(old)
    if not probe.present:
        raise ArmError(
            f"{bus.port}: no servo has id {old}; `chefmate arm scan --port {bus.port}` shows who is there"
        )
    if probe.duplicate:
        raise ArmError(
            f"{bus.port}: two servos have id {old}, and both would become {new}: leave only one of them on "
            "the cable"
        )
    if bus.probe(new).present:
        raise ArmError(f"{bus.port}: another servo has id {new} already; give that one another id first")
