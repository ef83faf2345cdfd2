# SPDX-License-Identifier: Apache-2.0
"""Torque of the servos: switched on without a jump, limited, watched, and let go of gently.

Used by the control loop between and within its cycles, in its thread; the controller is told what came of it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from chefmate_driver.arm.controller import ArmController, ArmState, goals_to_hold
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.protection import Protection
from chefmate_driver.arm.servos import TORQUE_UNIT, ArmServos
from chefmate_driver.feetech.errors import FeetechError, ServoMissingError
from chefmate_driver.feetech.packet import status_text
from chefmate_driver.feetech.registers import Feedback

TORQUE_CHECK = 0.05  # s in which every servo's torque registers are looked at once
LONGEST_LOOK = 0.02  # s for it with all its repetitions
DOUBLED_LATELY = 2.0  # s after a doubled reply for which an odd reading is blamed on it
# s in which the torque limits sink to nothing before the protection lets go: the arm sinks, it does not drop.
SINK_TIME = 1.5
SINK_STEP = 0.05  # s between two torque limits of it
HOLDS_TORQUE = (ArmState.HOLDING, ArmState.FOLLOWING, ArmState.BRAKING, ArmState.TELEOPERATED)


@dataclass
class Snapshot:
    """What the outside may know; replaced piece by piece by the loop, read by anyone."""

    stamp: int = 0  # ns, wall clock, of the newest reply
    feedback: dict[int, Feedback] = field(default_factory=dict)  # newest known, by servo id
    answered: frozenset[int] = frozenset()  # servos that answered in the last cycle
    torque: dict[int, bool] = field(default_factory=dict)  # newest known, by servo id
    torque_limit: dict[int, float] = field(default_factory=dict)  # share of the stall torque, by servo id
    errors: dict[int, int] = field(default_factory=dict)  # lost or corrupt replies, by servo id
    error_kinds: dict[int, dict[str, int]] = field(default_factory=dict)  # the same by kind, by servo id
    status: dict[int, int] = field(default_factory=dict)  # error byte of the newest reply, by servo id
    cycles: int = 0  # bus cycles since the port was opened
    bus_errors: int = 0  # transactions that failed


class ServoTorque:
    """Torque and torque limits of one arm's servos. `found` comes first, and after each reconnection."""

    def __init__(
        self, controller: ArmController, lock: threading.Lock, protection: Protection | None
    ) -> None:
        """lock: guards the controller. protection: whose torque limits are written; None: none are."""
        self.restored = 0  # times that a torque limit was not as written, and was written again
        self.unsure = False  # a servo was silent, or seemed limp, and nobody has seen its torque since
        self._controller, self._lock, self._protection = controller, lock, protection
        self._limits: dict[int, float] = {}  # torque limits as written, share of the stall torque, by id
        self._adopted = False  # the servos held already, and nothing has been written to them yet
        self._duplicates: dict[int, int] = {}  # replies of a second servo with the same id, by id
        self._doubled: dict[int, float] = {}  # s, monotonic, when the newest of them was noticed, by id
        self._checked, self._turn = 0.0, 0
        self._sinking: float | None = None  # s, monotonic, since the torque limits sink
        self._sunk_at = 0.0

    def found(self, torque: list[bool], limits: dict[int, float]) -> None:
        """The servos answer: which hold torque, and their torque limits (share of the stall torque) by id."""
        # An arm that holds already has the limits that an earlier node wrote; others get theirs with torque.
        self._adopted = all(torque)
        self._limits, self._sinking = limits if self._adopted else {}, None
        self._duplicates, self._doubled = {}, {}
        self._checked = time.monotonic()

    @property
    def adopts(self) -> bool:
        """True if `adopt` is due: the servos held already, and now they may be written to."""
        return self._adopted and self._may_limit and self._controller.torque

    def adopt(self, servos: ArmServos) -> None:
        """Servos that held already, with whatever speed and acceleration, get those of this node. What still
        moves by another program's goal ends where it is. BusLostError; ServoMissingError: call it again."""
        goals = goals_to_hold(*servos.stance())
        try:
            servos.hold(goals)
        except ArmError as error:
            with self._lock:
                self._controller.fail(f"{error}; call arm/torque again")
            return
        self._adopted = False
        with self._lock:
            self._controller.safety.reset(goals)

    def look(self, servos: ArmServos, snapshot: Snapshot, now: float) -> None:
        """After a complete reading at `now`: what holds torque? One servo after the other, so that no cycle
        is longer than the others; all at once where one may have lost its supply."""
        if self.unsure:
            self._check(servos, snapshot)
        elif now - self._checked > TORQUE_CHECK / len(servos.ids):
            self._checked = now
            self._look_at_one(servos, snapshot, now)

    def _look_at_one(self, servos: ArmServos, snapshot: Snapshot, now: float) -> None:
        self._turn = (self._turn + 1) % len(servos.ids)
        id = servos.ids[self._turn]
        if self._turn == 0:
            snapshot.errors, snapshot.error_kinds = servos.bus.errors, servos.bus.error_kinds
        state = servos.torque_of(id, now + LONGEST_LOOK)
        if state is None:
            return  # the feedback of the next cycles tells whether it is gone
        torque, limit = state
        snapshot.torque = {**snapshot.torque, id: torque}
        snapshot.torque_limit = {**snapshot.torque_limit, id: limit}
        as_written = self._sinking is not None or abs(limit - self._limits.get(id, limit)) <= TORQUE_UNIT
        if self._controller.torque and not (torque and as_written):
            self._check(servos, snapshot)

    def _check(self, servos: ArmServos, snapshot: Snapshot, again: bool = False) -> None:
        """All servos at once: does torque hold, and are the torque limits as they were written?"""
        try:
            torque, limits = servos.torque_state(time.monotonic() + LONGEST_LOOK)
        except ServoMissingError:
            self.unsure = True  # looked at again; the feedback of the next cycles tells whether it is gone
            return
        self.unsure = False
        snapshot.torque = dict(zip(servos.ids, torque, strict=True))
        snapshot.torque_limit = limits
        reset = [
            id
            for id, share in self._limits.items()
            if abs(limits[id] - share) > TORQUE_UNIT and self._sinking is None
        ]
        self.restored += bool(reset)
        now = time.monotonic()
        for id, counts in servos.bus.counters.items():
            if counts.duplicate > self._duplicates.get(id, 0):
                self._duplicates[id], self._doubled[id] = counts.duplicate, now
        with self._lock:
            if not self._controller.torque:
                return
        gone = not all(torque)
        if gone and not again:  # one reading is no proof: another servo may have answered as this one
            self._check(servos, snapshot, again=True)
            return
        if gone:
            with self._lock:
                self._controller.fail(self._gone(servos, torque, reset))
            return
        if reset and self._may_limit:  # torque is on though: written again
            servos.limit_torque({id: self._limits[id] for id in reset})

    def _gone(self, servos: ArmServos, torque: list[bool], reset: list[int]) -> str:
        recent = time.monotonic() - DOUBLED_LATELY
        if doubled := [id for id, when in self._doubled.items() if when > recent]:
            return (
                f"two servos answer as id {', '.join(map(str, doubled))}, and one holds no torque; give each "
                "servo its own id (chefmate arm scan), then call arm/torque"
            )
        names = [
            f"{joint.name} (status: {status_text(servos.bus.status.get(joint.id, 0)) or 'none'})"
            for joint, on in zip(servos.units.joints, torque, strict=True)
            if not on
        ]
        # A servo that starts anew has all its RAM at factory values, the torque limit, too.
        why = "lost its supply for a moment, check the adapter and the cables" if reset else "find out why"
        return f"torque went off by itself: {', '.join(names)}; {why}, then call arm/torque"

    @property
    def _may_limit(self) -> bool:
        """Start and shadow mode write nothing."""
        return self._controller.active and self._controller.execute

    def limit(self, servos: ArmServos, protection: Protection) -> None:
        """Writes the torque limits that the protection has changed: the gripper's while it squeezes."""
        if not (self._may_limit and self._controller.torque and self._limits) or self._sinking is not None:
            return
        wanted = dict(zip(servos.ids, protection.torque_limits.tolist(), strict=True))
        changed = {id: share for id, share in wanted.items() if abs(share - self._limits[id]) >= TORQUE_UNIT}
        if changed:
            servos.limit_torque(changed)
            self._limits |= changed

    def sink(self, servos: ArmServos, snapshot: Snapshot) -> None:
        """The protection lets go: torque limits sink to nothing, then torque goes off. Once in each cycle."""
        controller = self._controller
        if not controller.let_go:
            self._sinking = None
            return
        now = time.monotonic()
        if self._sinking is None:
            self._sinking, self._sunk_at = now, 0.0
        left = 1.0 - (now - self._sinking) / SINK_TIME
        if left > 0.0:
            if now - self._sunk_at > SINK_STEP:
                self._sunk_at = now
                servos.limit_torque({id: left * self._limits.get(id, 1.0) for id in servos.ids})
            return
        reason = controller.verdict.reason
        try:
            servos.disable()
        except ArmError as error:
            reason = f"{reason}; and {error}"
        self._sinking, self._limits = None, {}
        snapshot.torque = dict(zip(servos.ids, servos.torque_state()[0], strict=True))
        with self._lock:
            controller.fail(reason)

    def check_on(self) -> bool:
        """Whether torque has to be switched on. TransitionError where it cannot be."""
        controller = self._controller
        with self._lock:
            controller.check_torque_on()
            already = controller.state in HOLDS_TORQUE or (bool(controller.estop) and controller.torque)
        return not already or controller.let_go

    def on(self, servos: ArmServos, snapshot: Snapshot) -> None:
        """Torque on. First the goals and then the torque limits: nothing gets more torque for an old goal.
        ArmError, FeetechError."""
        goals = goals_to_hold(*servos.stance())
        servos.hold(goals)
        if self._protection is not None:
            self._protection.reset()
            self._limits = dict(zip(servos.ids, self._protection.torque_limits.tolist(), strict=True))
            servos.limit_torque(self._limits, confirm=True)
        self._sinking, self._adopted = None, False
        try:
            servos.enable()
        except (ArmError, FeetechError) as error:
            # Some may hold by now: that is no READY arm, and nobody would watch them.
            with self._lock:
                self._controller.fail(f"torque could not be switched on: {error}; call arm/torque again")
            raise
        snapshot.torque = dict.fromkeys(servos.ids, True)
        snapshot.torque_limit = dict(self._limits)
        with self._lock:
            self._controller.torque_on(goals)

    def off(self, servos: ArmServos, snapshot: Snapshot) -> None:
        """Torque off: the arm is limp. ArmError, FeetechError."""
        servos.disable()  # first, so that nothing says the arm is limp when the servos did not obey
        snapshot.torque = dict.fromkeys(servos.ids, False)
        self._sinking, self._adopted = None, False
        with self._lock:
            self._controller.torque_off()
