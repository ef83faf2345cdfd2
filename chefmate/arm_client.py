# SPDX-License-Identifier: Apache-2.0
"""Client of a running arm node, for the commands `chefmate arm ...`. The caller has initialised rclpy.

with ArmClient("arm_monitor") as arm:
    health = arm.wait_for_arm()
    arm.call("arm/home", Trigger, Trigger.Request())
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from chefmate_msgs.msg import ArmHealth
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool, Trigger

from chefmate.errors import ChefmateError
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_ros.polling import polled_subscription, take_all

PATIENCE = 10.0  # s for the arm node to be found, and for an answer of it
SILENCE = 1.0  # s without arm/health (10 Hz) after which the arm node is gone
NEWEST = QoSProfile(depth=1)


class ArmError(ChefmateError):
    """The arm node does not answer, or refuses."""


class ArmClient:
    """Newest health and pose of one arm, and its services.

    Attributes:
        node: the client's own node, to publish and subscribe more.
        health: newest arm/health, None before the first.
        heard: s, monotonic, when it came.
        idle: called at least every 20 ms while waiting; it may raise.
    """

    def __init__(self, name: str, namespace: str = "") -> None:
        self.node = Node(name, namespace=namespace)
        self.health: ArmHealth | None = None
        self.heard = -np.inf
        self.pose_heard = -np.inf
        self.idle: Callable[[], None] = lambda: None
        self._clients: dict[str, Any] = {}  # by service, kept: a new one would have to be found first
        self._pose: NDArray[np.float64] | None = None
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._healths = polled_subscription(self.node, ArmHealth, "arm/health", NEWEST)
        self._states = polled_subscription(self.node, JointState, "joint_states", NEWEST)

    def __enter__(self) -> ArmClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the client."""
        self._executor.shutdown()
        self.node.destroy_node()

    def add(self, node: Node) -> None:
        """Runs another node's callbacks beside the client's own."""
        self._executor.add_node(node)

    def look(self) -> None:
        """Takes what has arrived, without waiting."""
        self._executor.spin_once(timeout_sec=0.0)
        now = time.monotonic()
        for message, _ in take_all(self._healths):
            self.health, self.heard = message, now
        for message, _ in take_all(self._states):
            if set(message.name) == set(JOINT_NAMES) and len(message.position) == len(message.name):
                by_name = dict(zip(message.name, message.position, strict=True))
                self._pose = np.array([by_name[name] for name in JOINT_NAMES])
                self.pose_heard = now

    def until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Looks until the condition holds; False when the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            self.look()
            self.idle()
            if condition():
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)

    @property
    def state(self) -> str:
        """State that the arm reported last; empty before the first report."""
        return "" if self.health is None else str(self.health.state)

    @property
    def reason(self) -> str:
        """Why it holds or is at fault."""
        return "" if self.health is None else str(self.health.reason)

    @property
    def alive(self) -> bool:
        """True while arm/health keeps coming."""
        return time.monotonic() - self.heard < SILENCE

    @property
    def has_pose(self) -> bool:
        """True once joint_states was heard."""
        return self._pose is not None

    @property
    def pose(self) -> NDArray[np.float64]:
        """Newest measured angles, rad (6,). ArmError before the first."""
        if self._pose is None:
            raise ArmError("no joint_states yet: the servos do not answer, see `chefmate arm monitor`")
        return self._pose

    def wait_for_arm(self, patience: float = PATIENCE) -> ArmHealth:
        """The arm's health, once it was heard. ArmError if nobody speaks."""
        if not self.until(lambda: self.health is not None, patience):
            namespace = self.node.get_namespace()
            raise ArmError(
                f"no arm publishes {namespace.rstrip('/')}/arm/health; is the graph up (chefmate up), in "
                "this ROS_DOMAIN_ID and namespace?"
            )
        return self.health

    def wait_for_pose(self, patience: float = PATIENCE) -> NDArray[np.float64]:
        """A measured pose that is newer than this call, rad (6,). ArmError if none comes."""
        begun = time.monotonic()
        self.until(lambda: self.pose_heard > begun, patience)
        if self.pose_heard <= begun:
            raise ArmError(
                f"no joint_states within {patience:g} s: the arm is {self.state or 'silent'}"
                f"{': ' + self.reason if self.reason else ''}"
            )
        return self.pose

    def ask(self, service: str, kind: Any, request: Any) -> Any:
        """Calls a service and returns its future at once. ArmError if nobody serves it."""
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
        client = self._clients[service]
        if not client.service_is_ready() and not self.until(client.service_is_ready, PATIENCE):
            raise ArmError(f"no arm serves {service}; is the graph up, in this ROS_DOMAIN_ID and namespace?")
        return client.call_async(request)

    def call(self, service: str, kind: Any, request: Any, patience: float = PATIENCE) -> str:
        """What a service says. ArmError if it refuses or does not answer."""
        future = self.ask(service, kind, request)
        if not self.until(future.done, patience):
            raise ArmError(f"{service} did not answer within {patience:g} s")
        answer = future.result()
        if not answer.success:
            raise ArmError(f"{service}: {answer.message}")
        return str(answer.message)

    def trigger(self, service: str) -> str:
        """Calls a std_srvs/Trigger."""
        return self.call(service, Trigger, Trigger.Request())

    def switch(self, service: str, on: bool) -> str:
        """Calls a std_srvs/SetBool."""
        return self.call(service, SetBool, SetBool.Request(data=on))
