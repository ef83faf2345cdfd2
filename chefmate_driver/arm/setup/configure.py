# SPDX-License-Identifier: Apache-2.0
"""Bringing the servos' settings in line with the table of `arm.settings`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chefmate_driver.arm.settings import ArmKind, Difference, compare, read_settings, wanted_values
from chefmate_driver.arm.setup.eeprom import Values, write_values
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.errors import EepromError


@dataclass(frozen=True, slots=True)
class Plan:
    """What differs, and what would be written for it."""

    differences: list[Difference]
    values: Values

    @property
    def left(self) -> list[Difference]:
        """Differences that writing does not mend."""
        return [difference for difference in self.differences if not difference.writable]

    @property
    def unlocked(self) -> list[int]:
        """Servos whose EEPROM is open; it is locked along with any writing, or by `lock`."""
        return [difference.servo for difference in self.differences if difference.register == "lock"]


def plan(bus: FeetechBus, ids: Sequence[int], kind: ArmKind) -> Plan:
    """Reads the settings and says what to do. ServoMissingError, BusLostError."""
    found = read_settings(bus, ids)
    differences = compare(found, kind, bus.port)
    return Plan(differences, wanted_values(differences, found))


def configure(
    bus: FeetechBus, ids: Sequence[int], kind: ArmKind, wanted: Plan, command: str
) -> list[Difference]:
    """Writes a plan into limp servos, all of it or nothing, and locks them; returns what is left.

    Raises as `write_values` does.
    """

    def verify() -> None:
        left = [difference for difference in plan(bus, ids, kind).differences if difference.writable]
        if left:
            raise EepromError("; ".join(map(str, left)))

    if wanted.unlocked:
        bus.sync_write("lock", dict.fromkeys(wanted.unlocked, 1))
    if wanted.values:
        write_values(bus, wanted.values, command, verify)
    return plan(bus, ids, kind).differences
