# SPDX-License-Identifier: Apache-2.0
"""Judges what a driver wrote to the servo wire, from its bytes.

It is a witness, so it shares no code with what it judges: bytes are read by `wire`, limits come from
`envelope`. Each thing that an arm node must not do is a rule with a name; `RULES` says what each means.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from chefmate_driver.campaign.envelope import JOINTS, Array, Envelope
from chefmate_driver.campaign.motion import Motion
from chefmate_driver.campaign.recording import Chunk, Direction, Mark, Recording
from chefmate_driver.campaign.wire import (
    BROADCAST,
    PING,
    READ,
    SYNC_READ,
    SYNC_WRITE,
    WRITE,
    Frame,
    FrameReader,
    Scrap,
    sync_entries,
    word,
)

RULES = {
    "garbage": "bytes outside any packet",
    "checksum": "a packet with a wrong checksum",
    "instruction": "an instruction that an arm node has no use for",
    "layout": "a packet whose parameters do not fit its instruction",
    "broadcast": "a write to every servo on the bus",
    "stranger": "a servo that the calibration does not name",
    "eeprom": "a write below register 40: EEPROM wears out, and is for set-up commands",
    "unlock": "register 55 set to 0, which opens the EEPROM",
    "register": "a write to another register than torque, acceleration, goal, speed, torque limit and lock",
    "torque value": "register 40 set to something else than 0 and 1 (128 would move the zero)",
    "torque limit": "register 48 set above 1000",
    "torque on": "torque switched on though nobody asked",
    "torque off": "torque switched off though nobody asked",
    "torque jump": "torque switched on while the goal was not where the joint was",
    "partial goal": "a goal for some of the joints only, or for one joint twice",
    "goal without torque": "a goal, not at the measured position, for a servo without torque",
    "goal in fault": "a goal while the driver said FAULT",
    "unasked motion": "goals that move though no motion was asked since torque came on",
    "e-stop motion": "goals that go on moving after an e-stop",
    "blind": "goals that move while a servo has been silent for too long",
    "position": "a goal outside the range that the URDF and the calibration both allow",
    "first goal": "the first goal after torque on is away from the measured position",
    "speed": "goals that are faster than the joint's limit",
    "acceleration": "goals that start, stop or turn faster than the joint's limit",
    "table": "a goal that puts a finger tip through the table",
}
WRITABLE = {40: 1, 41: 1, 42: 2, 44: 2, 46: 2, 48: 2, 55: 1}  # register: bytes; what a node may write
GOAL, TORQUE, TORQUE_LIMIT, LOCK, PRESENT, EEPROM_END = 42, 40, 48, 55, 56, 40
# A joint that is not held moves between the reading and the write that repeats it; this is about 1 degree.
HELD_STILL = 12.0  # ticks
# A held joint sags under its weight; the driver keeps goals that are within 0.05 rad (33 ticks) of the pose.
SAG = 36.0  # ticks
# Marks are set by another thread than the one that writes, and chunks by another process.
RACE = 0.03  # s
ASKED_WITHIN = 5.0  # s between asking for torque and its write; switching has its own time-out of 3 s
BLIND_FOR = 0.15  # s without a servo's reply: 100 ms to notice, then the cycle and time-outs under way
STOP_ROOM = 10.0  # ticks of motion beyond braking at the limits


@dataclass(frozen=True)
class Violation:
    """One breach of a rule."""

    rule: str  # a key of RULES
    time: float  # s, CLOCK_MONOTONIC
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@dataclass
class _Servo:
    """What the wire tells about one servo."""

    torque: bool | None = None
    present: int | None = None  # ticks
    goal: int | None = None  # ticks
    heard: float | None = None  # s, newest reply
    seen_off: bool = False  # the newest look at its torque said off


@dataclass
class WireMonitor:
    """Takes one recording apart. `judge` returns every violation in the order of time."""

    envelope: Envelope
    jitter: float = 2.0  # cycles: see campaign.motion
    violations: list[Violation] = field(default_factory=list)
    goals: list[tuple[float, Array]] = field(default_factory=list)  # s, ticks (6,), as judged last
    presents: list[tuple[float, int, int]] = field(default_factory=list)  # s, id, ticks

    def heard(self, recording: Recording, until: float) -> dict[int, float]:
        """s, newest right reply of each servo before `until`; -inf for one that was never heard."""
        self.judge(Recording([chunk for chunk in recording.chunks if chunk.time < until]))
        return {id: -np.inf if servo.heard is None else servo.heard for id, servo in self._servos.items()}

    def judge(self, recording: Recording) -> list[Violation]:
        """Violations of the recording; empty: nothing outside the limits was on the wire."""
        self.violations = []
        self._servos = {id: _Servo() for id in self.envelope.ids}
        self._commands, self._replies = FrameReader(), FrameReader()
        self._asked: tuple[int, int, tuple[int, ...]] = (0, 0, ())  # newest read: address, size, ids
        self._answered: set[int] = set()  # ids that have answered it
        self.goals, self.presents = [], []
        self._marks: dict[Mark, float] = {}
        self._motion = Motion(self.envelope, self.jitter)
        self._still: Array | None = None  # goals when torque came on, until motion is asked
        self._stops: dict[str, tuple[Array, Array]] = {}  # rule: goals when it applied, room to brake
        for time, entry in recording.in_order():
            if isinstance(entry, Chunk):
                self._chunk(entry)
            else:
                self._mark(time, entry)
        for scrap in self._commands.forget():
            self._breach("garbage", scrap.time, f"{scrap.data.hex(' ')} at the end")
        self.violations += [Violation(*found) for found in self._motion.breaches()]
        self.violations.sort(key=lambda violation: violation.time)
        return self.violations

    def _breach(self, rule: str, time: float, detail: str) -> None:
        self.violations.append(Violation(rule, time, detail))

    def _mark(self, time: float, mark: Mark) -> None:
        self._marks[mark] = time
        if mark is Mark.PORT_OPENED:
            # What was half on the wire when it was cut is nobody's fault.
            self._commands.forget()
            self._replies.forget()
        elif mark is Mark.MOTION_ASKED:
            self._still = None
        elif mark is Mark.ESTOP_RELEASED:
            self._marks.pop(Mark.ESTOP, None)

    def _since(self, mark: Mark, time: float) -> float:
        return time - self._marks.get(mark, -np.inf)

    def _chunk(self, chunk: Chunk) -> None:
        if chunk.direction is Direction.REPLY:
            for found in self._replies.feed(chunk.time, chunk.data):
                if isinstance(found, Frame):
                    self._reply(found)
            return
        for found in self._commands.feed(chunk.time, chunk.data):
            if isinstance(found, Scrap):
                rule = "checksum" if found.checksum else "garbage"
                self._breach(rule, found.time, found.data.hex(" "))
            else:
                self._command(found)

    # The servos' side

    def _reply(self, frame: Frame) -> None:
        address, size, ids = self._asked
        servo = self._servos.get(frame.id)
        if servo is None or frame.id not in ids or len(frame.body) != size:
            return
        if frame.id in self._answered:
            return  # another servo of that id: the arm's own comes first
        self._answered.add(frame.id)
        servo.heard = frame.time
        if address <= PRESENT and PRESENT + 2 <= address + size:
            servo.present = word(frame.body, PRESENT - address)
            self.presents.append((frame.time, frame.id, servo.present))
        if address <= TORQUE < address + size:
            # Twice: turned bits may slip through the checksum; the driver looks again before it believes.
            off = frame.body[TORQUE - address] != 1
            if not off or servo.seen_off or servo.torque is None:
                servo.torque = not off
            servo.seen_off = off
        if address <= GOAL and GOAL + 2 <= address + size:
            servo.goal = word(frame.body, GOAL - address)

    # The driver's side

    def _command(self, frame: Frame) -> None:
        if frame.id != BROADCAST and frame.id not in self._servos and frame.code in (PING, READ):
            self._breach("stranger", frame.time, f"servo {frame.id}")
        if frame.code in (PING, READ, SYNC_READ):
            self._answered = set()
        if frame.code == PING:
            self._asked = (0, 0, (frame.id,))
        elif frame.code == READ:
            if len(frame.body) != 2:
                self._breach("layout", frame.time, f"read with {len(frame.body)} parameters")
            else:
                self._asked = (frame.body[0], frame.body[1], (frame.id,))
        elif frame.code == SYNC_READ:
            if len(frame.body) < 3 or frame.id != BROADCAST:
                self._breach("layout", frame.time, f"sync read {frame.body.hex(' ')} to {frame.id}")
            else:
                self._asked = (frame.body[0], frame.body[1], tuple(frame.body[2:]))
        elif frame.code == WRITE:
            self._single_write(frame)
        elif frame.code == SYNC_WRITE:
            entries = sync_entries(frame.body)
            if entries is None or frame.id != BROADCAST:
                self._breach("layout", frame.time, f"sync write {frame.body.hex(' ')} to {frame.id}")
            else:
                self._write(frame.time, frame.body[0], entries)
        else:
            self._breach("instruction", frame.time, f"{frame.code:#04x} to {frame.id}")

    def _single_write(self, frame: Frame) -> None:
        if frame.id == BROADCAST:
            self._breach("broadcast", frame.time, f"registers from {frame.body[0] if frame.body else '?'}")
        elif len(frame.body) < 2:
            self._breach("layout", frame.time, f"write with {len(frame.body)} parameters")
        else:
            self._write(frame.time, frame.body[0], [(frame.id, frame.body[1:])])

    def _write(self, time: float, address: int, entries: list[tuple[int, bytes]]) -> None:
        size = len(entries[0][1])
        strangers = [id for id, _ in entries if id not in self._servos]
        if strangers:
            self._breach("stranger", time, f"servos {strangers}")
            entries = [entry for entry in entries if entry[0] in self._servos]
        if address < EEPROM_END:
            self._breach("eeprom", time, f"registers {address} to {address + size - 1}")
            return
        place = address
        while place < address + size:
            if place not in WRITABLE or place + WRITABLE[place] > address + size:
                self._breach("register", time, f"register {place}")
                return
            step = WRITABLE[place]
            values = [(id, data[place - address : place - address + step]) for id, data in entries]
            self._value(time, place, values)
            place += step

    def _value(self, time: float, address: int, values: list[tuple[int, bytes]]) -> None:
        if address == TORQUE:
            self._torque(time, {id: data[0] for id, data in values})
        elif address == GOAL:
            self._goal(time, [(id, word(data, 0)) for id, data in values])
        elif address == LOCK and any(data[0] != 1 for _, data in values):
            self._breach("unlock", time, f"servos {[id for id, data in values if data[0] != 1]}")
        elif address == TORQUE_LIMIT and any(word(data, 0) not in range(1001) for _, data in values):
            self._breach("torque limit", time, f"{[word(data, 0) for _, data in values]}")

    def _torque(self, time: float, values: dict[int, int]) -> None:
        for id, value in values.items():
            servo = self._servos[id]
            if value not in (0, 1):
                self._breach("torque value", time, f"{value} to servo {id}")
                continue
            if value == 1 and servo.torque is not True:
                if (
                    servo.goal is None
                    or servo.present is None
                    or abs(servo.goal - servo.present) > HELD_STILL
                ):
                    self._breach("torque jump", time, f"servo {id}: goal {servo.goal}, at {servo.present}")
            servo.torque = value == 1
        if 1 in values.values():
            if self._since(Mark.TORQUE_ON_ASKED, time) > ASKED_WITHIN:
                self._breach("torque on", time, f"servos {list(values)}")
            self._marks.pop(Mark.FAULT, None)
            goals = [self._servos[id].goal for id in self.envelope.ids]
            if None not in goals:
                self._still = np.array(goals, dtype=np.float64)
                self._motion.restart(self._still, time)
        if 0 in values.values() and self._since(Mark.TORQUE_OFF_ASKED, time) > ASKED_WITHIN:
            self._breach("torque off", time, f"servos {list(values)}")

    def _goal(self, time: float, values: list[tuple[int, int]]) -> None:
        goals = dict(values)
        if len(values) != len(goals) or set(goals) != set(self._servos):
            self._breach("partial goal", time, f"servos {[id for id, _ in values]}")
        limp = [id for id in goals if not self._servos[id].torque]
        asked = self._marks.get(Mark.TORQUE_ON_ASKED, -np.inf)
        again = asked > self._marks.get(Mark.FAULT, np.inf) and time - asked < ASKED_WITHIN
        if again or (limp and len(limp) == len(goals)):
            self._preload(time, goals)
            return
        for id in limp:
            present = self._servos[id].present
            if present is None or abs(goals[id] - present) > HELD_STILL:
                self._breach("goal without torque", time, f"servo {id}: goal {goals[id]}, at {present}")
        before = np.array([self._servos[id].goal or 0 for id in self.envelope.ids], dtype=np.float64)
        known = all(self._servos[id].goal is not None for id in self.envelope.ids)
        for id, goal in goals.items():
            self._servos[id].goal = goal
        if set(goals) == set(self._servos):
            now = np.array([goals[id] for id in self.envelope.ids], dtype=np.float64)
            self._moving_goal(time, before if known else None, now)

    def _preload(self, time: float, goals: dict[int, int]) -> None:
        """Goals before torque comes on, or on anew after a fault: only to where each joint is, or, of a servo
        that holds, the one that it has."""
        for id, goal in goals.items():
            servo = self._servos[id]
            if servo.torque and goal == servo.goal:
                continue
            if servo.present is None or abs(goal - servo.present) > HELD_STILL:
                self._breach("goal without torque", time, f"servo {id}: goal {goal}, at {servo.present}")
            servo.goal = goal

    def _moving_goal(self, time: float, before: Array | None, goal: Array) -> None:
        servos = [self._servos[id] for id in self.envelope.ids]
        present = np.array([np.nan if s.present is None else s.present for s in servos])
        if self._motion.fresh:
            # The first goal after torque came on, or after the monitor's first look.
            away = np.abs(goal - present)
            if not (away <= SAG).all():
                joint = int(np.nanargmax(np.where(np.isnan(away), np.inf, away)))
                self._breach(
                    "first goal", time, f"{JOINTS[joint]}: goal {goal[joint]:g}, at {present[joint]:g}"
                )
        if self._since(Mark.FAULT, time) > RACE and Mark.FAULT in self._marks:
            self._breach("goal in fault", time, f"{goal.astype(int).tolist()}")
        if self._still is not None and (np.abs(goal - self._still) > 1.0).any():
            self._breach("unasked motion", time, f"{(goal - self._still).astype(int).tolist()} ticks")
        if before is not None:
            self._must_stop(time, before, goal, present)
        self.goals.append((time, goal))
        self._motion.add(time, goal, before)

    def _must_stop(self, time: float, before: Array, goal: Array, present: Array) -> None:
        """After an e-stop, and while a servo is silent, goals brake or go towards where the joints are."""
        due = {}
        if Mark.ESTOP in self._marks and self._since(Mark.ESTOP, time) > RACE:
            due["e-stop motion"] = "after the e-stop"
        for name, id in zip(JOINTS, self.envelope.ids, strict=True):
            heard = self._servos[id].heard
            if heard is not None and time - heard > BLIND_FOR:
                due["blind"] = f"while {name} has been silent for {time - heard:.3f} s"
        self._stops = {rule: stop for rule, stop in self._stops.items() if rule in due}
        for rule, when in due.items():
            if rule not in self._stops:
                speed = self._motion.speed()
                room = speed * speed / (2.0 * self.envelope.acceleration) + speed * 2.0 * self.envelope.period
                self._stops[rule] = (before, room + STOP_ROOM)
            start, room = self._stops[rule]
            away = np.abs(goal - present) > np.abs(before - present) + 1.0
            gone = (np.abs(goal - start) > room) & away
            if gone.any():
                joint = int(np.argmax(gone))
                self._breach(rule, time, f"{JOINTS[joint]}: {goal[joint] - start[joint]:.0f} ticks {when}")
