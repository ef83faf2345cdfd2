# SPDX-License-Identifier: Apache-2.0
"""The twin in real time: physics in a thread, servos on a pty, the state in shared memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.kitchen.clock import RealTimeClock
from chefmate_driver.kitchen.config import KitchenError
from chefmate_driver.kitchen.plant import WorldPlant
from chefmate_driver.kitchen.render import model_bytes, pack_look
from chefmate_driver.kitchen.shared_state import StateWriter
from chefmate_driver.kitchen.world import World

STATE_RATE = (
    240.0  # Hz, of physics batches and of states: a multiple of usual camera rates, and twice the servo bus's
)
DRIVE_STEPS = 2  # physics steps (4 ms) between two set-points of the servos' firmware


@dataclass(frozen=True)
class LiveFigures:
    """real_time_factor: simulated over wall time, last 2 s. simulated, dropped: s since start. writes:
    states written.

    requests: instruction packets that the servos received.
    """

    real_time_factor: float
    simulated: float
    dropped: float
    writes: int
    requests: int


class LiveTwin:
    """A World that lives: steps in real time, answers servo packets on `port`, shows itself in
    `shared_memory`.
    """

    def __init__(self, world: World, port: Path, shared_memory: str, calibration: Path) -> None:
        """port: symbolic link to make. calibration: LeRobot file of the emulated servos.

        Raises DriverError when another twin has the port or the shared memory.
        """
        self._world = world
        self._plant = WorldPlant(world)
        self._clock = RealTimeClock(world.config.timestep, STATE_RATE)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._generation = world.generation
        self._writes = 0
        self.stamp = 0  # ns, wall time of the newest state
        self.failure: Exception | None = None  # what ended the physics thread, if anything did
        model = world.model
        self._writer = StateWriter(shared_memory, model_bytes(model), model.nq, pack_look(model))
        self._port = emulated_arm(calibration, self._plant, port)
        try:
            self._port.start()
        except Exception:
            self._writer.close()
            raise
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)
        self._thread.start()

    @contextmanager
    def stopped_world(self) -> Iterator[World]:
        """The world between two steps. Be quick: physics waits."""
        with self._lock:
            yield self._world

    def figures(self) -> LiveFigures:
        """Figures now."""
        clock = self._clock
        return LiveFigures(clock.factor, clock.simulated, clock.dropped, self._writes, self._port.requests)

    @property
    def pty(self) -> str:
        """Path of the servos' pty."""
        return self._port.path

    def close(self) -> None:
        """Ends the threads, and removes the port's link and the shared memory."""
        self._stop.set()
        self._thread.join()
        self._port.close()
        self._writer.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                steps = self._clock.wait()
                with self._lock:
                    self._advance(steps)
        except Exception as error:
            # Whatever ends physics has to end the twin, and a thread has nobody else to tell.
            self.failure = error

    def _advance(self, steps: int) -> None:
        world, plant = self._world, self._plant
        before = world.time
        while steps > 0:
            batch = min(steps, DRIVE_STEPS)
            plant.before_step(batch * world.config.timestep)
            world.step(batch)
            steps -= batch
        if world.time < before:
            raise KitchenError("the physics diverged and MuJoCo started again from zero: see MUJOCO_LOG.TXT")
        plant.after_step()
        look = None
        if world.generation != self._generation:
            self._generation = world.generation
            look = pack_look(world.model)
        self.stamp = self._writer.write(world.data.qpos, world.time, look)
        self._writes += 1
