# SPDX-License-Identifier: Apache-2.0
"""What moves behind the twin's servos: the joints of the physics."""

from __future__ import annotations

from collections import deque

import numpy as np

from chefmate_driver.feetech.plant import STALL_TORQUE, ServoDrive, ServoMeasurement, ServoProfile
from chefmate_driver.kitchen.world import World


class WorldPlant:
    """Joins six emulated servos and a World: a `ServoPlant`.

    `measure` and `drive` are called by the emulator's thread and never wait: they exchange whole objects with
    `before_step` and `after_step`, which the physics thread calls around its steps.
    """

    def __init__(self, world: World) -> None:
        """Starts with torque off, at rest where the world's arm is."""
        self._world = world
        self._profile = ServoProfile(world.joint_positions)
        self._commands: deque[tuple[int, ServoDrive]] = deque()
        self._enabled = [False] * 6
        model = world.model
        # The scene's own limits (half torque for the gripper) stay above what the register asks for.
        self._most = [float(model.actuator(i).forcerange[1]) for i in range(6)]
        self._limits = list(self._most)
        world.set_torque_enabled(self._enabled)
        self._measured: tuple[ServoMeasurement, ...] = ()
        self.after_step()

    def measure(self, index: int) -> ServoMeasurement:
        """Joint `index` after the last physics step: rad, rad/s, N m."""
        return self._measured[index]

    def drive(self, index: int, command: ServoDrive) -> None:
        """Takes a command over with the next physics step."""
        self._commands.append((index, command))

    def before_step(self, duration: float) -> None:
        """Hands the servos' set-points for the next `duration` seconds to the world."""
        if self._commands:
            self._take_over()
        self._world.set_joint_targets(self._profile.step(duration).tolist())

    def after_step(self) -> None:
        """Reads the joints for `measure`."""
        world = self._world
        rows = np.column_stack([world.joint_positions, world.joint_velocities, world.joint_torques]).tolist()
        self._measured = tuple(ServoMeasurement(*row) for row in rows)

    def _take_over(self) -> None:
        positions = self._world.joint_positions
        while self._commands:
            index, command = self._commands.popleft()
            if command.enabled and not self._enabled[index]:
                self._profile.hold(index, float(positions[index]))
            self._enabled[index] = command.enabled
            self._limits[index] = min(self._most[index], command.torque_limit * STALL_TORQUE)
            self._profile.set(index, command)
        self._world.set_torque_enabled(self._enabled)
        self._world.set_torque_limits(self._limits)
