# SPDX-License-Identifier: Apache-2.0
"""A job on the twin arms the arm again when it is at fault before the first goal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from chefmate_msgs.msg import ArmHealth
from rclpy.node import Node
from std_srvs.srv import SetBool

TRIES, PAUSE = 3, 2.0  # calls at most, s between them


class Rearming:
    """Calls `arm/torque`, as a person at a real arm would; for jobs, at which nobody sits.

    A graph that starts on a busy machine can starve the twin's servos for longer than the arm waits for
    them, and a fault is not left without a call. Nothing has moved then.
    """

    def __init__(self, node: Node, say: Callable[[str], None]) -> None:
        """say: takes a line for the person who reads the job's output."""
        self._client = node.create_client(SetBool, "arm/torque")
        self._say = say
        self._calls = 0
        self._answer: Any = None
        self._asked = -PAUSE

    def look(self, arm: ArmHealth | None) -> None:
        """Calls where `arm`, the newest health, is at fault. Comes back at once."""
        if arm is None or arm.state != ArmHealth.FAULT or self._calls == TRIES:
            return
        waits = self._answer is not None and not self._answer.done()
        if waits or time.monotonic() - self._asked < PAUSE or not self._client.service_is_ready():
            return
        self._calls, self._asked = self._calls + 1, time.monotonic()
        self._say(f"the arm is FAULT before the first goal: {arm.reason}; it is armed again")
        self._answer = self._client.call_async(SetBool.Request(data=True))
