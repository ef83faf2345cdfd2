# SPDX-License-Identifier: Apache-2.0
"""LeRobot's calibration file, read and written in its exact format, and compared with the servos' EEPROM.

An object keyed by joint name; each value holds the integers id, drive_mode, homing_offset, range_min,
range_max (ticks after homing); four spaces of indentation. Source: LeRobot, motors/motors_bus.py,
MotorCalibration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from chefmate_driver.arm.errors import CalibrationError
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.packet import MAX_ID
from chefmate_driver.feetech.registers import MAX_POSITION
from chefmate_driver.paths import user_path
from chefmate_ros.share import share_places

MAX_HOMING_OFFSET = 2047  # ticks, eleven bits and a sign
# LeRobot renamed its folder in 0.6.
FOLLOWER_FOLDERS = ("so_follower", "so101_follower")
LEADER_FOLDERS = ("so_leader", "so101_leader")


@dataclass(frozen=True, slots=True)
class JointCalibration:
    """One joint's entry, in LeRobot's order of keys."""

    id: int
    drive_mode: int  # 1: the normalised value is mirrored
    homing_offset: int  # ticks; present = actual - offset
    range_min: int  # ticks
    range_max: int  # ticks


Calibration = dict[str, JointCalibration]
LEAST_RANGE = 100  # ticks, 9 degrees; the narrowest joint, the trigger of a leader, turns by some 50 degrees


def calibration_folders(*, leader: bool = False) -> list[Path]:
    """Where LeRobot keeps its files on this machine, in the order of looking."""
    if named := os.environ.get("HF_LEROBOT_CALIBRATION"):
        root = Path(named)
    else:
        home = os.environ.get("HF_LEROBOT_HOME") or Path(
            os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface", "lerobot"
        )
        root = Path(home) / "calibration"
    kind, names = ("teleoperators", LEADER_FOLDERS) if leader else ("robots", FOLLOWER_FOLDERS)
    return [root.expanduser() / kind / name for name in names]


def find_calibration(name: str, *, leader: bool = False) -> Path:
    """Path of a calibration file from the parameter `calibration`.

    A path (with a slash, or ending in .json) is taken as it is. Anything else is an id: LeRobot's folders,
    then the files shipped with this package. CalibrationError names every place that was looked at.
    """
    if not name:
        raise CalibrationError(
            "no calibration is named; set the parameter `calibration` to a LeRobot calibration file or its "
            "id "
            "(`lerobot-calibrate` writes one)"
        )
    if "/" in name or name.endswith(".json"):
        places = [user_path(name, "calibration")]
    else:
        places = [folder / f"{name}.json" for folder in calibration_folders(leader=leader)]
        places += share_places("config", "calibration", f"{name}.json")
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, places))
    raise CalibrationError(
        f"no calibration file {name!r} (looked at {looked}); calibrate the arm first, or set the parameter "
        f"`calibration`"
    )


def read_calibration(path: Path) -> Calibration:
    """All six joints of a file, in joint order. CalibrationError names file, joint, key and value."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CalibrationError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CalibrationError(f"{path} must hold an object keyed by joint name")
    if missing := [name for name in JOINT_NAMES if name not in document]:
        raise CalibrationError(f"{path} lacks {', '.join(missing)}; calibrate all joints of the arm")
    calibration = {name: _joint(path, name, document[name]) for name in JOINT_NAMES}
    ids = [joint.id for joint in calibration.values()]
    if len(set(ids)) != len(ids):
        raise CalibrationError(f"{path}: two joints share a servo id ({ids})")
    return calibration


