# SPDX-License-Identifier: Apache-2.0
"""A controller on an arm that goes where it is told, with a lag of one cycle. No bus, no clock."""

from __future__ import annotations

import numpy as np

from chefmate_driver.arm.controller import ArmController
from chefmate_driver.arm.model import LOWER, UPPER
from chefmate_driver.arm.safety import Limits, SafetyFilter
from chefmate_driver.arm.trajectory import Trajectory

DT = 0.01
ACCELERATION = np.array([10.0, 10.0, 12.0, 20.0, 30.0, 40.0])
LEASE = 0.25
START = np.array([0.1, -0.5, 0.4, 0.2, 0.0, 0.3])
GOAL = START + np.array([0.8, 0.4, -0.3, 0.2, 0.1, 0.2])


class Arm:
    """A controller and the arm under it."""

    def __init__(
        self,
        *,
        torque: bool = True,
        execute: bool = True,
        blocked_at: np.ndarray | None = None,
        give: float = 0.0,
    ) -> None:
        """blocked_at: rad, no joint gets farther, but for the share `give` of what it is told."""
        limits = Limits(LOWER, UPPER, np.array([2.0, 2.0, 2.5, 3.0, 4.0, 4.0]), ACCELERATION, -10.0)
        self.control = ArmController(SafetyFilter(limits), lease=LEASE, execute=execute)
        self.control.active = True
        self.position = START.copy()
        self.now = 50.0
        self.sent: list[np.ndarray | None] = []
        self.blocked_at, self.give = blocked_at, give
        self.control.connect(self.position, self.position, False)
        if torque:
            self.control.torque_on(self.position)
        self.control.heartbeat(False, "IDLE", self.now)
        self.control.heartbeat(True, "DRIVING", self.now)

    def run(self, seconds: float, *, policy: str = "", leader: np.ndarray | None = None) -> np.ndarray:
        """Cycles for a time; returns the commands of it (n, 6). policy: a state that is reported every 50 ms.
        leader: a pose that a leader sends every 10 ms."""
        first = len(self.sent)
        for index in range(round(seconds / DT)):
            if policy and index % 5 == 0:
                self.control.heartbeat(policy in ("DRIVING", "DONE"), policy, self.now)
            self.now += DT
            if leader is not None:
                self.lead(leader)
            command = self.control.step(self.now, DT)
            self.sent.append(None if command is None else command.copy())
            if command is not None:
                reached = command
                if self.blocked_at is not None:
                    over = np.maximum(command - self.blocked_at, 0.0)
                    reached = command - (1.0 - self.give) * over
                velocity, self.position = (reached - self.position) / DT, reached.copy()
                self.control.update(self.position, velocity, DT)
            else:
                self.control.update(self.position, np.zeros(6), DT)
        return np.array([row for row in self.sent[first:] if row is not None])

    def lead(self, pose: np.ndarray) -> None:
        """A leader says now where it is."""
        self.control.leader.heard(np.asarray(pose), self.now, self.now)

    def send(
        self, *, leased: bool = False, after: float = 0.0, duration: float = 1.0, goal: np.ndarray = GOAL
    ) -> None:
        start = self.now + after
        row = np.array([goal])
        self.control.accept(
            Trajectory(start, np.array([start + duration]), row, np.zeros((1, 6)), leased), self.now
        )
