# SPDX-License-Identifier: Apache-2.0
"""One emulated STS3215: its registers, and what reading and writing them means."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from chefmate_driver.feetech.packet import StatusBit
from chefmate_driver.feetech.plant import (
    MAX_ACCELERATION,
    MAX_SPEED,
    STALL_TORQUE,
    ServoDrive,
    ServoMeasurement,
    ServoPlant,
)
from chefmate_driver.feetech.registers import (
    ACCELERATION_UNIT,
    CURRENT_UNIT,
    MAX_POSITION,
    MODEL_STS3215,
    REGISTERS,
    STEPS_PER_TURN,
    TABLE_SIZE,
    VOLTAGE_UNIT,
    Area,
    register,
    speed_unit,
)

AMBIENT = 25.0  # degree Celsius
# Steady warming at stall, and how fast it is approached: a stalled STS3215 reaches its 70 degree limit in
# minutes.
STALL_WARMING = 60.0  # K
WARMING_TIME = 240.0  # s
IDLE_CURRENT = 0.02  # A
STALL_CURRENT = 2.7  # A at 12 V, data sheet
SUPPLY = 12.1  # V
SUPPLY_SAG = 0.4  # V at stall, plausible for a 12 V 5 A adapter and the bus cable
MOVING_SPEED = 0.02  # rad/s, above it the `moving` register reads 1
TORQUE_CENTRE = 128  # value of torque_enable that makes the present position 2048
RETURN_DELAY_UNIT = 2e-6  # s per count of register 7
PROTECTION_UNIT = 0.01  # s per count of register 35
JAM_STIFFNESS = 30.0  # N m per rad that a jammed servo pushes, up to its torque limit

# Power-up values that differ from 0, as LeRobot's set-up leaves an SO-ARM 101.
_DEFAULTS: dict[str, int] = {
    "firmware_major": 3,
    "firmware_minor": 10,
    "model_number": MODEL_STS3215,
    "response_level": 1,
    "max_position_limit": MAX_POSITION,
    "max_temperature": 70,
    "max_voltage": 140,
    "min_voltage": 40,
    "max_torque": 1000,
    "phase": 0x0C,
    "unloading_conditions": StatusBit.TEMPERATURE | StatusBit.CURRENT | StatusBit.OVERLOAD,
    "led_alarm": StatusBit.TEMPERATURE | StatusBit.CURRENT | StatusBit.OVERLOAD,
    "p_gain": 16,
    "d_gain": 32,
    "protection_current": 511,
    "angular_resolution": 1,
    "protective_torque": 20,
    "protection_time": 200,
    "overload_torque": 80,
    "over_current_time": 200,
    "lock": 1,
    "max_acceleration": 254,
}
_FEEDBACK = range(register("present_position").address, register("present_current").address + 2)
_DRIVE = frozenset(
    address
    for name in ("torque_enable", "acceleration", "goal_position", "goal_speed", "torque_limit")
    for address in range(register(name).address, register(name).address + register(name).size)
)
_WRITABLE = frozenset(
    address for r in REGISTERS.values() if r.writable for address in range(r.address, r.address + r.size)
)
_EEPROM = frozenset(
    address
    for r in REGISTERS.values()
    if r.area is Area.EEPROM
    for address in range(r.address, r.address + r.size)
)
_TORQUE, _LOCK = register("torque_enable").address, register("lock").address
_RETURN_DELAY = register("return_delay").address
_MAX_TEMPERATURE = register("max_temperature").address
_MAX_VOLTAGE, _MIN_VOLTAGE = register("max_voltage").address, register("min_voltage").address


class ServoJoint(Protocol):
    """What a servo turns, and how it was calibrated; `arm.units.JointUnits` is one."""

    @property
    def id(self) -> int: ...

    @property
    def homing_offset(self) -> int: ...

    @property
    def range_min(self) -> int: ...

    @property
    def range_max(self) -> int: ...

    @property
    def ticks_per_radian(self) -> float: ...

    def ticks(self, radians: float) -> float:
        """Calibrated position, not rounded."""
        ...

    def radians(self, ticks: float) -> float:
        """Joint angle of a calibrated position."""
        ...


class EmulatedServo:
    """Registers of one servo on one joint of a plant. The bus emulator serialises access."""

    def __init__(
        self, joint: ServoJoint, plant: ServoPlant, index: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`index`: the joint's place in the plant."""
        self.joint, self.index = joint, index
        self.temperature = AMBIENT  # degree Celsius
        self.faults = StatusBit(0)  # bits that a test sets, besides those that the servo finds itself
        self.latched = StatusBit(0)  # bits that stay until torque_enable is written
        self.supply = SUPPLY  # V
        self.powered = True  # False: answers nothing; see `power_off`
        # Whether pushing above overload_torque for protection_time latches an overload, as on the servo. A
        # plant without friction in its gears holds loads that a real servo would not, so only a jam has it.
        self.overload_protection = False
        self._jam: float | None = None  # rad, where the shaft is jammed
        self._pushing_since: float | None = None
        self._plant, self._clock = plant, clock
        self._memory = bytearray(TABLE_SIZE)
        for name, value in _DEFAULTS.items():
            self._store(name, value)
        self._store("id", joint.id)
        self._store("homing_offset", joint.homing_offset)
        self._store("min_position_limit", joint.range_min)
        self._store("max_position_limit", joint.range_max)
        self._eeprom = bytes(self._memory)
        self._pending: tuple[int, bytes] | None = None
        self._warmed = clock()
        self._sent: ServoDrive | None = None
        self.power_cycle()

    @property
    def id(self) -> int:
        """Bus id, register 5."""
        return self._memory[5]

    def get(self, name: str) -> int:
        """Present value of a register, decoded."""
        self._refresh()
        entry = register(name)
        return entry.decode(self._memory[entry.address : entry.address + entry.size])

    @property
    def return_delay(self) -> float:
        """s between an instruction packet and this servo's reply, register 7."""
        return self._memory[_RETURN_DELAY] * RETURN_DELAY_UNIT

    def set_return_delay(self, value: int) -> int:
        """Changes register 7 until the next power cycle; returns what it was."""
        before = self._memory[_RETURN_DELAY]
        self._memory[_RETURN_DELAY] = value
        return before

    def jam(self) -> None:
        """The shaft stays where it is from now on, and a goal elsewhere makes the motor push."""
        self._jam = self._plant.measure(self.index).position
        self._apply()

    def free(self) -> None:
        """Ends a jam."""
        self._jam = self._pushing_since = None
        self._apply()

    def overload(self) -> None:
        """Latches an overload: status bit and torque off until torque_enable is written."""
        self.latched |= StatusBit.OVERLOAD
        self._refresh()

    def power_off(self) -> None:
        """No supply: no answers, no torque."""
        self.power_cycle()
        self.powered = False

    def power_cycle(self) -> None:
        """Off and on again: torque off, EEPROM as last saved."""
        self.powered, self.latched, self._pushing_since = True, StatusBit(0), None
        self._pending = None
        self._memory[:] = self._eeprom
        self._store("torque_limit", self._load("max_torque"))
        measured = self._plant.measure(self.index)
        self._store("goal_position", self._present(measured.position))
        self._sent = None
        self._apply()

    def read(self, address: int, size: int) -> bytes:
        """Bytes as a READ returns them; zeros beyond the table."""
        if address < _FEEDBACK.stop and address + size > _FEEDBACK.start:
            self._refresh()
        return bytes(self._memory[address : address + size]).ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """A WRITE: read-only bytes stay, EEPROM bytes are kept over a power cycle only while unlocked."""
        touched = range(address, min(address + len(data), TABLE_SIZE))
        unlocked = self._memory[_LOCK] == 0
        saved = bytearray(self._eeprom)
        for place in touched:
            if place in _WRITABLE:
                self._memory[place] = data[place - address]
                if unlocked and place in _EEPROM:
                    saved[place] = data[place - address]
        self._eeprom = bytes(saved)
        if _TORQUE in touched:
            self.latched, self._pushing_since = StatusBit(0), None
        if self._memory[_TORQUE] == TORQUE_CENTRE:
            self._centre()
        if not _DRIVE.isdisjoint(touched):
            self._apply()

    def register_write(self, address: int, data: bytes) -> None:
        """A REG_WRITE: waits for `action`."""
        self._pending = (address, data)
        self._store("async_write_flag", 1)

    def action(self) -> None:
        """Executes a waiting REG_WRITE."""
        if self._pending is not None:
            address, data = self._pending
            self._pending = None
            self._store("async_write_flag", 0)
            self.write(address, data)

    @property
    def status(self) -> int:
        """Fault bits as the reply's error byte shows them."""
        found = self.faults | self.latched
        if self.temperature > self._memory[_MAX_TEMPERATURE]:
            found |= StatusBit.TEMPERATURE
        if not self._memory[_MIN_VOLTAGE] <= self.supply / VOLTAGE_UNIT <= self._memory[_MAX_VOLTAGE]:
            found |= StatusBit.VOLTAGE
        return int(found)

    def _store(self, name: str, value: int) -> None:
        entry = register(name)
        self._memory[entry.address : entry.address + entry.size] = entry.encode(value)

    def _load(self, name: str) -> int:
        entry = register(name)
        return entry.decode(self._memory[entry.address : entry.address + entry.size])

    def _present(self, radians: float) -> int:
        """Present position: the encoder's angle less the offset in EEPROM, within one turn."""
        actual = self.joint.ticks(radians) + self.joint.homing_offset
        return round(actual - self._load("homing_offset")) % STEPS_PER_TURN

    def _target(self) -> float:
        low, high = self._load("min_position_limit"), self._load("max_position_limit")
        goal = self._load("goal_position")
        if low < high:
            goal = max(low, min(high, goal))
        return self.joint.radians(goal + self._load("homing_offset") - self.joint.homing_offset)

    def _centre(self) -> None:
        present = self._present(self._plant.measure(self.index).position)
        self._store("homing_offset", max(-2047, min(2047, self._load("homing_offset") + present - 2048)))
        self._store("goal_position", 2048)
        self._memory[_TORQUE] = 0

    def _apply(self) -> None:
        """Tells the plant what the registers ask for, if that is news."""
        scale = abs(self.joint.ticks_per_radian)
        speed = abs(self._load("goal_speed")) * speed_unit(self._load("phase")) / scale
        acceleration = self._load("acceleration") * ACCELERATION_UNIT / scale
        command = ServoDrive(
            enabled=self._memory[_TORQUE] == 1,
            target=self._target() if self._jam is None else self._jam,
            speed=min(speed or MAX_SPEED, MAX_SPEED),
            acceleration=min(acceleration or MAX_ACCELERATION, MAX_ACCELERATION),
            torque_limit=min(self._load("torque_limit"), 1000) / 1000.0,
        )
        if command != self._sent:
            self._sent = command
            self._plant.drive(self.index, command)

    def _refresh(self) -> None:
        """Writes what the sensors see into registers 56 to 70."""
        measured = self._plant.measure(self.index)
        share = max(-1.0, min(1.0, self._torque(measured) / STALL_TORQUE))
        self._warm(share)
        self._protect(share)
        if self.status & self._load("unloading_conditions") and self._memory[_TORQUE]:
            self._memory[_TORQUE] = 0
            self._apply()
        unit = speed_unit(self._load("phase"))
        current = IDLE_CURRENT + STALL_CURRENT * abs(share)
        self._store("present_position", self._present(measured.position))
        self._store("present_speed", round(measured.velocity * self.joint.ticks_per_radian / unit))
        self._store("present_load", round(share * 1000.0))
        self._store("present_voltage", round((self.supply - SUPPLY_SAG * abs(share)) / VOLTAGE_UNIT))
        self._store("present_temperature", round(self.temperature))
        self._store("status", self.status)
        self._store("moving", int(abs(measured.velocity) > MOVING_SPEED))
        self._store("target_position", self._load("goal_position"))
        self._store("present_current", round(math.copysign(current, share) / CURRENT_UNIT))

    def _torque(self, measured: ServoMeasurement) -> float:
        """N m that the motor exerts; a jammed one pushes towards its goal."""
        if self._jam is None:
            return measured.torque
        if self._memory[_TORQUE] != 1:
            return 0.0
        limit = STALL_TORQUE * min(self._load("torque_limit"), 1000) / 1000.0
        return max(-limit, min(limit, JAM_STIFFNESS * (self._target() - measured.position)))

    def _protect(self, share: float) -> None:
        """Overload protection, registers 35 and 36."""
        if not (self.overload_protection or self._jam is not None):
            return
        if abs(share) * 100.0 < self._load("overload_torque"):
            self._pushing_since = None
            return
        now = self._clock()
        if self._pushing_since is None:
            self._pushing_since = now
        elif now - self._pushing_since >= self._load("protection_time") * PROTECTION_UNIT:
            self.latched |= StatusBit.OVERLOAD

    def _warm(self, share: float) -> None:
        now = self._clock()
        elapsed, self._warmed = now - self._warmed, now
        goal = AMBIENT + STALL_WARMING * share * share
        self.temperature += (goal - self.temperature) * (1.0 - math.exp(-elapsed / WARMING_TIME))
