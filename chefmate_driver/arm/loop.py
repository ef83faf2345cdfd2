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
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.black_box import BlackBox
from chefmate_driver.arm.controller import ArmController, ArmState
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.inspection import Inspection
from chefmate_driver.arm.protection import Protection, Vitals
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.silence import Hearing
from chefmate_driver.arm.timing import Grid, real_time_priority
from chefmate_driver.arm.torque import ServoTorque, Snapshot
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.errors import FeetechError, PortNotFoundError, ServoMissingError
from chefmate_driver.feetech.registers import CURRENT_UNIT, LOAD_UNIT, VOLTAGE_UNIT, Feedback

Vector = NDArray[np.float64]
RECONNECT = 0.2  # s between attempts to find lost servos
# s before its place on the grid at which a goal is computed: the filter takes 0.7 ms, 1.3 beside other work
LEAD = 0.0025
READ_PERIODS = 2  # a cycle's read may take so many with all its repetitions, and at least SHORTEST_READ
SHORTEST_READ = 0.02  # s
MOST_PERIODS = 3  # a step of the filter covers at most this many, however late the cycle
VITALS_RATE = 20.0  # Hz, at which the protection looks


@dataclass(frozen=True)
class Sample:
    """One complete reading of all joints."""

    stamp: int  # ns, wall clock, when the reply arrived
    position: Vector  # rad (6,)
    velocity: Vector  # rad/s (6,)
    load: list[float]  # share of full PWM duty, -1..1


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
        self._rate, self._inspect = rate, inspect
        self._open, self._on_sample = open_servos, on_sample
        self._priority = priority
        self._servos: ArmServos | None = None
        self._lock = threading.Lock()  # guards the controller
        self.hearing = Hearing(answer_timeout)
        self.torque = ServoTorque(controller, self._lock, protection)
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._vitals_seen = 0.0  # s, monotonic
        self._status = np.zeros(6, dtype=np.int64)  # status bits of the newest complete reading
        self._worked = False  # something else than a cycle was done since the newest one
        self._retry_at = 0.0
        self._nothing: Vector = np.full(6, np.nan)
        # In the black box. What was so before this loop has been written.
        self._noted: tuple[ArmState, str] = (controller.state, controller.reason)
        self._latched = bool(controller.estop)

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
        self._servos = servos
        self.hearing.begin(servos.units.joints, time.monotonic())
        self.torque.found(torque, limits)
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

        Raises TransitionError, ArmError or FeetechError with the reason. A loop that does not get to it in
        `timeout` s does not do it later either.
        """
        done: Future[None] = Future()
        self._work.put((self._torque_on if on else self._torque_off, done))
        try:
            done.result(timeout)
        except FutureTimeoutError:
            self._give_up(done, timeout)

    def _give_up(self, done: Future[None], timeout: float) -> None:
        if done.cancel():
            raise ArmError(
                f"the control loop did not get to it within {timeout:g} s, so torque was left as it is; see "
                "/diagnostics"
            )
        try:  # under way already: its own time-outs end it
            done.result(timeout)
        except FutureTimeoutError:
            raise ArmError(
                f"the servos have not confirmed it within {2.0 * timeout:g} s; arm/health tells what came of "
                "it"
            ) from None

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
        self._look_at_itself()
        if self.torque.adopts:
            self._adopt(servos)
        # For its place on the grid: the goal is exact however late the thread woke, and leaves on time.
        with self._lock:
            command = self.controller.step(self.grid.due, dt)
        goals = servos.goals_as_bytes(command) if command is not None else None
        self.grid.rest()
        if goals is not None:
            servos.send(goals)
        self.torque.sink(servos, self.snapshot)
        self._look_at_itself()
        feedback = servos.feedback(time.monotonic() + max(READ_PERIODS * self.grid.period, SHORTEST_READ))
        stamp, now = time.time_ns(), time.monotonic()
        complete = len(feedback) == len(servos.ids)
        self.torque.unsure |= not self.snapshot.answered.issuperset(feedback)
        since = now - self.hearing.complete
        self._remember(servos, feedback, stamp, now)
        if complete:
            self._take(servos, feedback, stamp, now, since, command)
            # One that is back after a silence may have lost its supply: looked at before the next goal goes.
            self.torque.look(servos, self.snapshot, now)

    def _look_at_itself(self) -> None:
        """A loop that stood still must not take that for silence of the servos, nor hide it."""
        look = self.hearing.pause if self._worked else self.hearing.stall
        away = look(time.monotonic(), self.grid.period)
        self._worked = False
        if away > self.hearing.answer_timeout:
            with self._lock:
                self.controller.brake(
                    f"the arm node itself stood still for {away:.2f} s, not the servos; this machine was too "
                    "busy, or asleep"
                )

    def _adopt(self, servos: ArmServos) -> None:
        try:
            self.torque.adopt(servos)
        except ServoMissingError:
            return  # tried again; the feedback of the next cycles tells whether it is gone
        finally:
            self._worked = True
            self.grid.restart()

    def _take(
        self,
        servos: ArmServos,
        feedback: dict[int, Feedback],
        stamp: int,
        now: float,
        since: float,
        command: Vector | None,
    ) -> None:
        """A complete reading, `since` s after the one before: to the controller, to the world, to the
        protection, into the black box."""
        position, velocity = servos.motion(feedback)
        rows = [feedback[id] for id in servos.ids]
        loads = [row.load * LOAD_UNIT for row in rows]
        with self._lock:
            self.controller.update(position, velocity, min(since, MOST_PERIODS * self.grid.period))
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
            self.torque.limit(servos, self.protection)
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
        self.hearing.took(feedback, now)
        lost, blind = self.hearing.lost(now), self.hearing.blind(now, feedback, self.grid.period)
        with self._lock:
            # One that is back is not in sight before its torque is: it may have lost its supply.
            if self.controller.connected and (blind or not self.torque.unsure):
                self.controller.lose_sight(blind)
            if lost and self.controller.connected:
                self.controller.lose(lost)
            elif not lost and not self.controller.connected:
                self._found(servos, feedback)

    def _found(self, servos: ArmServos, feedback: dict[int, Feedback]) -> None:
        """All servos answer again. The fault stays until torque is switched by hand."""
        if len(feedback) == len(servos.ids):
            position, _ = servos.motion(feedback)
            self.controller.connect(position, position, False)

    def _note(self) -> None:
        """Tells the black box of a new state; a fault and an e-stop make it write."""
        if self.black_box is None:
            return
        state, reason, estop = self.controller.state, self.controller.reason, self.controller.estop
        if (state, reason) != self._noted:
            before, self._noted = self._noted[0], (state, reason)
            self.black_box.note("state", f"{state.value}: {reason}" if reason else state.value)
            if state is not before and state is ArmState.FAULT:
                self.black_box.trigger("fault", reason)
        if estop and not self._latched:  # in whatever state
            self.black_box.trigger("estop", estop)
        self._latched = bool(estop)

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
            self._worked = True
            self.grid.restart()  # opening a port takes its time and is no cycle

    def _do_work(self) -> None:
        while not self._work.empty():
            job, done = self._work.get()
            if not done.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            self._worked = True
            try:
                job()
            except (DriverError, OSError) as error:
                done.set_exception(error)
            else:
                done.set_result(None)
            self.grid.restart()

    def _torque_on(self) -> None:
        if self.torque.check_on():
            self.torque.on(self._connected(), self.snapshot)

    def _torque_off(self) -> None:
        self.torque.off(self._connected(), self.snapshot)

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
