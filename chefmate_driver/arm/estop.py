# SPDX-License-Identifier: Apache-2.0
"""Ears for the e-stop alone: the topic `estop` and the service `arm/estop`, in a thread of their own.

The node's own executor may stand in a call that takes seconds (torque of servos that answer badly, parking
at a shutdown); an e-stop does not wait for that.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from chefmate_ros.spinning import SpinningThread

TOPIC, SERVICE = "estop", "arm/estop"


class EstopEars:
    """A hidden node beside the arm's. `latch` is called in its thread with the reason, and says what that
    did."""

    def __init__(self, node: Node, latch: Callable[[str], str]) -> None:
        """node: the arm's, whose namespace and remappings hold."""
        self._latch = latch
        # Not by the process's own arguments: `__node:=...` would give both nodes one name.
        self._node = Node(
            f"_{node.get_name()}_estop",
            namespace=node.get_namespace(),
            context=node.context,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._node.create_subscription(Bool, node.resolve_topic_name(TOPIC), self._on_topic, 10)
        self._node.create_service(Trigger, node.resolve_service_name(SERVICE), self._on_service)
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(self._node)
        self._thread = SpinningThread(executor, "arm-estop")

    @property
    def alive(self) -> bool:
        """False if the thread ended: a defect, after which nobody hears an e-stop."""
        return self._thread.alive

    def close(self) -> None:
        """Ends the thread."""
        self._thread.close()
        self._node.destroy_node()

    def _on_topic(self, message: Bool) -> None:
        if message.data:
            self._latch(f"e-stop: true on the topic {TOPIC}")

    def _on_service(self, _: Trigger.Request, reply: Trigger.Response) -> Trigger.Response:
        reply.success, reply.message = True, self._latch(f"e-stop: {SERVICE} was called")
        return reply
