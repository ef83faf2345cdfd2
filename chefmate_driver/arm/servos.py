# SPDX-License-Identifier: Apache-2.0
"""The arm's six servos on a bus, in radians: what the control loop reads and writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.calibration import check_calibration
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.errors import BusProtocolError, FeetechError, ServoMissingError
from chefmate_driver.feetech.registers import (
    CURRENT_UNIT,
    FEEDBACK_ADDRESS,
    FEEDBACK_SIZE,
    LOAD_UNIT,
    MODEL_STS3215,
    PHASE_MULTI_TURN,
    VOLTAGE_UNIT,
    Feedback,
    Register,
    decode_feedback,
    register,
    speed_unit,
    within_one_turn,
)

Vector = NDArray[np.float64]
TORQUE_UNIT = 0.001  # share of the stall torque per count of register 48
_TORQUE, _LIMIT = register("torque_enable"), register("torque_limit")
_GOAL, _PRESENT = register("goal_position"), register("present_position")
_TORQUE_BLOCK = _LIMIT.address + _LIMIT.size - _TORQUE.address  # bytes from one to the other, in one exchange
GOAL_ACCELERATION = 254  # register 41, the largest; the safety filter is what limits acceleration


@dataclass(frozen=True, slots=True)
class ServoState:
    """One servo's health in SI units."""

    temperature: float  # degree Celsius
    voltage: float  # V
    current: float  # A
    load: float  # share of full PWM duty, -1..1


def servo_state(feedback: Feedback) -> ServoState:
    """Health of a servo from its feedback registers."""
    return ServoState(
        float(feedback.temperature),
        feedback.voltage * VOLTAGE_UNIT,
        feedback.current * CURRENT_UNIT,
        feedback.load * LOAD_UNIT,
    )


