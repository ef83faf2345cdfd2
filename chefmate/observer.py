# SPDX-License-Identifier: Apache-2.0
"""What a job sees of a running graph: scene, the twin's truth, its real-time factor, the arm's motion."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from chefmate_msgs.msg import ArmHealth, PolicyStatus, SequencerStatus, WorkcellObject, WorkcellState
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import Image, JointState

from chefmate_policy.images import image_to_rgb
from chefmate_ros.polling import polled_subscription, take_all

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
MOVING = 0.1  # rad/s of the fastest joint
NOT_LAID = ", not laid"
POLL_PERIOD = 0.1  # s; messages of 160 a second are looked at together, where each cost a wake


class Observer:
    """Keeps the newest message of each kind. Spinning is the caller's."""

    def __init__(self, node: Node) -> None:
        """Subscribes on `node`, in its namespace."""
        self._node = node
        self._image_wanted_after: int | None = None
        self._image: Image | None = None
        self.scene: NDArray[np.uint8] | None = None
        self.truth: WorkcellState | None = None
        self.sequencer: SequencerStatus | None = None
        self.policy: PolicyStatus | None = None
        self.arm: ArmHealth | None = None
        self.real_time_factors: list[float] = []
        self.first_motion: float | None = None
        newest = QoSProfile(depth=1, reliability=qos_profile_sensor_data.reliability)
        self._polled = [
            (polled_subscription(node, kind, topic, qos), keep)
            for kind, topic, qos, keep in (
                (WorkcellState, "kitchen/truth", QoSProfile(depth=1), self._on_truth),
                (SequencerStatus, "sequencer/status", LATCHED, self._on_sequencer),
                (PolicyStatus, "policy/status", LATCHED, self._on_policy),
                (ArmHealth, "arm/health", QoSProfile(depth=1), self._on_arm),
                (JointState, "joint_states", newest, self._on_joints),
                (DiagnosticArray, "/diagnostics", QoSProfile(depth=50), self._on_diagnostics),
            )
        ]
        node.create_timer(POLL_PERIOD, self._poll)
        self._images: Any = None

    def _poll(self) -> None:
        for subscription, keep in self._polled:
            for message, _ in take_all(subscription):
                keep(message)
        if self._image_wanted_after is not None:
            self._take_image()
            image = self._image
            if (
                image is not None
                and Time.from_msg(image.header.stamp).nanoseconds >= self._image_wanted_after
            ):
                self.scene = image_to_rgb(image)

    def _on_truth(self, message: WorkcellState) -> None:
        self.truth = message

    def _on_sequencer(self, message: SequencerStatus) -> None:
        self.sequencer = message

    def _on_policy(self, message: PolicyStatus) -> None:
        self.policy = message

    def _on_arm(self, message: ArmHealth) -> None:
        self.arm = message

    def _on_joints(self, message: JointState) -> None:
        following = self.arm is not None and self.arm.state == ArmHealth.FOLLOWING
        if self.first_motion is None and following and max(map(abs, message.velocity), default=0.0) > MOVING:
            self.first_motion = time.monotonic()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            for value in status.values:
                if value.key == "real_time_factor":
                    self.real_time_factors.append(float(value.value))

    def policy_fault(self) -> str:
        """Why the policy cannot begin (it could not be loaded, say), which nothing but a new start mends; ""
        while it may."""
        if self.policy is None or self.policy.state != PolicyStatus.FAULT:
            return ""
        return f"the policy is FAULT: {self.policy.reason}"

    def watch_scene(self) -> None:
        """From here on DDS keeps the newest frame of the scene camera for `last_scene`."""
        if self._images is None:
            newest = QoSProfile(depth=1, reliability=qos_profile_sensor_data.reliability)
            self._images = polled_subscription(self._node, Image, "scene_camera/image_raw", newest)

    def request_scene(self) -> None:
        """Asks for a scene camera frame that is captured after this call; it comes in `scene`."""
        self.watch_scene()
        self.scene = None
        self._image_wanted_after = self._node.get_clock().now().nanoseconds

    def last_scene(self) -> NDArray[np.uint8] | None:
        """The newest frame that came, also of a camera that has ended since; None: none was seen."""
        self._take_image()
        return None if self._image is None else image_to_rgb(self._image)

    def _take_image(self) -> None:
        for message, _ in take_all(self._images) if self._images is not None else ():
            self._image = message

    def truth_after(self, moment_ns: int) -> WorkcellState | None:
        """The truth if it is newer than this ROS time (ns)."""
        if self.truth is None or Time.from_msg(self.truth.header.stamp).nanoseconds < moment_ns:
            return None
        return self.truth


def stack(truth: WorkcellState) -> list[str]:
    """Ingredients on the plate from the lowest up. One that is not laid (flat, released, inside of the rim)
    is there as "cheese, not laid", so no recipe has it."""
    on_plate = [item for item in truth.objects if item.place == WorkcellObject.PLATE]
    on_plate.sort(key=lambda item: item.position.z)
    return [item.ingredient + ("" if item.stack_index >= 0 else NOT_LAID) for item in on_plate]


def wait(spin: Callable[[float], None], condition: Callable[[], bool], seconds: float) -> bool:
    """Spins until the condition holds; False when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        spin(min(0.1, left))
    return True
