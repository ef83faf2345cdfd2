# SPDX-License-Identifier: Apache-2.0
"""What the servos of this arm should have in their EEPROM apart from the calibration, and what they have.

Sources: Feetech's STS3215 memory table (factory values), LeRobot's SOFollower.configure and
FeetechMotorsBus.configure_motors (gains, return delay, gripper, single turn).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from chefmate_driver.arm.model import GRIPPER, JOINT_NAMES
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.errors import ServoMissingError
from chefmate_driver.feetech.packet import StatusBit
from chefmate_driver.feetech.registers import (
    MODEL_STS3215,
    PHASE_FINE_SPEED,
    PHASE_MULTI_TURN,
    RAM_ADDRESS,
    register,
)

GRIPPER_ID = GRIPPER + 1  # the SO-ARM's servos are numbered in joint order
LOW_VOLTAGE = 9.0  # V; servos of the 7.4 V class are fed with less, those of the 12 V class with more
PHASE_REVERSED = 0b1000_0001  # bits 0 and 7 of `phase`: drive and feedback turned round
PHASE_ZERO_IS_FULL_SPEED = 0b1000  # bit 3 of `phase`


class ArmKind(Enum):
    """Which arm a bus belongs to: a follower drives, a leader is led by hand."""

    FOLLOWER = "follower"  # 12 V servos
    FOLLOWER_LOW_VOLTAGE = "follower-7.4v"
    LEADER = "leader"  # 7.4 V servos with lighter gears

    @property
    def low_voltage(self) -> bool:
        """True where the servos are of the 7.4 V class."""
        return self is not ArmKind.FOLLOWER


def follower_kind(supply_voltage: float) -> ArmKind:
    """A follower by the nominal voltage of its supply."""
    return ArmKind.FOLLOWER if supply_voltage > LOW_VOLTAGE else ArmKind.FOLLOWER_LOW_VOLTAGE


class Severity(Enum):
    """How much a difference matters."""

    ERROR = "error"  # the arm must not move like this: angles, direction or mode are wrong
    WARNING = "warning"  # it works, with less protection or at a lower rate
    NOTE = "note"  # worth knowing


class Group(Enum):
    """Which servos and arms a setting is for."""

    ALL = "all"
    DRIVEN = "driven"  # all servos of a follower
    BODY = "body"  # of a follower, without its gripper
    GRIPPER = "gripper"  # of a follower

    def concerns(self, id: int, kind: ArmKind) -> bool:
        """Whether servo `id` of an arm of this kind is meant."""
        if self is Group.ALL:
            return True
        if kind is ArmKind.LEADER:
            return False
        return self is Group.DRIVEN or (id == GRIPPER_ID) == (self is Group.GRIPPER)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a register should hold."""

    register: str
    wanted: int
    severity: Severity
    why: str  # what happens otherwise
    group: Group = Group.ALL
    mask: int = 0xFFFF  # bits that matter
    accepted: tuple[int, int] | None = None  # least and most that is as good as `wanted`
    writable: bool = True  # False: only reported, since writing it would mend nothing or do harm
    mend: str = ""  # where it is not `chefmate arm configure`
    kinds: frozenset[ArmKind] = frozenset(ArmKind)

    def concerns(self, id: int, kind: ArmKind) -> bool:
        """Whether servo `id` of an arm of this kind should have it."""
        return kind in self.kinds and self.group.concerns(id, kind)

    def fits(self, found: int) -> bool:
        """Whether a register's value will do."""
        if self.accepted is not None:
            return self.accepted[0] <= found <= self.accepted[1]
        return found & self.mask == self.wanted & self.mask

    def mended(self, found: int) -> int:
        """What `configure` writes in place of `found`: bits that do not matter stay."""
        return found & ~self.mask | self.wanted & self.mask


