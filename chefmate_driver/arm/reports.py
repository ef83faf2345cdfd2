# SPDX-License-Identifier: Apache-2.0
"""What the arm node says by itself: joint_states, arm/health, /diagnostics, and its log of states.

Plain publishers: they speak in every lifecycle state.
"""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chefmate_msgs.msg import ArmHealth
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import JointState

from chefmate_driver.arm.controller import ArmController, ArmState
from chefmate_driver.arm.health import Background, diagnostics_message, health_message, time_message
from chefmate_driver.arm.loop import ArmLoop, Sample
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.protection import Stage
from chefmate_driver.arm.units import ArmUnits

SERIOUS = (ArmState.FAULT, ArmState.ESTOPPED)


@dataclass
class Refusals:
    """What was asked for in vain."""

    trajectory: str = ""  # reason of the newest refused trajectory
    teleop: str = ""  # reason of the newest refused command of a leader
    teleop_count: int = 0


class ArmReports:
    """Publishers and timers of the node's own words."""

    def __init__(
        self,
        node: Node,
        controller: ArmController,
        running: Callable[[], tuple[ArmLoop | None, ArmUnits | None]],
        value: Callable[[str], Any],
        trajectory_topic: str,
    ) -> None:
        """running: the loop and its units, while there are any. value: of a parameter by name."""
        self.refusals = Refusals()
        self._node, self._controller, self._running, self._value = node, controller, running, value
        self._topic = trajectory_topic
        self._said: tuple[ArmState, str] = (ArmState.UNPOWERED, "")
        self._stage = Stage.NORMAL
        self._slow_bus = ""
        self._problem = self._file = ""
        self._joint_state = JointState(name=list(JOINT_NAMES))
        self._joint_states = node.create_publisher(JointState, "joint_states", 10)
        self._health = node.create_publisher(ArmHealth, "arm/health", 10)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        node.create_timer(1.0 / value("health_rate"), self.publish_health)
        node.create_timer(1.0, self._publish_diagnostics)

    def publish_sample(self, sample: Sample) -> None:
        """In the loop's thread."""
        message = self._joint_state
        message.header.stamp = time_message(sample.stamp)
        message.position = array.array("d", sample.position.tobytes())
        message.velocity = array.array("d", sample.velocity.tobytes())
        message.effort = array.array("d", sample.load)
        self._joint_states.publish(message)

    def publish_health(self) -> None:
        """arm/health now, and a line in the log where the state has changed."""
        loop, units = self._running()
        self._health.publish(health_message(self._controller, loop, units))
        self._log(loop)

    def _publish_diagnostics(self) -> None:
        loop, units = self._running()
        background = Background(
            port=self._value("port"),
            rate=self._value("rate"),
            publishers=self._node.count_publishers(self._topic),
            refusals=(self.refusals.trajectory, self.refusals.teleop, self.refusals.teleop_count),
        )
        self._diagnostics.publish(
            diagnostics_message(
                self._node.get_fully_qualified_name().lstrip("/"),
                health_message(self._controller, loop, units),
                self._controller,
                loop,
                background,
                now=time.time_ns(),
            )
        )

    def _log(self, loop: ArmLoop | None) -> None:
        """A new state at once, with its reason; a fault as an error."""
        logger = self._node.get_logger()
        state, reason = self._controller.state, self._controller.reason
        if state is not self._said[0] or (state in SERIOUS and reason != self._said[1]):
            text = f"{state.value}: {reason}" if reason else state.value
            if state is ArmState.FAULT:
                logger.error(text)
            elif state in SERIOUS:
                logger.warning(text)
            else:
                logger.debug(text)
        self._said = (state, reason)
        verdict = self._controller.verdict
        if verdict.stage is not self._stage:
            self._stage = verdict.stage
            logger.warning(f"protection: {verdict.stage.name} {verdict.reason}".rstrip())
        if loop is not None and loop.slow_bus != self._slow_bus:
            self._slow_bus = loop.slow_bus
            logger.warning(f"the bus is slow: {loop.slow_bus}" if loop.slow_bus else "the bus is fast again")
        box = loop.black_box if loop is not None else None
        if box is not None and box.problem != self._problem:
            self._problem = box.problem
            if box.problem:
                logger.error(box.problem)
        if box is not None and box.newest != self._file:
            self._file = box.newest
            logger.info(f"black box written: {box.newest}")