def _joint(path: Path, name: str, entry: object) -> JointCalibration:
    keys = [field.name for field in fields(JointCalibration)]
    if not isinstance(entry, dict) or any(type(entry.get(key)) is not int for key in keys):
        raise CalibrationError(f"{path}: {name} needs the integers {', '.join(keys)}, got {entry!r}")
    joint = JointCalibration(**{key: entry[key] for key in keys})
    problems = {
        f"id {joint.id} is not 1..{MAX_ID}": not 1 <= joint.id <= MAX_ID,
        f"drive_mode {joint.drive_mode} is not 0 or 1": joint.drive_mode not in (0, 1),
        f"homing_offset {joint.homing_offset} does not fit +-{MAX_HOMING_OFFSET}": abs(joint.homing_offset)
        > MAX_HOMING_OFFSET,
        f"range {joint.range_min}..{joint.range_max} is no part of 0..{MAX_POSITION}": not (
            0 <= joint.range_min < joint.range_max <= MAX_POSITION
        ),
        f"range {joint.range_min}..{joint.range_max} is narrower than {LEAST_RANGE} ticks": (
            0 < joint.range_max - joint.range_min < LEAST_RANGE
        ),
    }
    for problem, present in problems.items():
        if present:
            raise CalibrationError(f"{path}: {name}: {problem}; calibrate this joint again")
    return joint


def write_calibration(path: Path, calibration: Mapping[str, JointCalibration]) -> None:
    """Writes a file that LeRobot reads, at once and whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps({name: asdict(joint) for name, joint in calibration.items()}, indent=4))
    fresh.replace(path)


# What LeRobot keeps in the servos' EEPROM: register by key of the file. drive_mode is in the file only.
EEPROM_KEYS: dict[str, str] = {
    "homing_offset": "homing_offset",
    "range_min": "min_position_limit",
    "range_max": "max_position_limit",
}
DEGREES_PER_TICK = 360.0 / MAX_POSITION  # LeRobot's scale


@dataclass(frozen=True, slots=True)
class CalibrationDifference:
    """A number of the calibration file that the servo does not hold."""

    joint: str
    servo: int
    key: str  # of the file
    found: int  # in the servo, ticks
    expected: int  # in the file, ticks

    @property
    def degrees(self) -> float:
        """How far the servo's value is from the file's."""
        return (self.found - self.expected) * DEGREES_PER_TICK

    def __str__(self) -> str:
        what = self.key.replace("_", " ")
        return (
            f"{self.joint}: the servo's {what} is {self.found}, the calibration file says {self.expected} "
            f"(servo {self.servo}, {self.degrees:+.1f} degrees)"
        )


def read_servo_calibration(bus: FeetechBus, ids: Mapping[str, int]) -> Calibration:
    """The calibration that the servos hold, by joint name; `ids` by joint name. Its drive modes are 0.

    Raises ServoMissingError, BusProtocolError, BusLostError.
    """
    values = {key: bus.sync_read(register, list(ids.values())) for key, register in EEPROM_KEYS.items()}
    return {
        name: JointCalibration(id=id, drive_mode=0, **{key: found[id] for key, found in values.items()})
        for name, id in ids.items()
    }


def compare_calibration(
    bus: FeetechBus, calibration: Mapping[str, JointCalibration]
) -> list[CalibrationDifference]:
    """Homing offsets and limits in which the servos' EEPROM and a calibration differ. Raises as
    `read_servo_calibration` does."""
    held = read_servo_calibration(bus, {name: joint.id for name, joint in calibration.items()})
    return [
        CalibrationDifference(name, joint.id, key, getattr(held[name], key), getattr(joint, key))
        for name, joint in calibration.items()
        for key in EEPROM_KEYS
        if getattr(held[name], key) != getattr(joint, key)
    ]


def check_calibration(bus: FeetechBus, calibration: Mapping[str, JointCalibration]) -> None:
    """CalibrationError with every joint, number and distance if the servos hold another calibration."""
    if differences := compare_calibration(bus, calibration):
        raise CalibrationError(
            f"{bus.port}: {'; '.join(map(str, differences))}: angles or limits would be wrong, so nothing "
            "moves; name the file of this arm, or write the file to the servos with `chefmate arm calibrate "
            "--use-file`, or calibrate again with `chefmate arm calibrate`"
        )