class ArmServos:
    """Joint-ordered access to the servos of one arm. One thread uses it at a time."""

    def __init__(self, bus: FeetechBus, units: ArmUnits) -> None:
        """Checks that every servo answers, is an STS3215, and holds the homing offset and the limits of the
        calibration file.

        Raises ServoMissingError, BusProtocolError, BusLostError, CalibrationError.
        """
        self.bus, self.units, self.ids = bus, units, units.ids
        self._check()
        phases = bus.sync_read("phase", self.ids)
        self._single_turn = {id for id, phase in phases.items() if not phase & PHASE_MULTI_TURN}
        self.implausible: dict[int, int] = {}  # ticks that a servo said in the newest cycle and cannot be at
        # rad/s per count of the speed registers
        self._speed: Vector = (
            np.array([speed_unit(phases[id]) for id in self.ids], dtype=np.float64) / units.ticks_per_radian
        )

    def _check(self) -> None:
        missing, failure = [], None
        for joint in self.units.joints:
            try:
                self.bus.ping(joint.id)
            except (ServoMissingError, BusProtocolError) as error:
                missing.append(f"{joint.id} ({joint.name})")
                failure = error
                if isinstance(error, BusProtocolError):
                    raise
        if failure is not None:
            raise ServoMissingError(
                f"{self.bus.port}: no answer from servo {', '.join(missing)} at {self.bus.baudrate} baud; "
                "check the servo supply, the cable and the ids"
            ) from failure
        models = self.bus.sync_read("model_number", self.ids)
        for joint in self.units.joints:
            if models[joint.id] != MODEL_STS3215:
                raise FeetechError(
                    f"{self.bus.port}: servo {joint.id} ({joint.name}) is model {models[joint.id]}, "
                    f"not an STS3215 ({MODEL_STS3215}); other servos have other registers"
                )
        check_calibration(self.bus, {joint.name: joint.calibration for joint in self.units.joints})

    def feedback(self, deadline: float = math.inf) -> dict[int, Feedback]:
        """What the servos report now, by id, without those that did not answer by `deadline` (s, monotonic
        clock). BusLostError.

        A position outside of one turn, of a servo that counts within one, is no measurement: the servo is
        left out, counted (ErrorCounts.implausible), and `implausible` says what it reported.
        """
        blocks = self.bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, self.ids, deadline=deadline)
        found = {id: decode_feedback(block) for id, block in blocks.items()}
        self.implausible = {
            id: feedback.position
            for id, feedback in found.items()
            if id in self._single_turn and not within_one_turn(feedback.position)
        }
        for id in self.implausible:
            self.bus.counters[id].implausible += 1
            del found[id]
        return found

    def motion(self, feedback: dict[int, Feedback]) -> tuple[Vector, Vector]:
        """Positions (rad) and velocities (rad/s), (6,) each, of complete feedback."""
        positions = self.units.radians([feedback[id].position for id in self.ids])
        return positions, self._speed * [feedback[id].speed for id in self.ids]

    def goals(self) -> Vector:
        """Goal positions that the servos hold, rad (6,). ServoMissingError, BusLostError."""
        goals = self.bus.sync_read("goal_position", self.ids)
        return self.units.radians([goals[id] for id in self.ids])

    def torque(self) -> list[bool]:
        """Which servos hold torque, in joint order. ServoMissingError, BusLostError."""
        return self.torque_state()[0]

    def torque_state(self, deadline: float = math.inf) -> tuple[list[bool], dict[int, float]]:
        """Which servos hold torque, in joint order, and all torque limits by id, as shares of the stall
        torque. deadline: s, monotonic clock. ServoMissingError, BusLostError."""
        blocks = self.bus.sync_read_block(
            _TORQUE.address, _TORQUE_BLOCK, self.ids, patient=True, deadline=deadline
        )
        if missing := [str(id) for id in self.ids if id not in blocks]:
            raise ServoMissingError(f"{self.bus.port}: no answer from servo {', '.join(missing)}")
        torque = [blocks[id][0] == 1 for id in self.ids]
        offset = _LIMIT.address - _TORQUE.address
        return torque, {id: _LIMIT.decode(blocks[id][offset:]) * TORQUE_UNIT for id in self.ids}

    def torque_of(self, id: int, deadline: float) -> tuple[bool, float] | None:
        """Whether one servo holds torque, and its torque limit as a share of the stall torque; None if it
        does not answer by `deadline` (s, monotonic clock). BusLostError."""
        block = self.bus.sync_read_block(_TORQUE.address, _TORQUE_BLOCK, [id], deadline=deadline).get(id)
        if block is None:
            return None
        return block[0] == 1, _LIMIT.decode(block[_LIMIT.address - _TORQUE.address :]) * TORQUE_UNIT

    def command(self, positions: Sequence[float] | Vector) -> None:
        """Sends goal positions, rad (6,). BusLostError."""
        self.send(self.goals_as_bytes(positions))

    def goals_as_bytes(self, positions: Sequence[float] | Vector) -> dict[int, bytes]:
        """Goal positions, rad (6,), as the servos take them, by id: worked out before it is time."""
        return {
            id: _GOAL.encode(ticks) for id, ticks in zip(self.ids, self.units.ticks(positions), strict=True)
        }

    def send(self, goals: Mapping[int, bytes]) -> None:
        """Sends what `goals_as_bytes` worked out. BusLostError."""
        self.bus.sync_write_block(_GOAL.address, goals)

    def limit_torque(self, shares: Mapping[int, float], confirm: bool = False) -> None:
        """Torque limits (register 48) by servo id, as shares of the stall torque. They are RAM: a servo that
        lost its supply starts anew with register 16. BusLostError; with `confirm` raises as `enable` does."""
        values = {id: round(share / TORQUE_UNIT) for id, share in shares.items()}
        if confirm:
            self._confirm("torque_limit", values)
        else:
            self.bus.sync_write("torque_limit", values)

    def stance(self) -> tuple[Vector, Vector, NDArray[np.bool_]]:
        """Where the joints are and where the servos' goals are, rad, and which servos hold torque; (6,) each.
        ServoMissingError, BusLostError."""
        size = _PRESENT.address + _PRESENT.size - _TORQUE.address
        blocks = self.bus.sync_read_block(_TORQUE.address, size, self.ids, patient=True)
        if missing := [str(id) for id in self.ids if id not in blocks]:
            raise ServoMissingError(f"{self.bus.port}: no answer from servo {', '.join(missing)}")

        def angles(entry: Register) -> Vector:
            start = entry.address - _TORQUE.address
            return self.units.radians(
                [entry.decode(blocks[id][start : start + entry.size]) for id in self.ids]
            )

        return angles(_PRESENT), angles(_GOAL), np.array([blocks[id][0] == 1 for id in self.ids])

    def hold(self, goals: Vector) -> None:
        """Goals, rad (6,), read back, and after them the speed and acceleration to go to them with: the
        largest, since the filter limits those. Torque stays as it is. Raises as `enable` does."""
        self._confirm("goal_position", dict(zip(self.ids, self.units.ticks(goals), strict=True)))
        self.bus.sync_write("goal_speed", dict.fromkeys(self.ids, 0))
        self.bus.sync_write("acceleration", dict.fromkeys(self.ids, GOAL_ACCELERATION))

    def enable(self) -> None:
        """Torque on; `hold` comes before, so that nothing jumps.

        Raises ArmError if a servo does not take it, ServoMissingError, BusLostError.
        """
        self.bus.sync_write("lock", dict.fromkeys(self.ids, 1))
        self._confirm("torque_enable", dict.fromkeys(self.ids, 1))

    def disable(self) -> None:
        """Torque off: the arm is limp. Raises as `enable` does."""
        self._confirm("torque_enable", dict.fromkeys(self.ids, 0))

    def _confirm(self, name: str, values: dict[int, int]) -> None:
        """Writes and reads back: a sync write has no replies."""
        seen: dict[int, int] = {}
        for _ in range(self.bus.retries + 1):
            self.bus.sync_write(name, values)
            seen = self.bus.sync_read(name, list(values))
            if seen == values:
                return
        wrong = ", ".join(f"{id}: {seen[id]}" for id in values if seen[id] != values[id])
        raise ArmError(
            f"servos do not take {name} (id: value read back {wrong}); check their supply and status"
        )
