# SPDX-License-Identifier: Apache-2.0
"""EEPROM is written only by who asks for it, and is locked again."""

from __future__ import annotations

import pytest

from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.errors import EepromError, RegisterError
from chefmate_driver.feetech.packet import Instruction, PacketParser
from chefmate_driver.feetech.registers import REGISTERS, Area

EEPROM = [entry.name for entry in REGISTERS.values() if entry.area is Area.EEPROM and entry.writable]


def writes(port: EmulatedPort) -> list[bytes]:
    """Parameters of the write packets that the port sees from now on."""
    seen: list[bytes] = []
    kinds, parser = (Instruction.WRITE, Instruction.SYNC_WRITE), PacketParser()

    def tap(_: float, data: bytes) -> None:
        seen.extend(packet.parameters for packet in parser.feed(data) if packet.code in kinds)

    port.tap = tap
    return seen


@pytest.mark.parametrize("name", EEPROM)
def test_no_eeprom_register_is_written_in_passing(bus: FeetechBus, port: EmulatedPort, name: str) -> None:
    seen = port.requests
    with pytest.raises(RegisterError, match=r"EEPROM, which only `arm calibrate`"):
        bus.write(1, name, 1)
    with pytest.raises(RegisterError, match="EEPROM"):
        bus.sync_write(name, {1: 1, 2: 1})
    assert port.requests == seen


def test_neither_a_block_nor_the_lock_gets_around_it(bus: FeetechBus, port: EmulatedPort) -> None:
    for address, data in ((39, b"\0\0"), (54, b"\0\0"), (55, b"\0")):
        with pytest.raises(RegisterError, match=r"EEPROM|unlocking"):
            bus.sync_write_block(address, {1: data})
    with pytest.raises(RegisterError, match="unlocking"):
        bus.write(1, "lock", 0)
    bus.write(1, "lock", 1)
    assert port.emulator.servos[0].get("lock") == 1


def test_inside_it_is_written_once_verified_and_locked(bus: FeetechBus, port: EmulatedPort) -> None:
    seen = writes(port)
    with bus.eeprom([3]):
        bus.write(3, "return_delay", 10)
        bus.write(3, "return_delay", 10)  # there already: no wear
        with pytest.raises(RegisterError, match="servo 4"):
            bus.write(4, "return_delay", 10)
    assert seen == [b"\x37\x01\x03\x00", b"\x07\x01\x03\x0a", b"\x37\x01\x03\x01"]
    with port.emulator.lock:
        port.emulator.servos[2].power_cycle()
    assert bus.read(3, "return_delay") == 10
    with pytest.raises(RegisterError):
        bus.write(3, "return_delay", 0)


def test_it_locks_again_when_something_fails_inside(bus: FeetechBus) -> None:
    with pytest.raises(ZeroDivisionError), bus.eeprom([1, 2]):
        assert bus.sync_read("lock", [1, 2, 3]) == {1: 0, 2: 0, 3: 1}
        raise ZeroDivisionError
    assert bus.sync_read("lock", [1, 2, 3]) == {1: 1, 2: 1, 3: 1}


def test_a_servo_that_confirms_no_writes_can_be_mended(bus: FeetechBus, port: EmulatedPort) -> None:
    with port.emulator.lock:
        port.emulator.servos[3]._store("response_level", 0)
    with bus.eeprom([4]):
        bus.write(4, "response_level", 1)
    assert bus.sync_read("lock", [4]) == {4: 1}
    bus.write(4, "acceleration", 50)


def test_it_is_refused_while_torque_holds(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.write(2, "torque_enable", 1)
    seen = writes(port)
    with pytest.raises(EepromError, match=r"servo 2 holds torque; switch torque off"), bus.eeprom([1, 2]):
        pytest.fail("entered")
    assert seen == []


def test_a_value_that_the_servo_does_not_keep_is_named(bus: FeetechBus, port: EmulatedPort) -> None:
    servo = port.emulator.servos[0]
    keep = servo.write
    servo.write = lambda address, data: None if address == 13 else keep(address, data)  # type: ignore[method-assign]
    with (
        pytest.raises(EepromError, match=r"servo 1 did not keep max_temperature .* 60 written, 70 read back"),
        bus.eeprom([1]),
    ):
        bus.write(1, "max_temperature", 60)
    assert bus.read(1, "lock") == 1


def test_a_changed_id_is_verified_and_locked_under_the_new_one(bus: FeetechBus, port: EmulatedPort) -> None:
    with bus.eeprom([6]):
        bus.write(6, "id", 9)
    assert bus.read(9, "lock") == 1
    with port.emulator.lock:
        port.emulator.servos[5].power_cycle()
    bus.reply_timeout = 0.05
    assert bus.scan([6, 9]) == [9]


def test_a_lock_that_fails_is_said(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.reply_timeout = 0.02
    with pytest.raises(EepromError, match="EEPROM of servo 4 may still be unlocked"), bus.eeprom([4, 5]):
        port.emulator.faults.silent = {4}
    port.emulator.faults.silent = set()
    bus.reply_timeout = 0.5
    assert bus.read(5, "lock") == 1
