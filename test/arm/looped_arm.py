# SPDX-License-Identifier: Apache-2.0
"""The control loop with all that the node gives it, without ROS, for tests on emulated servos."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chefmate_driver.arm.black_box import BlackBox
from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.controller import ArmController, ArmState
from chefmate_driver.arm.inspection import inspect_servos
from chefmate_driver.arm.loop import ArmLoop, Sample
from chefmate_driver.arm.protection import Protection
from chefmate_driver.arm.safety import Limits, SafetyFilter
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.settings import ArmKind
from chefmate_driver.arm.trajectory import Trajectory
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_ros.share import share_file

TWIN = share_file("config", "calibration", "twin.json")
GOAL = np.array([0.7, -0.3, 0.3, 0.6, 0.2, 0.5])
PARK = [[0.1, -0.8, 0.7, 0.5, 0.0]]
GRIPPER = 6  # its servo's id
PATIENCE = 20.0  # s


class Loop:
    """A loop with all that the node gives it."""

    def __init__(self, port: EmulatedPort, folder: Path, protection: Protection | None = None) -> None:
        self.units = ArmUnits(read_calibration(TWIN))
        limits = Limits(*self.units.limits(), np.full(6, 2.0), np.full(6, 10.0), -1.0)
        self.control = ArmController(SafetyFilter(limits), lease=0.25, park_path=PARK)
        self.samples: list[Sample] = []
        self.box = BlackBox(folder, "arm", 100.0, 5)
        self.loop = ArmLoop(
            self.control,
            lambda: ArmServos(FeetechBus(str(port.link), reply_timeout=0.02), self.units),
            rate=100.0,
            answer_timeout=0.5,
            on_sample=self.samples.append,
            inspect=lambda servos: inspect_servos(servos, ArmKind.FOLLOWER),
            protection=protection or Protection(),
            black_box=self.box,
        )

    def __enter__(self) -> Loop:
        self.loop.connect()
        self.loop.start()
        with self.loop.edit():
            self.control.activate()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        self.box.close()

    def move(self, duration: float = 3.0) -> None:
        """Towards GOAL, until it is on its way."""
        now = time.monotonic()
        trajectory = Trajectory(now, np.array([now + duration]), GOAL[None], np.zeros((1, 6)))
        with self.loop.edit():
            self.control.accept(trajectory, now)
        self.until(lambda: np.abs(self.control.measured_velocity).max() > 0.1, "a moving arm")

    def until(self, condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, (
                f"not within {timeout:g} s: {what}; {self.control.state} {self.why}"
            )
            time.sleep(0.005)

    def until_state(self, state: ArmState) -> None:
        self.until(lambda: self.control.state is state, state.value)

    @property
    def why(self) -> str:
        return self.control.reason


def limits_of(port: EmulatedPort) -> list[int]:
    return [servo.get("torque_limit") for servo in port.emulator.servos]
