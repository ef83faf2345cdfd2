# SPDX-License-Identifier: Apache-2.0
"""EEPROM of emulated servos as this arm should have it, or as a test wants it."""

from __future__ import annotations

from collections.abc import Mapping

from chefmate_driver.arm.settings import SETTINGS, ArmKind
from chefmate_driver.feetech.emulated_bus import ServoEmulator
from chefmate_driver.feetech.emulated_servo import EmulatedServo
from chefmate_driver.feetech.registers import register


def store(servo: EmulatedServo, values: Mapping[str, int]) -> None:
    """Puts values into an emulated servo's EEPROM, and switches its supply off and on."""
    servo.write(register("lock").address, b"\0")
    for name, value in values.items():
        entry = register(name)
        servo.write(entry.address, entry.encode(value))
    servo.write(register("lock").address, b"\1")
    servo.power_cycle()


def set_up(emulator: ServoEmulator, kind: ArmKind = ArmKind.FOLLOWER) -> None:
    """Gives all servos the settings of an arm of this kind."""
    for servo in emulator.servos:
        store(
            servo,
            {
                setting.register: setting.mended(servo.get(setting.register))
                for setting in SETTINGS
                if setting.writable
                and setting.register != "lock"
                and setting.concerns(servo.id, kind)
                and not setting.fits(servo.get(setting.register))
            },
        )