_12V = frozenset((ArmKind.FOLLOWER,))
_7V4 = frozenset(kind for kind in ArmKind if kind.low_voltage)
_UNLOAD = StatusBit.TEMPERATURE | StatusBit.CURRENT | StatusBit.OVERLOAD
E, W, N = Severity.ERROR, Severity.WARNING, Severity.NOTE

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "model_number",
        MODEL_STS3215,
        E,
        "other servos have other registers",
        writable=False,
        mend="replace the servo by an STS3215",
    ),
    Setting("mode", 0, E, "it is no position servo: goal positions do not move it, or without end"),
    Setting(
        "phase",
        0,
        E,
        "it counts positions over several turns, which a calibration does not know",
        mask=PHASE_MULTI_TURN,
    ),
    Setting(
        "phase",
        0,
        E,
        "its direction is reversed: the joint turns the other way than model and dataset say",
        mask=PHASE_REVERSED,
        writable=False,
        mend="clear bits 0 and 7 together with Feetech's own tool, then: chefmate arm calibrate",
    ),
    Setting(
        "phase",
        PHASE_ZERO_IS_FULL_SPEED,
        E,
        "a goal speed of 0 means stop, so it holds and never moves",
        mask=PHASE_ZERO_IS_FULL_SPEED,
        group=Group.DRIVEN,
    ),
    Setting(
        "phase",
        PHASE_FINE_SPEED,
        N,
        "speeds are reported in steps of 50 ticks/s instead of 1",
        mask=PHASE_FINE_SPEED,
    ),
    Setting("angular_resolution", 1, E, "its positions have another scale"),
    Setting("response_level", 1, E, "it does not confirm writes, so none can be verified"),
    Setting("return_delay", 0, W, "each reply waits 2 us times this value: the control rate sinks"),
    Setting(
        "max_voltage",
        140,
        E,
        "it is a 7.4 V servo on an arm with a 12 V supply, which destroys it",
        accepted=(120, 160),
        kinds=_12V,
        writable=False,
        mend="use a supply of 5 to 7.4 V (and --kind follower-7.4v), or 12 V servos",
    ),
    Setting(
        "max_voltage",
        80,
        N,
        "it takes more than a 7.4 V servo: a 12 V one is weak at this supply",
        accepted=(70, 100),
        kinds=_7V4,
        writable=False,
        mend="nothing if the arm is strong enough; a 12 V arm is checked with --kind follower",
    ),
    Setting("min_voltage", 40, N, "its under-voltage alarm comes early or never", accepted=(35, 60)),
    Setting("max_temperature", 70, W, "it protects itself from heat too late", accepted=(50, 70)),
    Setting(
        "unloading_conditions",
        _UNLOAD,
        W,
        "it does not switch off at overheating, over-current or overload",
        mask=_UNLOAD,
    ),
    Setting("p_gain", 16, W, "the arm shakes, and moves other than in LeRobot's datasets", Group.DRIVEN),
    Setting("i_gain", 0, W, "the arm moves other than in LeRobot's datasets", Group.DRIVEN),
    Setting("d_gain", 32, W, "the arm moves other than in LeRobot's datasets", Group.DRIVEN),
    Setting("max_torque", 1000, W, "the joint is weaker than this arm needs", Group.BODY),
    Setting("max_torque", 500, W, "the gripper squeezes until its motor burns", Group.GRIPPER),
    Setting(
        "protection_current",
        511,
        W,
        "it protects itself from too much current too early or too late",
        Group.BODY,
        accepted=(400, 511),
    ),
    Setting("protection_current", 250, W, "the gripper squeezes until its motor burns", Group.GRIPPER),
    Setting("overload_torque", 80, W, "overload is found too early or too late", Group.BODY),
    Setting("overload_torque", 25, W, "the gripper squeezes until its motor burns", Group.GRIPPER),
    Setting("protective_torque", 20, W, "it pushes on with more after an overload", accepted=(0, 20)),
    Setting("protection_time", 200, W, "overload is found too late", Group.DRIVEN, accepted=(50, 200)),
    Setting(
        "over_current_time", 200, N, "too much current is found too late", Group.DRIVEN, accepted=(1, 200)
    ),
    Setting("lock", 1, N, "whatever writes a register by mistake wears and changes its EEPROM"),
)
# One read of the EEPROM tells all of them but the lock.
_EEPROM_SIZE = RAM_ADDRESS


@dataclass(frozen=True, slots=True)
class Difference:
    """A servo's register that is not as it should be."""

    servo: int
    joint: str  # by the servo's id; empty where the arm has no such servo
    register: str
    found: int
    expected: int
    severity: Severity
    why: str
    mend: str  # what to do about it, most often a command
    writable: bool  # whether `chefmate arm configure` writes `expected`

    def __str__(self) -> str:
        who = f"servo {self.servo}" + (f" ({self.joint})" if self.joint else "")
        return f"{who}: {self.register} is {self.found}, should be {self.expected}: {self.why}; {self.mend}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "severity": self.severity.value}


def joint_of(id: int) -> str:
    """Joint name of a servo id as this arm numbers them; empty for other ids."""
    return JOINT_NAMES[id - 1] if 1 <= id <= len(JOINT_NAMES) else ""


def configure_command(port: str, kind: ArmKind) -> str:
    """The command that writes the settings of this table."""
    option = "" if kind is ArmKind.FOLLOWER else f" --kind {kind.value}"
    return f"chefmate arm configure --port {port}{option}"


def read_settings(bus: FeetechBus, ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """All registers that SETTINGS names, by servo id. ServoMissingError, BusLostError."""
    blocks = bus.sync_read_block(0, _EEPROM_SIZE, ids, patient=True)
    if missing := [str(id) for id in ids if id not in blocks]:
        raise ServoMissingError(f"{bus.port}: no answer from servo {', '.join(missing)}")
    locks = bus.sync_read("lock", ids)
    names = {setting.register for setting in SETTINGS} - {"lock"}
    entries = [register(name) for name in names]
    return {
        id: {entry.name: entry.decode(blocks[id][entry.address :]) for entry in entries} | {"lock": locks[id]}
        for id in ids
    }


def compare(found: Mapping[int, Mapping[str, int]], kind: ArmKind, port: str = "PORT") -> list[Difference]:
    """What differs between registers that were read and what an arm of this kind should have."""
    mend = configure_command(port, kind)
    return [
        Difference(
            id,
            joint_of(id),
            setting.register,
            values[setting.register],
            setting.mended(values[setting.register]) if setting.writable else setting.wanted,
            setting.severity,
            setting.why,
            setting.mend or mend,
            setting.writable,
        )
        for id, values in found.items()
        for setting in SETTINGS
        if setting.concerns(id, kind) and not setting.fits(values[setting.register])
    ]


def compare_settings(
    bus: FeetechBus, ids: Sequence[int], kind: ArmKind = ArmKind.FOLLOWER
) -> list[Difference]:
    """Reads the servos' settings (two exchanges, about 4 ms) and returns what differs.

    Raises ServoMissingError, BusProtocolError, BusLostError.
    """
    return compare(read_settings(bus, ids), kind, bus.port)


def wanted_values(
    differences: Iterable[Difference], found: Mapping[int, Mapping[str, int]]
) -> dict[int, dict[str, int]]:
    """What `configure` writes, by servo id and register; bits of one register are joined."""
    values: dict[int, dict[str, int]] = {}
    for difference in differences:
        if not difference.writable or difference.register == "lock":
            continue
        servo = values.setdefault(difference.servo, {})
        before = found[difference.servo][difference.register]
        changed = before ^ difference.expected
        servo[difference.register] = servo.get(difference.register, before) ^ changed
    return values
