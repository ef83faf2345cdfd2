# SPDX-License-Identifier: Apache-2.0
"""One run of the campaign: the driver's control stack on emulated servos, a fault during motion, recovery."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from chefmate_driver.arm.assembly import open_servos, protection, safety_filter
from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.controller import ArmController, ArmState
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.loop import ArmLoop
from chefmate_driver.arm.model import GRIPPER, JOINT_NAMES
from chefmate_driver.arm.trajectory import Trajectory, check_trajectory
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.campaign.classes import JAM_LAG, JAM_SHOWS, REACTION, Duty
from chefmate_driver.campaign.envelope import Envelope
from chefmate_driver.campaign.monitor import Violation, WireMonitor
from chefmate_driver.campaign.plan import MOTION, Kind, Plan
from chefmate_driver.campaign.recording import Mark, Recording
from chefmate_driver.campaign.servos import EmulatedServos
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.errors import FeetechError
from chefmate_driver.feetech.faults import FaultKind

Vector = NDArray[np.float64]
CONNECT = 5.0  # s
LOOK = 0.002  # s between two looks at the driver
HANG = 1.0  # s without a control cycle
GIVE_UP = 5.0  # s after the fault, when a driver that has not recovered never will
CHUNK, CHUNK_EVERY, BEAT_EVERY = (
    0.5,
    0.2,
    0.05,
)  # s: a chunk's length, and how often chunks and heartbeats come
RETURN = 0.3  # s of the move that shows that the arm goes on after its recovery
# Reasons that a run brings about itself: its e-stop, its targets out of range, its policy that ends.
EXPECTED = ("e-stop", "safety filter", "policy lease")
JAM_SPAN = 0.04  # s over which a commanded speed is taken
JAM_WINDOW = 0.3  # s over which a jammed joint's commanded speed counts
SPOILED_LEAST = 5  # spoiled packets that a driver cannot overlook, whichever they were


@dataclass(frozen=True)
class Look:
    """The driver as the outside saw it from `time` on."""

    time: float  # s, CLOCK_MONOTONIC
    state: ArmState
    reason: str


@dataclass
class Result:
    """What came of a run."""

    seed: int
    fault: str
    motion: str
    outcome: str = ""  # "carried on", "braked", "fault"
    violations: list[str] = field(default_factory=list)
    hang: str = ""
    unnamed: str = ""  # what the driver said instead
    reaction: float | None = None  # s
    recovery: float | None = None  # s
    problem: str = ""  # anything else that should not be
    reasons: list[str] = field(default_factory=list)
    spoiled: int = 0  # replies or commands that the fault hit

    def failures(self, reaction: float, recovery: float) -> list[str]:
        """What the run breaks of the promises, in words."""
        found = [f"violation {text}" for text in self.violations]
        found += [f"hang: {self.hang}"] if self.hang else []
        found += [f"unnamed: {self.unnamed}"] if self.unnamed else []
        if self.reaction is not None and self.reaction > reaction:
            found.append(f"reaction {1e3 * self.reaction:.0f} ms")
        if self.recovery is not None and self.recovery > recovery:
            found.append(f"recovery {self.recovery:.2f} s")
        return found + ([self.problem] if self.problem else [])


class Watch:
    """Looks at a driver all the time: its states and reasons, its counters, and whether it still cycles."""

    def __init__(self, loop: ArmLoop) -> None:
        self._loop = loop
        self.looks: list[Look] = []
        self.counted: list[tuple[float, int]] = []  # s, sum of the bus's error counters when it changed
        self.longest = 0.0  # s, longest time without a control cycle
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the watch."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due, moved = self._loop.grid.due, time.monotonic()
        while not self._stop.wait(LOOK):
            now, controller = time.monotonic(), self._loop.controller
            state, reason = controller.state, controller.reason
            if not self.looks or (self.looks[-1].state, self.looks[-1].reason) != (state, reason):
                self.looks.append(Look(now, state, reason))
            count = sum(self._loop.snapshot.errors.values()) + self._loop.snapshot.bus_errors
            if not self.counted or self.counted[-1][1] != count:
                self.counted.append((now, count))
            if self._loop.grid.due != due:
                due, moved = self._loop.grid.due, now
            self.longest = max(self.longest, now - moved)


class Run:
    """Carries a plan out. Everything that the driver is asked for goes through here, and is marked."""

    def __init__(self, plan: Plan, servos: EmulatedServos, folder: Path, calibration: Path, parameters: Path):
        """folder: for the pty's link; calibration, parameters: the arm's files."""
        self.plan, self._servos, self._calibration = plan, servos, calibration
        given = yaml.safe_load(parameters.read_text())["/**"]["ros__parameters"]
        given["port"] = str(folder / "arm")
        self._value: Callable[[str], Any] = given.__getitem__
        self._envelope = Envelope.of(calibration, parameters)
        self._units = ArmUnits(read_calibration(calibration))
        self._marks: list[tuple[float, Mark]] = []
        self._began = self._moved_again = 0.0  # s, CLOCK_MONOTONIC
        self.recording = Recording()
        self.violations: list[Violation] = []

    def carry_out(self) -> Result:
        """The whole run; DriverError if it cannot even begin."""
        result = Result(self.plan.seed, self.plan.fault.kind.value, self.plan.motion.value)
        self._servos.begin(self._calibration, Path(self._value("port")), self.plan.start)
        try:
            self._drive(result)
        finally:
            self.recording, result.spoiled = self._servos.end()
        self.recording.marks += self._marks
        self._judge(result)
        return result

    def _drive(self, result: Result) -> None:
        self._controller = ArmController(safety_filter(self._value, self._units), lease=self._value("lease"))
        self._loop = ArmLoop(
            self._controller,
            lambda: open_servos(self._value, self._units),
            rate=self._value("rate"),
            answer_timeout=self._value("answer_timeout"),
            on_sample=lambda sample: None,
            protection=protection(self._value),
            priority=self._value("realtime_priority"),
        )
        self._connect()
        self._controller.activate()
        self._loop.start()
        self._watch = Watch(self._loop)
        try:
            self._torque_on(3.0)
            self._perform(result)
        finally:
            self._watch.close()
            self._loop.stop()
        self._marks += [(look.time, Mark.FAULT) for look in self._watch.looks if look.state is ArmState.FAULT]

    def _connect(self) -> None:
        """As the node does with `port_timeout`: a machine that is busy for a moment is not on trial."""
        deadline = time.monotonic() + CONNECT
        while True:
            try:
                return self._loop.connect()
            except FeetechError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    # What is asked of the driver

    def _mark(self, what: Mark) -> None:
        self._marks.append((time.monotonic(), what))

    def _torque_on(self, timeout: float) -> None:
        self._mark(Mark.TORQUE_ON_ASKED)
        self._loop.set_torque(True, timeout)

    def _send(self, trajectory: Trajectory) -> None:
        with self._loop.edit():
            self._controller.accept(trajectory, time.monotonic())
        self._mark(Mark.MOTION_ASKED)

    def _trajectory(self, rows: list[tuple[float, ...]], times: list[float], *, leased: bool) -> Trajectory:
        now = time.monotonic()
        return check_trajectory(JOINT_NAMES, times, rows, [], stamp=None, now=now, leased=leased)

    def _perform(self, result: Result) -> None:
        plan = self.plan
        begun = time.monotonic()
        actions = self._actions()
        self._servos.play(plan.fault, plan.seed)
        while True:
            now = time.monotonic() - begun
            while actions and actions[0][0] <= now:
                actions.pop(0)[1]()
            if now > plan.fault.start + plan.fault.duration:
                events = self._servos.events()
                if len(events) == 2:
                    self._began, over = events[0][0], events[1][0]
                    break
            time.sleep(LOOK)
        self._recover(result, over, [(begun + due, action) for due, action in actions])

    def _actions(self) -> list[tuple[float, Callable[[], None]]]:
        """What the operator or the policy does, by s from the start of the motion."""
        plan = self.plan
        way = [plan.start, *plan.targets]
        step = MOTION / len(plan.targets)
        if plan.motion is not Kind.CHUNKS:
            times = [step * (index + 1) for index in range(len(plan.targets))]
            moves: list[tuple[float, Callable[[], None]]] = [
                (0.0, lambda: self._try(lambda: self._send(self._trajectory(way[1:], times, leased=False))))
            ]
            if plan.estop is not None:
                moves.append((plan.estop, self._estop))
            return moves
        self._beat(False)

        def chunk(begin: float) -> Callable[[], None]:
            def rows() -> list[tuple[float, ...]]:
                dues = [begin + CHUNK * (k + 1) / 5 for k in range(5)]
                return [_along(way, min(due / step, len(way) - 1.0)) for due in dues]

            times = [CHUNK * (k + 1) / 5 for k in range(5)]
            return lambda: self._try(lambda: self._send(self._trajectory(rows(), times, leased=True)))

        beats = [(BEAT_EVERY * k, lambda: self._beat(True)) for k in range(round(MOTION / BEAT_EVERY))]
        chunks = [
            (CHUNK_EVERY * k + 0.001, chunk(CHUNK_EVERY * k)) for k in range(round(MOTION / CHUNK_EVERY))
        ]
        return sorted([*beats, *chunks], key=lambda action: action[0])

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ArmError:
            return  # refused, which the states and reasons tell

    def _beat(self, driving: bool) -> None:
        with self._loop.edit():
            self._controller.heartbeat(driving, "DRIVING" if driving else "IDLE", time.monotonic())

    def _estop(self) -> None:
        with self._loop.edit():
            self._controller.latch_estop("e-stop: the campaign")
        self._mark(Mark.ESTOP)

    def _recover(self, result: Result, over: float, actions: list[tuple[float, Callable[[], None]]]) -> None:
        """Re-arms by the explicit calls that an owner makes, then shows that the arm moves again."""
        carried_on = self._controller.state is ArmState.FOLLOWING
        if carried_on:
            result.recovery = 0.0
            while self._controller.state is ArmState.FOLLOWING and time.monotonic() < over + GIVE_UP:
                while actions and actions[0][0] <= time.monotonic():
                    actions.pop(0)[1]()
                time.sleep(LOOK)
        deadline = max(over, time.monotonic()) + GIVE_UP
        # Nobody starts anew in the instant in which a servo comes back.
        time.sleep(max(over + REACTION - time.monotonic(), 0.0))
        while time.monotonic() < deadline:
            if self._controller.estop:
                with self._loop.edit():
                    self._controller.release_estop()
                self._mark(Mark.ESTOP_RELEASED)
            state = self._controller.state
            if state in (ArmState.FAULT, ArmState.READY, ArmState.UNPOWERED):
                self._rearm(deadline)
            elif state is ArmState.HOLDING and self._moves_again():
                if result.recovery is None:
                    result.recovery = self._moved_again - over
                break
            time.sleep(LOOK)
        else:
            result.problem = f"did not recover: {self._controller.state.value} {self._controller.reason}"
            return
        self._wait_for_hold(result)

    def _rearm(self, deadline: float) -> None:
        try:
            self._torque_on(max(deadline - time.monotonic(), 0.1))
        except (DriverError, OSError, FutureTimeoutError):
            time.sleep(0.02)

    def _moves_again(self) -> bool:
        position = self._controller.safety.position
        limits = self._controller.safety.limits
        goal = position + 0.1 * ((position < 0.5 * (limits.lower + limits.upper)) - 0.5) * 2.0
        goal[[1, 2, 3, 5]] = position[[1, 2, 3, 5]]  # what may bring a finger tip to the table stays
        try:
            self._send(self._trajectory([tuple(goal)], [RETURN], leased=False))
        except ArmError:
            return False
        self._moved_again = time.monotonic()
        return True

    def _wait_for_hold(self, result: Result) -> None:
        deadline = time.monotonic() + GIVE_UP
        while self._controller.state is ArmState.FOLLOWING and time.monotonic() < deadline:
            time.sleep(LOOK)
        reason = self._controller.reason
        if self._controller.state is not ArmState.HOLDING or (reason and not _expected(reason)):
            result.problem = (
                f"did not move after its recovery: {self._controller.state.value} {self._controller.reason}"
            )

    # What is made of it

    def _last_heard(self, until: float) -> float:
        """s, when the servo that has been silent longest at `until` was heard last, from the wire.

        A reply of the cycle in which the driver decided came too late for the decision.
        """
        cycle = 2.0 * self._envelope.period
        heard = WireMonitor(self._envelope).heard(self.recording, until - cycle)
        return min(heard.values())

    def _jam_shows(self) -> float | None:
        """s, when a jammed joint was first too far behind to be lagging; None: never while it was jammed."""
        monitor, envelope, fault = self._monitor, self._envelope, self.plan.fault
        times = np.array([when for when, _ in monitor.goals])
        goals = np.array([goal for _, goal in monitor.goals])
        if len(times) < 2:
            return None
        for when, id, present in monitor.presents:
            joint = envelope.ids.index(id)
            if not self._began <= when <= self._began + fault.duration or joint == GRIPPER:
                continue
            row = int(np.searchsorted(times, when)) - 1
            first = int(np.searchsorted(times, when - JAM_WINDOW))
            if id not in fault.ids or row <= first:
                continue
            ticks = abs(envelope.scale[joint])
            speed = _peak_speed(times[first : row + 1], goals[first : row + 1, joint]) / ticks
            if abs(goals[row, joint] - present) / ticks > JAM_SHOWS + JAM_LAG * speed:
                return when
        return None

    def _judge(self, result: Result) -> None:
        watch = self._watch
        self._monitor = WireMonitor(self._envelope)
        self.violations = self._monitor.judge(self.recording)
        result.violations = [str(violation) for violation in self.violations]
        if watch.longest > HANG:
            result.hang = f"no control cycle for {watch.longest:.2f} s"
        elif not self._loop.alive:
            result.hang = "the control loop died"
        self._judge_reaction(result)

    def _judge_reaction(self, result: Result) -> None:
        began, watch = self._began, self._watch
        duty, words = self.plan.fault_class.duty, self.plan.fault_class.words
        told = [look for look in watch.looks if look.time >= began and look.reason]
        result.reasons = list(dict.fromkeys(look.reason for look in told))
        named = [look for look in told if any(word in look.reason for word in words)]
        # Once the cause was named, what follows from it may be told, too; but not as a fault's reason.
        first = named[0].time if named else np.inf
        strange = [
            look
            for look in told
            if look not in named
            and not _expected(look.reason)
            and (look.time < first or look.state is ArmState.FAULT)
        ]
        counted = [when for when, _ in watch.counted if when >= began]
        # An e-stop that came before the fault could show leaves nothing to stop.
        halted = any(mark is Mark.ESTOP and when < began + REACTION for when, mark in self._marks)
        shows = self._jam_shows() if self.plan.fault.kind is FaultKind.STUCK else began
        stopped = [look for look in named if look.state is not ArmState.FOLLOWING]
        result.outcome = "carried on"
        if any(look.state is ArmState.FAULT for look in named):
            result.outcome = "fault"
        elif stopped:
            result.outcome = "braked"
        if stopped:
            # A fault that spoils some replies and lets others pass becomes one with the first servo that is
            # not heard any more; of any other the time is counted from where it began.
            since = began if duty is Duty.STOP else max(began, self._last_heard(stopped[0].time))
            if self.plan.fault.kind is FaultKind.STUCK:
                since = min(shows or np.inf, stopped[0].time)
            if not halted:
                result.reaction = stopped[0].time - since
        elif duty is Duty.STOP and not halted and shows is not None:
            result.unnamed = f"not stopped; said {result.reasons or 'nothing'}"
        elif result.spoiled >= SPOILED_LEAST and self.plan.fault_class.counters and not counted:
            result.unnamed = f"{result.spoiled} replies or commands spoiled, none counted"
        if strange:
            result.unnamed = strange[0].reason


def _expected(reason: str) -> bool:
    return any(words in reason for words in EXPECTED)


def _peak_speed(times: Vector, goals: Vector) -> float:
    """Largest mean speed of goals over JAM_SPAN, in their unit per s."""
    lasts = np.searchsorted(times, times + JAM_SPAN)
    pairs = [(first, last) for first, last in enumerate(lasts) if last < len(times)] or [(0, len(times) - 1)]
    return max(float(abs(goals[last] - goals[first]) / (times[last] - times[first])) for first, last in pairs)


def _along(way: list[tuple[float, ...]], place: float) -> tuple[float, ...]:
    """Linear between the points of `way` at `place`, 0 to len(way) - 1."""
    index = min(int(place), len(way) - 2)
    share = place - index
    return tuple(a + share * (b - a) for a, b in zip(way[index], way[index + 1], strict=True))
