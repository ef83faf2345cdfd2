# SPDX-License-Identifier: Apache-2.0
"""The expert: obeys one instruction at a time, from privileged poses, closed loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError
from chefmate_policy.expert.kinematics import Kinematics, UnreachableError
from chefmate_policy.expert.language import Intent, parse_instruction
from chefmate_policy.expert.motion import Motion, Segment, brake
from chefmate_policy.expert.moves import OPEN, SPARE, WEIGH, Hold, Moves
from chefmate_policy.expert.observation import (
    ELSEWHERE,
    GRIPPER,
    HOLDER,
    PLATE,
    Place,
    Plan,
    SceneObject,
    rotation_of,
)

__all__ = ["Expert"]

Array = NDArray[np.float64]

STEP, POINTS = 0.1, 16  # s between the points of a plan, and their number
# rad between where the arm is and where it was told to be lately: something else moves it, start afresh
ASTRAY = 0.35
MEMORY = 1.0  # s of commands among which the measured pose is looked for
# s that an arm may follow late (latency of arm and observation); from there on the motion slows down
LATE = 0.3  # s, latency of arm and observation that counts as following
OFF_PATH = (
    0.02  # rad beside the path of the last LATE s: the arm cannot follow so fast, the motion slows down
)
LONGEST_GAP = 0.3  # s between acts that count
GAP_AT_REST = 0.15  # s that count while the arm stands: it was held, and has not come farther meanwhile
ON_TIME = 0.13  # s between acts of an arm that nobody held
STANDS = 0.25  # s of path before now on which the arm ought to have moved
MOVES = 0.10  # rad/s of the fastest joint of a path that moves
BLOCKED = 0.05  # rad off the path at rest: it pushes against something
PATIENCE = 4  # acts in a row that the arm may stand, before it gives way
JAW_AT_REST = 0.08  # rad/s
SETTLE = 0.15  # s after a motion before its result is judged
MOVED = 0.006  # m that a slice may shift before a reach is aimed again
AT_REST = 0.05  # rad/s
ON_PLATE = 0.050  # m between a slice's centre and the plate's axis
FLAT = float(np.cos(np.radians(12.0)))


@dataclass
class _Task:
    """What one instruction has come to so far."""

    instruction: str
    number: int
    intent: Intent
    already: frozenset[str]  # on the plate when the instruction came
    target: str = ""
    aimed_at: Array | None = None  # where the target was when the reach was planned
    weighed: bool = False  # the laying is planned with the slice as it sits in the jaws


class Expert:
    """Call `act` about ten times a second with fresh observations; follow what it returns.

    Keeps the motion in progress between calls. Times are of one monotonic clock. An instruction is new when
    its text or its number changes. Objects are obeyed by ingredient: of two breads, one that is not yet on
    the plate is taken.
    """

    def __init__(self, kinematics: Kinematics | None = None) -> None:
        self.moves = Moves(kinematics or Kinematics())
        self._task: _Task | None = None
        self._motion: Motion | None = None
        self._homes: dict[str, SceneObject] = {}
        self._measured = np.zeros(6)
        self._idle = False
        self._clock = 0.0  # s, time along the motion: runs slower than real time when the arm cannot follow
        self._pace = 1.0  # share of real time at which the arm has been able to follow lately
        self._last_act: float | None = None
        self._standing = 0  # acts in a row in which the arm stood where it ought to have moved
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why the expert does what it does, for people."""
        return self._reason

    def reset(self) -> None:
        """Forgets the motion, the instruction, where slices stood, and how well the arm followed."""
        self._task, self._motion = None, None
        self._pace, self._standing, self._last_act = 1.0, 0, None
        self._homes.clear()

    def act(
        self,
        joint_positions: Array,
        joint_velocities: Array,
        objects: Sequence[SceneObject],
        plate: Place,
        tray: Place,
        instruction: str,
        now: float,
        instruction_number: int = 0,
    ) -> Plan:
        """The next 1.6 s.

        joint_positions [6] rad and joint_velocities [6] rad/s as measured, joint order of the arm. objects,
        plate, tray in base_link. now: s, monotonic. Raises PolicyError on numbers that are not finite.
        """
        measured = np.asarray(joint_positions, dtype=np.float64)
        speed = np.asarray(joint_velocities, dtype=np.float64)
        if measured.shape != (6,) or not np.all(np.isfinite(measured)) or not np.all(np.isfinite(speed)):
            raise PolicyError(f"the expert needs six finite joint angles, got {measured} and {speed}")
        self._measured = measured
        for item in objects:
            if item.place == HOLDER:
                self._homes[item.name] = item
        scene = {item.name: item for item in objects}
        fresh = self._task is None or (instruction, instruction_number) != (
            self._task.instruction,
            self._task.number,
        )
        if fresh:
            intent = parse_instruction(instruction, {item.ingredient for item in objects})
            on_plate = frozenset(item.name for item in objects if _on_plate(item, plate))
            self._task = _Task(instruction, instruction_number, intent, on_plate)
        now = self._advance(now, measured, speed)
        if self._standing >= PATIENCE and self._motion is not None:
            self._standing = 0
            self._give_way(now, measured)
            fresh = True
        elif self._astray(measured):
            self._motion = Motion(now, [brake(measured, speed)])
            fresh = True
        assert self._task is not None and self._motion is not None
        if fresh:
            self._interrupt(now)
            self._idle = self._decide(self._task, scene, plate, now)
        else:
            self._check(self._task, scene, plate, measured, speed, now)
        if now >= self._motion.finish + SETTLE:
            self._idle = self._decide(self._task, scene, plate, now)
        return self._plan(now)

    # --- deciding -----------------------------------------------------------------------------------------

    def _decide(self, task: _Task, scene: dict[str, SceneObject], plate: Place, now: float) -> bool:
        """Starts what comes next after the motion in progress; True when nothing does."""
        assert self._motion is not None
        here = self._motion.end
        held = next((item for item in scene.values() if item.place == GRIPPER), None)
        wanted = task.intent.ingredient
        self._reason = task.intent.reason
        try:
            if held is not None and now < self._motion.finish + SETTLE:
                self._begin(
                    now, [self.moves.dwell(here)]
                )  # decide at rest, when it can be seen how it is held
                return False
            if held is not None:
                self._begin(now, self._with_held(task, held, scene, plate, here))
                return False
            placed = [
                item.name for item in scene.values() if item.ingredient == wanted and _on_plate(item, plate)
            ]
            if wanted is None or any(name not in task.already for name in placed):
                return self._withdraw(now, here)
            target = self._choose(wanted, scene)
            if target is None and (fallen := self._upright(wanted, scene)) is not None:
                parts = self._escape(here)
                task.target, task.aimed_at, task.weighed = fallen.name, None, True
                self._begin(now, parts + self.moves.tip_over(parts[-1].end if parts else here, fallen))
                return False
            if target is None:
                self._reason = f"there is no {wanted} that stands to be picked"
                return self._withdraw(now, here)
            self._begin(now, self._pick(task, target, scene, plate, here))
        except UnreachableError as error:
            self._reason = str(error)
            return self._withdraw(now, here)
        return False

    def _pick(
        self, task: _Task, target: SceneObject, scene: dict[str, SceneObject], plate: Place, here: Array
    ) -> list[Segment]:
        task.target, task.aimed_at, task.weighed = target.name, target.position, False
        parts = [] if self.moves.before(here, target) else self._escape(here)
        parts += self.moves.grasp(parts[-1].end if parts else here, target)
        return parts + self._lay(parts[-1].end, target, self.moves.nominal_hold(target), scene, plate)

    def _with_held(
        self, task: _Task, held: SceneObject, scene: dict[str, SceneObject], plate: Place, here: Array
    ) -> list[Segment]:
        """Places a slice that is in the jaws already: onto the plate if it is the one, else back."""
        hold = self.moves.hold_of(self._measured, held)
        task.target, task.aimed_at, task.weighed = held.name, None, True
        home = self._free_home(held, scene)
        wanted = held.ingredient == task.intent.ingredient
        if not wanted and home is not None and self.moves.is_above(here, home, hold):
            return self.moves.stand_back(here, home, hold)
        parts = self.moves.squeeze(here, held)
        start = parts[-1].end if parts else here
        place = (plate.position[:2], _top(scene, plate, held.name))
        if not (wanted and self.moves.on_way_down(start, *place, hold, held)):
            parts += self.moves.escape(start, None)
            start = parts[-1].end if parts else here
        if wanted:
            return parts + self._lay(start, held, hold, scene, plate)
        if home is None:
            return parts + self.moves.lay(start, SPARE, 0.0, hold, held)
        return parts + self.moves.bring_back(start, home, hold)

    def _lay(
        self, start: Array, item: SceneObject, hold: Hold, scene: dict[str, SceneObject], plate: Place
    ) -> list[Segment]:
        return self.moves.lay(start, plate.position[:2], _top(scene, plate, item.name), hold, item)

    def _escape(self, here: Array) -> list[Segment]:
        """Out of where the empty jaws are; open first where they may be around something."""
        low = self.moves.low(here)
        return self.moves.escape(here, OPEN if low and here[5] < OPEN - 0.1 else None)

    def _withdraw(self, now: float, here: Array) -> bool:
        """To the ready pose, unless the arm is folded already; True when it is."""
        if self.moves.folded(here):
            return True
        parts = self._escape(here)
        self._begin(now, [*parts, *self.moves.ready(parts[-1].end if parts else here)])
        return False

    def _free_home(self, held: SceneObject, scene: dict[str, SceneObject]) -> SceneObject | None:
        """Where the slice stood, if nothing stands there now."""
        home = self._homes.get(held.name)
        if home is None:
            return None
        taken = any(i.slot == home.slot and i.place == HOLDER and i.name != held.name for i in scene.values())
        return None if taken else home

    def _choose(self, wanted: str, scene: dict[str, SceneObject]) -> SceneObject | None:
        """A slice to take: one that stands in its slot, else one that leans somewhere so that it can be
        gripped."""
        named = [i for i in scene.values() if i.ingredient == wanted and self.moves.graspable(i)]
        standing = [item for item in named if item.place == HOLDER]
        leaning = [item for item in named if item.place == ELSEWHERE]
        return min(standing or leaning, key=lambda item: item.slot, default=None)

    def _upright(self, wanted: str, scene: dict[str, SceneObject]) -> SceneObject | None:
        """A slice of the wanted class that stands on its edge and must be tipped back first."""
        named = [i for i in scene.values() if i.ingredient == wanted and i.place in (HOLDER, ELSEWHERE)]
        return next((item for item in named if self.moves.upright(item)), None)

    # --- watching -----------------------------------------------------------------------------------------

    def _check(
        self,
        task: _Task,
        scene: dict[str, SceneObject],
        plate: Place,
        measured: Array,
        speed: Array,
        now: float,
    ) -> None:
        """Ends or mends the motion when the world is not as it was planned."""
        assert self._motion is not None
        target = scene.get(task.target)
        part, begin, index = self._motion.at(now)
        if target is None or task.intent.ingredient is None or now >= self._motion.finish:
            return
        if part.phase in ("reach", "descend") and task.aimed_at is not None:
            if np.linalg.norm(target.position - task.aimed_at) > MOVED:
                self._again(task, scene, plate, now)
        elif part.phase in ("weigh", "carry") and now > begin + WEIGH / 2:
            if target.place != GRIPPER:
                self._again(task, scene, plate, now)
            elif not task.weighed and np.max(np.abs(speed)) < AT_REST:
                task.weighed = True
                self._aim_lay(scene, target, self.moves.hold_of(measured, target), plate, index)

    def _again(self, task: _Task, scene: dict[str, SceneObject], plate: Place, now: float) -> None:
        self._interrupt(now)
        self._idle = self._decide(task, scene, plate, now)

    def _aim_lay(
        self, scene: dict[str, SceneObject], held: SceneObject, hold: Hold, plate: Place, index: int
    ) -> None:
        """Plans the laying anew, with the slice as it really sits in the jaws."""
        assert self._motion is not None
        parts = self._motion.segments
        first = next((i for i, part in enumerate(parts) if part.phase == "carry" and i > index), None)
        if first is not None:
            try:
                parts[first:] = self._lay(parts[first].waypoints[0], held, hold, scene, plate)
            except UnreachableError as error:
                self._reason = f"laid as planned: {error}"

    def _advance(self, now: float, measured: Array, speed: Array) -> float:
        """Moves the clock of the motion on, as fast as the arm follows (a speed override slows it); the
        clock, s. A motion that was cut goes on from where the arm stands now, from rest."""
        gap = 0.0 if self._last_act is None else max(now - self._last_act, 0.0)
        self._last_act = now
        if self._motion is None:
            return self._clock
        rests = bool(np.max(np.abs(speed[:5])) < AT_REST)
        passed = min(gap, GAP_AT_REST if rests else LONGEST_GAP)
        if rests and self._ought_to_move():
            if gap > ON_TIME:
                self._standing = 0
                nearest, off = self._nearest(measured, -LATE, passed * self._pace)
                if off < ASTRAY:
                    self._motion = self._motion.from_rest(nearest, self._clock)
                return self._clock
            self._standing += 1
        elif rests and self._off_path(measured, LATE) > BLOCKED:
            self._standing += 1
        else:
            self._standing = 0
        part, begin, _ = self._motion.at(self._clock)
        left = begin + part.duration - self._clock
        if part.phase in ("close", "release") and left < passed and abs(speed[5]) > JAW_AT_REST:
            passed = max(left - 1e-3, 0.0)  # the jaw is still on its way
        off = self._off_path(measured, LATE)
        self._pace = min(1.0, self._pace + 0.01) if off < OFF_PATH else max(0.05, 0.85 * self._pace)
        self._clock += passed * self._pace * float(np.clip(2.0 - off / (2 * OFF_PATH), 0.0, 1.0))
        return self._clock

    def _off_path(self, measured: Array, late: float) -> float:
        """Distance (rad, largest joint) of the arm from its path between `late` s ago and the next step.

        The jaw is left out: a slice stops it.
        """
        return self._nearest(measured, -late, STEP)[1]

    def _nearest(self, measured: Array, first: float, last: float) -> tuple[float, float]:
        """Where on its path the arm is, between `first` and `last` s from now: time (s, of the clock), and
        distance (rad, largest joint but the jaw)."""
        assert self._motion is not None
        times = self._clock + np.arange(last, first - 1e-9, -0.025)
        off = np.max(np.abs(self._motion.samples(times)[:, :5] - measured[:5]), axis=1)
        return float(times[np.argmin(off)]), float(np.min(off))

    def _ought_to_move(self) -> bool:
        """True when the path of the last `STANDS` s has no rest."""
        assert self._motion is not None
        told = self._motion.velocities(self._clock - np.arange(0.0, STANDS + 1e-9, 0.05))
        return bool(np.min(np.max(np.abs(told[:, :5]), axis=1)) > MOVES)

    def _give_way(self, now: float, measured: Array) -> None:
        """Something is in the way: what comes next begins where the arm is, and pushes no more."""
        assert self._motion is not None
        here = measured.copy()
        here[5] = self._motion.sample(now)[5]  # what it holds stays held
        self._motion = Motion(now, [brake(here, np.zeros(6))])

    def _astray(self, measured: Array) -> bool:
        """True when the arm is nowhere where it was told to be lately: something else moves it."""
        return self._motion is None or self._off_path(measured, MEMORY) > ASTRAY

    # --- moving -------------------------------------------------------------------------------------------

    def _interrupt(self, now: float) -> None:
        """Brakes from where the motion is now."""
        assert self._motion is not None
        self._motion = Motion(now, [brake(self._motion.sample(now), self._motion.velocity(now))])

    def _begin(self, now: float, parts: list[Segment]) -> None:
        """Goes on with `parts` after the motion in progress."""
        assert self._motion is not None
        if now >= self._motion.finish:
            self._motion = Motion(now, parts)
        else:
            self._motion.segments += parts

    def _plan(self, now: float) -> Plan:
        assert self._motion is not None
        done = self._idle and now >= self._motion.finish
        times = STEP * np.arange(1, POINTS + 1, dtype=np.float64)
        positions = self._motion.samples(now + self._pace * times)
        velocities = self._pace * self._motion.velocities(now + self._pace * times)
        part, _, _ = self._motion.at(now)
        phase = "done" if done else part.phase if now < self._motion.finish else "wait"
        return Plan(times, positions, velocities, done, phase)


def _on_plate(item: SceneObject, plate: Place) -> bool:
    near = float(np.linalg.norm(item.position[:2] - plate.position[:2])) < ON_PLATE
    return item.place == PLATE and near and abs(rotation_of(item.quaternion)[2, 2]) > FLAT


def _top(scene: dict[str, SceneObject], plate: Place, without: str) -> float:
    """Height (m) of the plate's floor or of what lies on it."""
    under = [i for i in scene.values() if i.place == PLATE and i.name != without]
    return max([float(plate.position[2]), *(float(i.position[2]) + i.size[2] / 2 for i in under)])
