# SPDX-License-Identifier: Apache-2.0
"""What the tests of the arm node share: the node as a test sees it, and a policy that drives it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from chefmate_msgs.msg import ArmHealth, PolicyStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_ros.share import share_file

TWIN = share_file("config", "calibration", "twin.json")
CONFIG = share_file("config", "arm.yaml")
START = [0.1, -0.6, 0.5, 0.4, 0.0, 0.3]
GOAL = [0.7, -0.3, 0.3, 0.6, 0.2, 0.5]
TOPIC = "arm_controller/joint_trajectory"
LEASE = 0.25  # s, as in config/arm.yaml
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def yaml_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Graph:
    """What a test sees of the running node."""

    def __init__(self, listener: Any, process: Any, namespace: str = "") -> None:
        self.listener, self.process, self.namespace = listener, process, namespace
        self.states = listener.subscribe(f"{namespace}joint_states", JointState)
        self.health = listener.subscribe(f"{namespace}arm/health", ArmHealth)

    def send(
        self, positions: list[list[float]], times: list[float], frame: str = "", names: Any = JOINT_NAMES
    ) -> None:
        if not hasattr(self, "_publisher"):
            self._publisher = self.listener.publisher(self.namespace + TOPIC, JointTrajectory)
        message = JointTrajectory(joint_names=list(names))
        message.header.frame_id = frame
        for row, due in zip(positions, times, strict=True):
            point = JointTrajectoryPoint(positions=row)
            point.time_from_start.sec, point.time_from_start.nanosec = int(due), int(due % 1 * 1e9)
            message.points.append(point)
        self._publisher.publish(message)

    def until_state(self, state: str, timeout: float = 8.0) -> ArmHealth:
        self.health.clear()
        self.listener.until(
            lambda: self.health and self.health[-1].state == state,
            timeout,
            f"state {state}; it is {[h.state + ' ' + h.reason for h in self.health[-1:]]}, "
            f"output:\n{self.process.output}",
        )
        return self.health[-1]

    def kill(self) -> None:
        """Ends the node at once, and forgets what it had said, of which some may still be in the queues."""
        self.process.kill_group()
        said = -1
        while said != len(self.states) + len(self.health):
            said = len(self.states) + len(self.health)
            self.listener.spin(0.3)
        self.states.clear()
        self.health.clear()

    def until_moving(self) -> None:
        self.listener.until(
            lambda: self.states and max(map(abs, self.states[-1].velocity)) > 0.2, 5.0, "a moving joint"
        )

    def until_moving_slowly(self) -> None:
        self.listener.until(
            lambda: self.states and max(map(abs, self.states[-1].velocity)) > 0.03, 10.0, "a moving joint"
        )

    def trigger(self, service: str) -> Any:
        return self.listener.call(service, Trigger)

    @property
    def positions(self) -> np.ndarray:
        return np.array(self.states[-1].position)


def drive(graph: Graph, duration: float = 4.0) -> Any:
    """A policy that pauses, then drives to GOAL in `duration` (s), until the arm has followed it for a while;
    its status publisher."""
    policy = graph.listener.publisher("policy/status", PolicyStatus, LATCHED)
    policy.publish(PolicyStatus(state=PolicyStatus.IDLE))
    graph.listener.spin(0.1)
    policy.publish(PolicyStatus(state=PolicyStatus.DRIVING))
    graph.send([GOAL], [duration], frame="policy")
    speed = 0.5 * abs(GOAL[0] - graph.positions[0]) / duration
    begun = time.monotonic()

    def beat() -> bool:
        policy.publish(PolicyStatus(state=PolicyStatus.DRIVING))
        moving = abs(graph.states[-1].velocity[0]) > speed
        return moving and graph.health[-1].state == "FOLLOWING" and time.monotonic() - begun > 2.0 * LEASE

    graph.listener.until(beat, 5.0, "a trajectory that is followed while the policy drives")
    return policy
