# SPDX-License-Identifier: Apache-2.0
"""The control loop: one thread, one bus, one cycle after the other on an absolute time grid. No ROS in here.

A cycle sends first and reads afterwards: the goal leaves at its place on the grid, whatever the replies take.
It is computed for that place, from the readings of the cycle before.

Only this thread touches the bus. Other threads look at `snapshot`, change what the controller is to do
through the methods below, and hand it bus work (torque) that it does between two cycles.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.black_box import BlackBox
from chefmate_driver.arm.controller import ArmController, ArmState
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.inspection import Inspection
from chefmate_driver.arm.protection import Protection, Vitals
from chefmate_driver.arm.servos import TORQUE_UNIT, ArmServos
from chefmate_driver.arm.timing import Grid, real_time_priority
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.errors import FeetechError, PortNotFoundError, ServoMissingError
from chefmate_driver.feetech.packet import status_text
from chefmate_driver.feetech.registers import CURRENT_UNIT, LOAD_UNIT, VOLTAGE_UNIT, Feedback

Vector = NDArray[np.float64]
TORQUE_CHECK = 0.05  # s in which every servo's torque registers are looked at once
QUIET = 0.05  # s of a servo's silence after which the arm brakes; it is a fault after `answer_timeout`
DOUBLED_LATELY = 2.0  # s after a doubled reply for which an odd reading is blamed on it
RECONNECT = 0.2  # s between attempts to find lost servos
# s before its place on the grid at which a goal is computed: the filter takes 0.7 ms, 1.3 beside other work
LEAD = 0.0025
READ_PERIODS = 2  # a cycle's read may take so many with all its repetitions, and at least SHORTEST_READ
SHORTEST_READ = 0.02  # s
MOST_PERIODS = 3  # a step of the filter covers at most this many, however late the cycle
VITALS_RATE = 20.0  # Hz, at which the protection looks
# s in which the torque limits sink to nothing before the protection lets go: the arm sinks, it does not drop.
SINK_TIME = 1.5
SINK_STEP = 0.05  # s between two torque limits of it
HOLDS_TORQUE = (ArmState.HOLDING, ArmState.FOLLOWING, ArmState.BRAKING, ArmState.TELEOPERATED)


@dataclass(frozen=True)
class Sample:
    """One complete reading of all joints."""

    stamp: int  # ns, wall clock, when the reply arrived
    position: Vector  # rad (6,)
    velocity: Vector  # rad/s (6,)
    load: list[float]  # share of full PWM duty, -1..1


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


class ArmLoop:
    """Runs a controller on servos. `connect` finds them, `start` begins the cycles, `stop` ends them."""

    def __init__(
        self,
        controller: ArmController,
        open_servos: Callable[[], ArmServos],
        *,
        rate: float,
        answer_timeout: float,
        on_sample: Callable[[Sample], None],
        inspect: Callable[[ArmServos], Inspection] | None = None,
        protection: Protection | None = None,
        black_box: BlackBox | None = None,
        priority: int = 0,
    ) -> None:
        """open_servos: opens the bus, also after it was lost. rate: Hz, wanted. answer_timeout: s without an
        answer of a servo after which it counts as lost. on_sample: called in the loop's thread for each
        complete reading. inspect: looks at servos that were found; None: nobody does. protection: what keeps
        the servos from harm; None: nothing does. priority: of SCHED_FIFO, 0 for none."""
        self.controller, self.snapshot = controller, Snapshot()
        self.protection, self.black_box = protection, black_box
        self.grid = Grid(rate)
        self.scheduling = ""  # what the loop's thread got of its priority
        self.inspection: Inspection | None = None  # of the servos, when they were found
        self.slow_bus = ""  # why the loop runs slower than it should, with the mend; empty: it does not
        self.limits_restored = 0  # times that a torque limit was not as written, and was written again
        self._rate, self._inspect = rate, inspect
        self._open, self._on_sample, self._answer_timeout = open_servos, on_sample, answer_timeout
        self._priority = priority
        self._servos: ArmServos | None = None
        self._lock = threading.Lock()  # guards the controller
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard: dict[int, float] = {}  # s, monotonic, newest answer by servo id
        self._torque_checked, self._turn = 0.0, 0
        self._measured = 0.0  # s, monotonic, the newest complete reading
        self._vitals_seen = 0.0  # s, monotonic
        self._limits: dict[int, float] = {}  # torque limits as written, share of the stall torque, by id
        self._duplicates: dict[int, int] = {}  # replies of a second servo with the same id, by id
        self._doubled: dict[int, float] = {}  # s, monotonic, when the newest of them was noticed, by id
        self._unsure = False  # a servo was silent, or seemed limp, and nobody has seen its torque since
        self._status = np.zeros(6, dtype=np.int64)  # status bits of the newest complete reading
        self._sinking: float | None = None  # s, monotonic, since the torque limits sink
        self._sunk_at = 0.0
        self._retry_at = 0.0
        self._nothing: Vector = np.full(6, np.nan)
        self._noted: tuple[ArmState, str] = (ArmState.UNPOWERED, "")  # in the black box

    def connect(self) -> None:
        """Opens the bus and reads where the arm is; writes nothing. Raises FeetechError, ArmError."""
        servos = self._open()
        try:
            if self._inspect is not None:
                self._adapt(self._inspect(servos))
            feedback, goals, (torque, limits) = servos.feedback(), servos.goals(), servos.torque_state()
            if len(feedback) < len(servos.ids):
                raise FeetechError(
                    f"{servos.bus.port}: the servos answer irregularly; check cable and supply"
                )
            position, _ = servos.motion(feedback)
        except Exception:
            servos.bus.close()
            raise
        now = time.monotonic()
        self._servos = servos
        self._heard = dict.fromkeys(servos.ids, now)
        self._measured = now
        self._torque_checked = now
        # An arm that holds already has the limits that an earlier node wrote; others get theirs with torque.
        self._limits, self._sinking = limits if all(torque) else {}, None
        self._duplicates, self._doubled = {}, {}
        self.snapshot = Snapshot(
            torque=dict(zip(servos.ids, torque, strict=True)), torque_limit=limits, feedback=feedback
        )
        with self._lock:
            self.controller.connect(position, goals, all(torque), _partly(servos, torque))

    def _adapt(self, inspection: Inspection) -> None:
        """A bus that cannot hold the wanted rate is cycled at the one that it can."""
        self.inspection, self.slow_bus = inspection, inspection.slow_bus(self._rate)
        if (rate := inspection.rate(self._rate)) != self.grid.rate:
            self.grid = Grid(rate)

    def start(self) -> None:
        """Begins the cycles."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="arm-control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the cycles and frees the port. The servos hold what they were told last."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._servos is not None:
            self._servos.bus.close()
            self._servos = None

    def edit(self) -> threading.Lock:
        """Lock to hold while using the controller from another thread."""
        return self._lock

    @property
    def alive(self) -> bool:
        """False if the thread ended without `stop`: a defect, after which nobody watches the servos."""
        return self._thread is None or self._thread.is_alive()

    def set_torque(self, on: bool, timeout: float = 3.0) -> None:
        """Switches torque between two cycles, and waits until that is confirmed.

        Raises TransitionError, ArmError or FeetechError with the reason, TimeoutError if the loop is stuck.
        """
        done: Future[None] = Future()
        self._work.put((self._torque_on if on else self._torque_off, done))
        done.result(timeout)

    def _run(self) -> None:
        self.scheduling = real_time_priority(self._priority)
        self.grid.restart()
        try:
            while not self._stop.is_set():
                periods = self.grid.wake(LEAD)
                try:
                    self._cycle(min(periods, MOST_PERIODS) * self.grid.period)
                except FeetechError as error:
                    self._lost(str(error))
                self._do_work()
                self._note()
        except BaseException as error:
            if self.black_box is not None:
                self.black_box.trigger("loop", f"the control loop died: {error!r}")
            raise

    def _cycle(self, dt: float) -> None:
        servos = self._servos
        if servos is None:
            self.grid.rest()
            self._reconnect()
            return
        # For its place on the grid: the goal is exact however late the thread woke, and leaves on time.
        with self._lock:
            command = self.controller.step(self.grid.due, dt)
        goals = servos.goals_as_bytes(command) if command is not None else None
        self.grid.rest()
        if goals is not None:
            servos.send(goals)
        if self.controller.let_go:
            self._sink(servos)
        else:
            self._sinking = None
        feedback = servos.feedback(time.monotonic() + max(READ_PERIODS * self.grid.period, SHORTEST_READ))
        stamp, now = time.time_ns(), time.monotonic()
        complete = len(feedback) == len(servos.ids)
        self._unsure |= not self.snapshot.answered.issuperset(feedback)
        self._remember(servos, feedback, stamp, now)
        if complete:
            self._take(servos, feedback, stamp, now, command)
        # A servo that is back after a silence may have lost its supply: look before the next goal is sent.
        if complete and self._unsure:
            self._check_torque(servos)
        elif complete and now - self._torque_checked > TORQUE_CHECK / len(servos.ids):
            self._torque_checked = now
            self._look_at_torque(servos, now)

    def _take(
        self, servos: ArmServos, feedback: dict[int, Feedback], stamp: int, now: float, command: Vector | None
    ) -> None:
        """A complete reading: to the controller, to the world, to the protection, into the black box."""
        position, velocity = servos.motion(feedback)
        rows = [feedback[id] for id in servos.ids]
        loads = [row.load * LOAD_UNIT for row in rows]
        with self._lock:
            self.controller.update(
                position, velocity, min(now - self._measured, MOST_PERIODS * self.grid.period)
            )
        self._measured = now
        self._on_sample(Sample(stamp, position, velocity, loads))
        status = np.array(
            [servos.bus.status.get(id, 0) | row.status for id, row in zip(servos.ids, rows, strict=True)],
            dtype=np.int64,
        )
        seen_twice = status & self._status  # turned bits of one reply may slip through its checksum
        self._status = status
        looks = self.protection is not None and now - self._vitals_seen > 1.0 / VITALS_RATE
        if not looks and self.black_box is None:
            return
        currents = [row.current * CURRENT_UNIT for row in rows]
        temperatures = [float(row.temperature) for row in rows]
        if looks and self.protection is not None:
            self._vitals_seen = now
            vitals = Vitals(
                np.array(loads),
                np.array(currents),
                np.array(temperatures),
                np.array([row.voltage * VOLTAGE_UNIT for row in rows]),
                seen_twice,
            )
            verdict = self.protection.update(vitals, now)
            with self._lock:
                self.controller.protect(verdict)
            self._limit_torque(servos, self.protection)
        if self.black_box is not None:
            sent = self._nothing if command is None else command
            self.black_box.record(
                stamp, position, velocity, sent, loads, currents, temperatures, status.tolist()
            )

    def _remember(self, servos: ArmServos, feedback: dict[int, Feedback], stamp: int, now: float) -> None:
        snapshot = self.snapshot
        snapshot.stamp = stamp if feedback else snapshot.stamp
        snapshot.cycles += 1
        snapshot.bus_errors = servos.bus.failures
        snapshot.feedback = snapshot.feedback | feedback
        snapshot.answered = frozenset(feedback)
        snapshot.status = servos.bus.status
        for id in feedback:
            self._heard[id] = now
        silent = [
            f"{joint.id} ({joint.name})"
            for joint in servos.units.joints
            if now - self._heard[joint.id] > self._answer_timeout
        ]
        quiet = [joint for joint in servos.units.joints if now - self._heard[joint.id] > QUIET]
        names = ", ".join(f"{joint.id} ({joint.name})" for joint in quiet)
        blind = f"servo {names} has not answered for {QUIET:g} s" if quiet else ""
        # Servos that are silent in turns: each answers often enough, and where the arm is nobody knows.
        limit = max(QUIET, 2.0 * self.grid.period)
        if not blind and len(feedback) < len(servos.ids) and now - self._measured > limit:
            missing = ", ".join(str(id) for id in servos.ids if id not in feedback)
            blind = f"no reading of all servos for {limit:g} s, servo {missing} has not answered last"
        with self._lock:
            # One that is back is not in sight before its torque is: it may have lost its supply.
            if self.controller.connected and (blind or not self._unsure):
                self.controller.lose_sight(blind)
            if silent and self.controller.connected:
                self.controller.lose(
                    f"servo {', '.join(silent)} has not answered for {self._answer_timeout:g} s; "
                    "check cable and supply, then call arm/torque"
                )
            elif not silent and not self.controller.connected:
                self._found(servos, feedback)

    def _found(self, servos: ArmServos, feedback: dict[int, Feedback]) -> None:
        """All servos answer again. The fault stays until torque is switched by hand."""
        if len(feedback) == len(servos.ids):
            position, _ = servos.motion(feedback)
            self.controller.connect(position, position, False)

    def _look_at_torque(self, servos: ArmServos, now: float) -> None:
        """One servo after the other, so that no cycle is longer than the others."""
        self._turn = (self._turn + 1) % len(servos.ids)
        id = servos.ids[self._turn]
        if self._turn == 0:
            self.snapshot.errors, self.snapshot.error_kinds = servos.bus.errors, servos.bus.error_kinds
        state = servos.torque_of(id, now + SHORTEST_READ)
        if state is None:
            return  # the feedback of the next cycles tells whether it is gone
        torque, limit = state
        self.snapshot.torque = {**self.snapshot.torque, id: torque}
        self.snapshot.torque_limit = {**self.snapshot.torque_limit, id: limit}
        as_written = self._sinking is not None or abs(limit - self._limits.get(id, limit)) <= TORQUE_UNIT
        if self.controller.torque and not (torque and as_written):
            self._check_torque(servos)

    def _check_torque(self, servos: ArmServos, again: bool = False) -> None:
        """All servos at once: does torque hold, and are the torque limits as they were written?"""
        try:
            torque, limits = servos.torque_state(time.monotonic() + SHORTEST_READ)
        except ServoMissingError:
            self._unsure = True  # looked at again; the feedback of the next cycles tells whether it is gone
            return
        self._unsure = False
        self.snapshot.torque = dict(zip(servos.ids, torque, strict=True))
        self.snapshot.torque_limit = limits
        reset = [
            id
            for id, share in self._limits.items()
            if abs(limits[id] - share) > TORQUE_UNIT and self._sinking is None
        ]
        self.limits_restored += bool(reset)
        now = time.monotonic()
        for id, counts in servos.bus.counters.items():
            if counts.duplicate > self._duplicates.get(id, 0):
                self._duplicates[id], self._doubled[id] = counts.duplicate, now
        with self._lock:
            if not self.controller.torque:
                return
            gone = not all(torque)
        if gone and not again:  # one reading is no proof: another servo may have answered as this one
            self._check_torque(servos, again=True)
            return
        if gone:
            with self._lock:
                self.controller.fail(self._torque_gone(servos, torque, reset))
            return
        if reset and self._may_limit:  # torque is on though: written again
            servos.limit_torque({id: self._limits[id] for id in reset})

    def _torque_gone(self, servos: ArmServos, torque: list[bool], reset: list[int]) -> str:
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
        return self.controller.active and self.controller.execute

    def _limit_torque(self, servos: ArmServos, protection: Protection) -> None:
        """Writes the torque limits that the protection has changed: the gripper's while it squeezes."""
        controller = self.controller
        if not (self._may_limit and controller.torque and self._limits) or self._sinking is not None:
            return
        wanted = dict(zip(servos.ids, protection.torque_limits.tolist(), strict=True))
        changed = {id: share for id, share in wanted.items() if abs(share - self._limits[id]) >= TORQUE_UNIT}
        if changed:
            servos.limit_torque(changed)
            self._limits |= changed

    def _sink(self, servos: ArmServos) -> None:
        """The protection lets go: torque limits sink to nothing, then torque goes off."""
        now = time.monotonic()
        if self._sinking is None:
            self._sinking, self._sunk_at = now, 0.0
        left = 1.0 - (now - self._sinking) / SINK_TIME
        if left > 0.0:
            if now - self._sunk_at > SINK_STEP:
                self._sunk_at = now
                servos.limit_torque({id: left * self._limits.get(id, 1.0) for id in servos.ids})
            return
        reason = self.controller.verdict.reason
        try:
            servos.disable()
        except ArmError as error:
            reason = f"{reason}; and {error}"
        self._sinking, self._limits = None, {}
        self.snapshot.torque = dict(zip(servos.ids, servos.torque_state()[0], strict=True))
        with self._lock:
            self.controller.fail(reason)

    def _note(self) -> None:
        """Tells the black box of a new state; a fault and an e-stop make it write."""
        if self.black_box is None:
            return
        state, reason = self.controller.state, self.controller.reason
        if (state, reason) == self._noted:
            return
        before, self._noted = self._noted[0], (state, reason)
        self.black_box.note("state", f"{state.value}: {reason}" if reason else state.value)
        if state is not before and state in (ArmState.FAULT, ArmState.ESTOPPED):
            self.black_box.trigger("fault" if state is ArmState.FAULT else "estop", reason)

    def _lost(self, reason: str) -> None:
        if self._servos is not None:
            self._servos.bus.close()
            self._servos = None
        self.snapshot.answered = frozenset()
        self._retry_at = time.monotonic() + RECONNECT
        with self._lock:
            self.controller.lose(reason)

    def _reconnect(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + RECONNECT
        try:
            self.connect()
        except (PortNotFoundError, ServoMissingError):
            return  # the fault's reason stands; the next attempt comes
        except DriverError as error:
            with self._lock:
                self.controller.lose(f"found again, but {error}")
        finally:
            self.grid.restart()  # opening a port takes its time and is no cycle

    def _do_work(self) -> None:
        while not self._work.empty():
            job, done = self._work.get()
            try:
                job()
            except (DriverError, OSError) as error:
                done.set_exception(error)
            else:
                done.set_result(None)
            self.grid.restart()

    def _torque_on(self) -> None:
        with self._lock:
            self.controller.check_torque_on()
            already = self.controller.state in HOLDS_TORQUE or (
                self.controller.estop and self.controller.torque
            )
        if already and not self.controller.let_go:
            return
        servos = self._connected()
        if self.protection is not None:
            self.protection.reset()
            self._limits = dict(zip(servos.ids, self.protection.torque_limits.tolist(), strict=True))
            servos.limit_torque(self._limits, confirm=True)
        self._sinking = None
        try:
            goals = servos.enable()
        except (ArmError, FeetechError) as error:
            # Some may hold by now: that is no READY arm, and nobody would watch them.
            with self._lock:
                self.controller.fail(f"torque could not be switched on: {error}; call arm/torque again")
            raise
        self.snapshot.torque = dict.fromkeys(servos.ids, True)
        self.snapshot.torque_limit = dict(self._limits)
        with self._lock:
            self.controller.torque_on(goals)

    def _torque_off(self) -> None:
        servos = self._connected()
        servos.disable()  # first, so that nothing says the arm is limp when the servos did not obey
        self.snapshot.torque = dict.fromkeys(servos.ids, False)
        self._sinking = None
        with self._lock:
            self.controller.torque_off()

    def _connected(self) -> ArmServos:
        if self._servos is None:
            raise FeetechError(f"the servos do not answer: {self.controller.reason}")
        return self._servos


def _partly(servos: ArmServos, torque: list[bool]) -> str:
    """What is to be said of servos of which only some hold."""
    names = [joint.name for joint, on in zip(servos.units.joints, torque, strict=True) if on]
    if not names or all(torque):
        return ""
    return (
        f"{', '.join(names)} held torque already and the others did not; arm/torque true makes all hold "
        "where they are, false lets all go"
    )
