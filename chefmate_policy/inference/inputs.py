# SPDX-License-Identifier: Apache-2.0
"""Subscriptions of the policy's inputs: what a backend needs, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from chefmate_msgs.msg import ArmHealth, ExpertState
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, JointState

from chefmate_policy.images import image_to_rgb
from chefmate_policy.inference.arm import ArmWatch
from chefmate_policy.inference.backend import Backend, CameraFrame
from chefmate_policy.inference.messages import seconds_of
from chefmate_policy.inference.observation import (
    InputLimit,
    InputWatch,
    JointHistory,
    joint_fault,
    joint_vector,
)
from chefmate_ros.polling import polled_subscription, take_all

JOINT_STATES, EXPERT_STATE = "joint_states", "expert_state"
NEWEST = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
"""Only the newest matters."""
A_SECOND = QoSProfile(depth=200, reliability=QoSReliabilityPolicy.RELIABLE)
"""Of joint states at up to 200 Hz, where the process was not given the CPU for as long."""
EVERY = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
"""A short e-stop between two polls counts too."""
NEWEST_FRAME = QoSProfile(depth=1, reliability=qos_profile_sensor_data.reliability)


class PolicyInputs:
    """Newest input of each kind, and its freshness in `watch`. `poll` brings both up to date.

    A backend that needs no pixels watches the cameras by their camera_info: the same stamps at a fraction of
    the cost.
    """

    def __init__(
        self,
        node: Node,
        backend: Backend,
        joints: Sequence[str],
        cameras: Mapping[str, str],
        limits: Mapping[str, float],
        arm: ArmWatch,
        on_arm: Callable[[], None],
    ) -> None:
        """
        Args:
            cameras: input name -> topic prefix.
            limits: s, keys joints, cameras, expert.
            arm: is told what arm/health says.
            on_arm: called after each of them.
        """
        self._node = node
        self._joints = tuple(joints)
        self.joint_history = JointHistory()
        self.frames: dict[str, CameraFrame] = {}
        self.expert_state: ExpertState | None = None
        self._light: list[tuple[Any, Callable[[Any], None]]] = []
        self._images: list[tuple[Any, Callable[[Any], None], InputLimit]] = []
        needed = []
        for name, prefix in cameras.items():
            limit = InputLimit(name, f"{name} camera", "frame", limits["cameras"])
            needed.append(limit)
            if backend.needs_images:
                image = self._subscribe(Image, f"{prefix}/image_raw", NEWEST_FRAME)
                self._images.append((image, partial(self._on_image, name), limit))
            else:
                info = self._subscribe(CameraInfo, f"{prefix}/camera_info", NEWEST_FRAME)
                self._light.append((info, partial(self._on_info, name)))
        if backend.needs_joint_states:
            needed.append(InputLimit(JOINT_STATES, "joint states", "message", limits["joints"]))
            self._light.append((self._subscribe(JointState, "joint_states", A_SECOND), self._on_joints))
        if backend.needs_expert_state:
            needed.append(InputLimit(EXPERT_STATE, "expert state", "message", limits["expert"]))
            subscription = self._subscribe(ExpertState, "kitchen/expert_state", NEWEST)
            self._light.append((subscription, self._on_expert_state))
        self.watch = InputWatch(needed)
        self._arm, self._on_arm = arm, on_arm
        self._health = self._subscribe(ArmHealth, "arm/health", EVERY)

    def poll(self, now: float, observe: bool) -> None:
        """Takes what has arrived.

        Args:
            now: s since the epoch.
            observe: an observation is about to be made, so the newest images are wanted. Else an image is
            only taken
                when the last one is half as old as it may be: taking one costs a millisecond.
        """
        for health, _ in take_all(self._health):
            self._arm.heard(
                health.state, health.reason, now, active=health.active, protection=health.protection
            )
            self._on_arm()
        for subscription, callback in self._light:
            for message, _ in take_all(subscription):
                callback(message)
        for subscription, callback, limit in self._images:
            if observe or self.watch.age(limit.name, now) > 0.5 * limit.age_limit:
                for message, _ in take_all(subscription):
                    callback(message)

    def poll_frames(self) -> None:
        """Takes the cameras' newest frames only."""
        for subscription, callback, _ in self._images:
            for message, _ in take_all(subscription):
                callback(message)

    def frames_since(self, moment: float) -> bool:
        """True when every camera has a frame that was captured at or after a moment (s since the epoch)."""
        return all(
            limit.name in self.frames and self.frames[limit.name].stamp >= moment
            for _, _, limit in self._images
        )

    def close(self) -> None:
        """Ends the subscriptions."""
        for subscription in [self._health, *(entry[0] for entry in (*self._light, *self._images))]:
            self._node.destroy_subscription(subscription)
        self._light.clear()
        self._images.clear()

    def _subscribe(self, kind: type, topic: str, qos: QoSProfile) -> Any:
        return polled_subscription(self._node, kind, topic, qos)

    def _on_joints(self, message: JointState) -> None:
        stamp = seconds_of(message.header.stamp)
        fault = joint_fault(message.name, message.position, message.velocity, self._joints)
        if not fault:
            positions = joint_vector(message.name, message.position, self._joints)
            velocities = joint_vector(message.name, message.velocity, self._joints)
            self.joint_history.add(stamp, positions, velocities)
        self.watch.arrived(JOINT_STATES, stamp, fault)

    def _on_expert_state(self, message: ExpertState) -> None:
        self.expert_state = message
        self.watch.arrived(EXPERT_STATE, seconds_of(message.header.stamp))

    def _on_image(self, name: str, message: Image) -> None:
        stamp = seconds_of(message.header.stamp)
        self.frames[name] = CameraFrame(stamp, lambda: image_to_rgb(message))
        self.watch.arrived(name, stamp)

    def _on_info(self, name: str, message: CameraInfo) -> None:
        self.watch.arrived(name, seconds_of(message.header.stamp))
