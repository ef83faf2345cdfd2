# SPDX-License-Identifier: Apache-2.0
"""LeRobot's calibration procedure on a limp arm, without a terminal.

LeRobot resets offsets and limits in EEPROM, reads the pose that is held, writes offset = position - 2047, and
records the extremes of a sweep of all joints but wrist_roll. Here the same numbers are computed from the
positions and the offsets that are there, so nothing is written before the result is accepted. Positions are
followed over the encoder's end: a joint that passes it inside its travel is found, where LeRobot records a
range of the whole turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chefmate_driver.arm.calibration import (
    EEPROM_KEYS,
    MAX_HOMING_OFFSET,
    Calibration,
    JointCalibration,
    read_servo_calibration,
)
from chefmate_driver.arm.errors import ArmError, CalibrationError
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.settings import ArmKind, Severity, compare_settings
from chefmate_driver.arm.setup.eeprom import Values, go_limp, holding, write_values
from chefmate_driver.arm.setup.plausible import FULL_TURN_JOINT, HALF_TURN, Problem, joint_problems
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.errors import EepromError
from chefmate_driver.feetech.registers import MAX_POSITION, STEPS_PER_TURN

STANDARD_IDS: dict[str, int] = {name: index + 1 for index, name in enumerate(JOINT_NAMES)}
# Ticks (90 degrees) between two readings, from which on it is unknown which way round the joint went.
LARGEST_STEP = 1024
SETTLED = 60  # ticks (5 degrees) that a limp arm may sink while its EEPROM is written
# Settings without which positions mean nothing. The supply's class is the owner's decision.
DECISIVE = frozenset(("model_number", "mode", "phase", "angular_resolution", "response_level"))


def signed_step(ticks: int) -> int:
    """The shorter way round of a difference of two encoder positions, ticks."""
    return (ticks + STEPS_PER_TURN // 2) % STEPS_PER_TURN - STEPS_PER_TURN // 2


@dataclass
class Track:
    """One joint from the pose that was held: where it is and has been, in ticks after homing, unbounded."""

    offset: int  # the new homing offset
    actual: int  # ticks of the encoder, 0..4095
    position: int
    low: int = field(init=False)
    high: int = field(init=False)
    lost: bool = False  # a step was too large to be followed

    def __post_init__(self) -> None:
        self.low = self.high = self.position

    @classmethod
    def held(cls, actual: int) -> Track:
        """Starts where the joint is held."""
        offset = min(actual - HALF_TURN, MAX_HOMING_OFFSET)  # encoder position 4095 would need 2048
        return cls(offset, actual, actual - offset)

    def follow(self, actual: int) -> None:
        """Takes the encoder's next position."""
        step = signed_step(actual - self.actual)
        self.lost = self.lost or abs(step) > LARGEST_STEP
        self.actual = actual
        self.position += step
        self.low, self.high = min(self.low, self.position), max(self.high, self.position)


class CalibrationSession:
    """One run of the procedure: `limp`, `hold`, `sample` many times, `problems`, `result`."""

    def __init__(self, bus: FeetechBus, kind: ArmKind, ids: Mapping[str, int] = STANDARD_IDS) -> None:
        """Reads what the servos hold now; nothing is written. `ids` by joint name.

        Raises ArmError if a setting makes positions meaningless, ServoMissingError, BusLostError.
        """
        self.bus, self.kind, self.ids = bus, kind, dict(ids)
        wrong = [
            difference
            for difference in compare_settings(bus, list(self.ids.values()), kind)
            if difference.severity is Severity.ERROR and difference.register in DECISIVE
        ]
        if wrong:
            raise ArmError("; ".join(map(str, wrong)))
        self.before = read_servo_calibration(bus, self.ids)
        self.tracks: dict[str, Track] = {}

    @property
    def leader(self) -> bool:
        """Whether this is a leader arm."""
        return self.kind is ArmKind.LEADER

    def holding(self) -> list[int]:
        """Servos that hold torque. Raises as `sample` does."""
        return holding(self.bus, list(self.ids.values()))

    def limp(self) -> None:
        """Torque off: the arm falls if nobody supports it. Raises as `sample` does."""
        go_limp(self.bus, list(self.ids.values()))

    def hold(self) -> None:
        """The pose that is held now is the middle; the sweep starts anew. Raises as `sample` does."""
        self.tracks = {name: Track.held(actual) for name, actual in self._actual().items()}

    def sample(self) -> None:
        """Takes one reading of all joints. ServoMissingError, BusProtocolError, BusLostError."""
        for name, actual in self._actual().items():
            self.tracks[name].follow(actual)

    def problems(self) -> list[Problem]:
        """What speaks against the result, in joint order."""
        found: list[Problem] = []
        for name, track in self.tracks.items():
            if track.lost:
                text = "it moved by more than 90 degrees between two readings: sweep slower"
                found.append(Problem(name, text, False))
            elif name == FULL_TURN_JOINT:
                if track.low < 0 or track.high > MAX_POSITION:
                    text = (
                        f"its encoder passes from {MAX_POSITION} to 0 inside its travel: hold it nearer to "
                        "the middle of its travel, and calibrate again"
                    )
                    found.append(Problem(name, text, False))
            else:
                found += joint_problems(name, track.low, track.high, leader=self.leader)
        return found

    def result(self) -> Calibration:
        """The calibration by the held pose and the sweep so far. CalibrationError if a joint has no range."""
        calibration: Calibration = {}
        for name, track in self.tracks.items():
            low, high = (0, MAX_POSITION) if name == FULL_TURN_JOINT else (track.low, track.high)
            if not 0 <= low < high <= MAX_POSITION:
                raise CalibrationError(f"{name}: {low}..{high} is no range; calibrate again")
            calibration[name] = JointCalibration(self.ids[name], 0, track.offset, low, high)
        return calibration

    def _actual(self) -> dict[str, int]:
        """Encoder positions, before any offset: present = actual - offset."""
        present = self.bus.sync_read("present_position", list(self.ids.values()))
        return {
            name: (present[id] + self.before[name].homing_offset) % STEPS_PER_TURN
            for name, id in self.ids.items()
        }


def eeprom_values(calibration: Mapping[str, JointCalibration]) -> Values:
    """What a calibration is in the servos' EEPROM."""
    return {
        joint.id: {register: getattr(joint, key) for key, register in EEPROM_KEYS.items()}
        for joint in calibration.values()
    }


def write_calibration_to_servos(
    bus: FeetechBus,
    calibration: Mapping[str, JointCalibration],
    command: str,
    save: Callable[[], None] = lambda: None,
) -> Values:
    """Writes offsets and limits into limp servos, and checks that their positions moved by the change of the
    offsets. Returns the old values of what changed. Raises as `write_values` does.

    `save` runs last: if it raises, the old values go back into the servos.
    """
    ids = [joint.id for joint in calibration.values()]
    present = bus.sync_read("present_position", ids)
    offsets = bus.sync_read("homing_offset", ids)

    def verify() -> None:
        now = bus.sync_read("present_position", ids)
        for name, joint in calibration.items():
            expected = present[joint.id] + offsets[joint.id] - joint.homing_offset
            error = signed_step(now[joint.id] - expected)
            if abs(error) > SETTLED:
                raise EepromError(
                    f"{bus.port}: {name} (servo {joint.id}) reads {now[joint.id]} after the new homing "
                    f"offset, {expected % STEPS_PER_TURN} was expected: keep the arm still meanwhile"
                )

        save()

    return write_values(bus, eeprom_values(calibration), command, verify)
