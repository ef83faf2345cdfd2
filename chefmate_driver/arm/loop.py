# SPDX-License-Identifier: Apache-2.0
"""The control loop: one thread, one bus, one cycle after the other on an absolute time grid. No ROS in here.

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

from chefmate_driver.arm.controller import ArmController, ArmState
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.timing import Grid
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.errors import FeetechError
from chefmate_driver.feetech.packet import status_text
from chefmate_driver.feetech.registers import Feedback

Vector = NDArray[np.float64]
TORQUE_CHECK = 0.2  # s between looks at the torque registers
RECONNECT = 0.5  # s between attempts to find lost servos
MOST_PERIODS = 3  # a step of the filter covers at most this many, however late the cycle


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
    errors: dict[int, int] = field(default_factory=dict)  # lost or corrupt replies, by servo id
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
    ) -> None:
        """open_servos: opens the bus, also after it was lost. rate: Hz. answer_timeout: s without an answer
        of a servo after which it counts as lost. on_sample: called in the loop's thread for each complete
        reading."""
        self.controller, self.snapshot = controller, Snapshot()
        self.grid = Grid(rate)
        self._open, self._on_sample, self._answer_timeout = open_servos, on_sample, answer_timeout
        self._servos: ArmServos | None = None
        self._lock = threading.Lock()  # guards the controller
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard: dict[int, float] = {}  # s, monotonic, newest answer by servo id
        self._torque_checked = 0.0
        self._retry_at = 0.0

    def connect(self) -> None:
        """Opens the bus and reads where the arm is; writes nothing. Raises FeetechError, ArmError."""
        servos = self._open()
        try:
            feedback, goals, torque = servos.feedback(), servos.goals(), servos.torque()
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
        self._torque_checked = now
        self.snapshot = Snapshot(torque=dict(zip(servos.ids, torque, strict=True)), feedback=feedback)
        with self._lock:
            self.controller.connect(position, goals, all(torque))

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
        while not self._stop.is_set():
            periods = self.grid.wait()
            try:
                self._cycle(min(periods, MOST_PERIODS) * self.grid.period)
            except FeetechError as error:
                self._lost(str(error))
            self._do_work()

    def _cycle(self, dt: float) -> None:
        servos = self._servos
        if servos is None:
            self._reconnect()
            return
        feedback = servos.feedback()
        stamp, now = time.time_ns(), time.monotonic()
        complete = len(feedback) == len(servos.ids)
        self._remember(servos, feedback, stamp, now)
        with self._lock:
            if complete:
                position, velocity = servos.motion(feedback)
                self.controller.update(position, velocity)
            command = self.controller.step(now, dt)
        if command is not None:
            servos.command(command)
        if complete:
            loads = [feedback[id].load * 0.001 for id in servos.ids]
            self._on_sample(Sample(stamp, position, velocity, loads))
        if now - self._torque_checked > TORQUE_CHECK:
            self._torque_checked = now
            self._check_torque(servos)

    def _remember(self, servos: ArmServos, feedback: dict[int, Feedback], stamp: int, now: float) -> None:
        snapshot = self.snapshot
        snapshot.stamp = stamp if feedback else snapshot.stamp
        snapshot.cycles += 1
        snapshot.bus_errors = servos.bus.failures
        snapshot.feedback = snapshot.feedback | feedback
        snapshot.answered = frozenset(feedback)
        snapshot.errors, snapshot.status = servos.bus.errors, servos.bus.status
        for id in feedback:
            self._heard[id] = now
        silent = [
            f"{joint.id} ({joint.name})"
            for joint in servos.units.joints
            if now - self._heard[joint.id] > self._answer_timeout
        ]
        with self._lock:
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

    def _check_torque(self, servos: ArmServos) -> None:
        try:
            torque = servos.torque()
        except FeetechError:
            return  # the feedback of the next cycles tells whether a servo is gone
        self.snapshot.torque = dict(zip(servos.ids, torque, strict=True))
        with self._lock:
            if not self.controller.torque or all(torque):
                return
            names = [
                f"{joint.name} (status: {status_text(servos.bus.status.get(joint.id, 0)) or 'none'})"
                for joint, on in zip(servos.units.joints, torque, strict=True)
                if not on
            ]
            self.controller.fail(
                f"torque went off by itself: {', '.join(names)}; find out why, then call arm/torque"
            )

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
        except DriverError:
            return  # the fault's reason stands; the next attempt comes

    def _do_work(self) -> None:
        while not self._work.empty():
            job, done = self._work.get()
            try:
                job()
            except (DriverError, OSError) as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _torque_on(self) -> None:
        with self._lock:
            self.controller.check_torque_on()
            already = self.controller.state in (ArmState.HOLDING, ArmState.FOLLOWING, ArmState.BRAKING) or (
                self.controller.estop and self.controller.torque
            )
        if already:
            return
        servos = self._connected()
        goals = servos.enable()
        self.snapshot.torque = dict.fromkeys(servos.ids, True)
        with self._lock:
            self.controller.torque_on(goals)

    def _torque_off(self) -> None:
        servos = self._connected()
        servos.disable()  # first, so that nothing says the arm is limp when the servos did not obey
        self.snapshot.torque = dict.fromkeys(servos.ids, False)
        with self._lock:
            self.controller.torque_off()

    def _connected(self) -> ArmServos:
        if self._servos is None:
            raise FeetechError(f"the servos do not answer: {self.controller.reason}")
        return self._servos
