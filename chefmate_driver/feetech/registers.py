# SPDX-License-Identifier: Apache-2.0
"""Control table of the STS3215 as data.

Signed registers are sign-magnitude with the sign in the bit that the table names, not two's complement.
Sources: Feetech STS3215 memory table; sign bits as LeRobot's and the vendor SDK's drivers decode them.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from chefmate_driver.feetech.errors import RegisterError

MODEL_STS3215 = 777
STEPS_PER_TURN = 4096
MAX_POSITION = 4095  # ticks, in single-turn mode
RADIANS_PER_STEP = 2.0 * math.pi / STEPS_PER_TURN
PHASE_FINE_SPEED = 0b100  # bit 2 of `phase`: speeds count 1 step/s, else 50 step/s
PHASE_MULTI_TURN = 0b1_0000  # bit 4 of `phase`: positions count on over several turns
COARSE_SPEED = 50.0  # step/s per count
ACCELERATION_UNIT = 100.0  # step/s^2 per count
CURRENT_UNIT = 0.0065  # A per count
VOLTAGE_UNIT = 0.1  # V per count
LOAD_UNIT = 0.001  # share of full PWM duty per count


# Codes of `baud_rate` on which all sources agree.
BAUD_RATES = {0: 1_000_000, 1: 500_000, 2: 250_000, 3: 128_000, 4: 115_200}


class Area(Enum):
    """Where a register lives; EEPROM wears out and is for set-up only."""

    EEPROM = "eeprom"
    SRAM = "sram"


@dataclass(frozen=True, slots=True)
class Register:
    """One entry of the control table."""

    name: str
    address: int
    size: int  # bytes
    area: Area
    writable: bool
    sign_bit: int | None = None

    def encode(self, value: int) -> bytes:
        """Value as wire bytes. RegisterError if it does not fit."""
        magnitude = abs(value)
        limit = (1 << (self.sign_bit if self.sign_bit is not None else 8 * self.size)) - 1
        if magnitude > limit or (value < 0 and self.sign_bit is None):
            low = -limit if self.sign_bit is not None else 0
            raise RegisterError(
                f"{self.name} (register {self.address}) cannot hold {value}: it takes {low}..{limit}"
            )
        if value < 0 and self.sign_bit is not None:
            magnitude |= 1 << self.sign_bit
        return magnitude.to_bytes(self.size, "little")

    def decode(self, data: bytes | bytearray) -> int:
        """Wire bytes as a value."""
        raw = int.from_bytes(data[: self.size], "little")
        if self.sign_bit is None:
            return raw
        sign = 1 << self.sign_bit
        magnitude = raw & (sign - 1)
        return -magnitude if raw & sign else magnitude


_E, _S = Area.EEPROM, Area.SRAM
_ROWS: tuple[tuple[str, int, int, Area, bool, int | None], ...] = (
    # name, address, bytes, area, writable, sign bit
    ("firmware_major", 0, 1, _E, False, None),
    ("firmware_minor", 1, 1, _E, False, None),
    ("model_number", 3, 2, _E, False, None),
    ("id", 5, 1, _E, True, None),
    ("baud_rate", 6, 1, _E, True, None),  # code 0 = 1 Mbit/s; sources disagree on the others
    ("return_delay", 7, 1, _E, True, None),  # 2 us
    ("response_level", 8, 1, _E, True, None),  # 0: answers reads and pings only
    ("min_position_limit", 9, 2, _E, True, None),  # ticks
    ("max_position_limit", 11, 2, _E, True, None),  # ticks
    ("max_temperature", 13, 1, _E, True, None),  # degree Celsius
    ("max_voltage", 14, 1, _E, True, None),  # 0.1 V
    ("min_voltage", 15, 1, _E, True, None),  # 0.1 V
    ("max_torque", 16, 2, _E, True, None),  # 0.1 %, copied to torque_limit at power-up
    ("phase", 18, 1, _E, True, None),
    ("unloading_conditions", 19, 1, _E, True, None),  # bits as StatusBit
    ("led_alarm", 20, 1, _E, True, None),  # bits as StatusBit
    ("p_gain", 21, 1, _E, True, None),
    ("d_gain", 22, 1, _E, True, None),
    ("i_gain", 23, 1, _E, True, None),
    ("min_startup_force", 24, 2, _E, True, None),  # 0.1 %
    ("cw_dead_zone", 26, 1, _E, True, None),  # ticks
    ("ccw_dead_zone", 27, 1, _E, True, None),  # ticks
    ("protection_current", 28, 2, _E, True, None),  # 6.5 mA
    ("angular_resolution", 30, 1, _E, True, None),
    ("homing_offset", 31, 2, _E, True, 11),  # ticks; present = actual - offset
    ("mode", 33, 1, _E, True, None),  # 0: position
    ("protective_torque", 34, 1, _E, True, None),  # %
    ("protection_time", 35, 1, _E, True, None),  # 10 ms
    ("overload_torque", 36, 1, _E, True, None),  # %
    ("velocity_p_gain", 37, 1, _E, True, None),
    ("over_current_time", 38, 1, _E, True, None),  # 10 ms
    ("velocity_i_gain", 39, 1, _E, True, None),
    ("torque_enable", 40, 1, _S, True, None),  # 0 off, 1 on, 128: here is 2048
    ("acceleration", 41, 1, _S, True, None),  # 100 step/s^2, 0 = maximum
    ("goal_position", 42, 2, _S, True, 15),  # ticks
    ("goal_time", 44, 2, _S, True, None),  # ms
    ("goal_speed", 46, 2, _S, True, 15),  # unit by phase bit 2, 0 = maximum
    ("torque_limit", 48, 2, _S, True, None),  # 0.1 %
    ("lock", 55, 1, _S, True, None),  # 0: EEPROM writes are kept
    ("present_position", 56, 2, _S, False, 15),  # ticks
    ("present_speed", 58, 2, _S, False, 15),  # unit by phase bit 2
    ("present_load", 60, 2, _S, False, 10),  # 0.1 % of full PWM duty
    ("present_voltage", 62, 1, _S, False, None),  # 0.1 V
    ("present_temperature", 63, 1, _S, False, None),  # degree Celsius
    ("async_write_flag", 64, 1, _S, False, None),
    ("status", 65, 1, _S, False, None),  # bits as StatusBit
    ("moving", 66, 1, _S, False, None),
    ("target_position", 67, 2, _S, False, 15),  # ticks
    ("present_current", 69, 2, _S, False, 15),  # 6.5 mA
    ("moving_threshold", 80, 1, _S, True, None),  # unit by phase bit 2
    ("max_speed", 84, 1, _S, True, None),
    ("max_acceleration", 85, 1, _S, True, None),  # 100 step/s^2
    ("acceleration_multiplier", 86, 1, _S, True, None),
)

REGISTERS: dict[str, Register] = {row[0]: Register(*row) for row in _ROWS}
RAM_ADDRESS = 40  # the first register that is no EEPROM
TABLE_SIZE = 96  # bytes that the emulator keeps; nothing above is documented

# Everything that changes while a servo runs, in one read: registers 56 to 70.
FEEDBACK_ADDRESS = 56
FEEDBACK_SIZE = 15


def register(name: str) -> Register:
    """A register by name. RegisterError if there is none."""
    try:
        return REGISTERS[name]
    except KeyError:
        raise RegisterError(f"the STS3215 has no register named {name!r}") from None


class Feedback(NamedTuple):
    """Registers 56 to 70 of one servo, decoded and still in the servo's counts."""

    position: int  # ticks
    speed: int  # counts, see speed_unit
    load: int  # 0.1 % of full PWM duty
    voltage: int  # 0.1 V
    temperature: int  # degree Celsius
    status: int  # bits as StatusBit
    moving: bool
    current: int  # 6.5 mA


# position, speed, load, voltage, temperature, async_write_flag, status, moving, target_position, current
_FEEDBACK = struct.Struct("<HHHBBBBBHH")


def decode_feedback(block: bytes) -> Feedback:
    """Decodes the 15 bytes from register 56; written out because it runs six times a cycle."""
    if len(block) != FEEDBACK_SIZE:
        raise RegisterError(f"a feedback block has {FEEDBACK_SIZE} bytes, got {len(block)}")
    position, speed, load, voltage, temperature, _, status, moving, _, current = _FEEDBACK.unpack(block)
    return Feedback(
        -(position & 0x7FFF) if position & 0x8000 else position,
        -(speed & 0x7FFF) if speed & 0x8000 else speed,
        -(load & 0x3FF) if load & 0x400 else load & 0x3FF,
        voltage,
        temperature,
        status,
        bool(moving),
        -(current & 0x7FFF) if current & 0x8000 else current,
    )


def within_one_turn(ticks: int) -> bool:
    """Whether a servo that counts within one turn (bit 4 of `phase` clear) can be at a position."""
    return 0 <= ticks <= MAX_POSITION


def speed_unit(phase: int) -> float:
    """step/s per count of the speed registers, from the `phase` register."""
    return 1.0 if phase & PHASE_FINE_SPEED else COARSE_SPEED
