# SPDX-License-Identifier: Apache-2.0
"""Stopping the running graph: the empty instruction, and the e-stop, which latches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chefmate_msgs.msg import ArmHealth
from std_srvs.srv import Trigger

pytestmark = [pytest.mark.graph, pytest.mark.timeout(240)]
BREAD = "pick up the bread and put it into the white plate"
STILL = 0.03  # rad/s
BRAKING, LATENCY = 0.3, 0.3  # s


def assert_stays(graph: Any, seconds: float) -> None:
    """The arm does not move for this time."""
    pose = np.array(graph.joints[-1].position)
    graph.listener.spin(seconds)
    assert np.abs(np.array(graph.joints[-1].position) - pose).max() < 0.02


def test_stop_and_estop_end_motion_and_nothing_moves_until_it_is_told_to(
    start_graph: Callable[..., Any],
) -> None:
    graph = start_graph()
    graph.say(BREAD)
    graph.until_moving()
    said_at = time.monotonic()
    graph.say("")
    graph.until(lambda: graph.speed() < STILL, 5, "an arm that stands after the empty instruction")
    assert time.monotonic() - said_at < BRAKING + LATENCY
    assert_stays(graph, 0.5)

    graph.say(BREAD)
    graph.until_moving()
    assert graph.listener.call("arm/estop", Trigger).success
    called_at = time.monotonic()
    graph.until(lambda: graph.speed() < STILL, 5, "an arm that stands after the e-stop")
    assert time.monotonic() - called_at < BRAKING + LATENCY
    graph.until(lambda: graph.health[-1].state == ArmHealth.ESTOPPED, 2, "a latched e-stop")
    assert graph.health[-1].torque, "the default action brakes and holds"
    assert_stays(graph, 0.5)
    assert graph.listener.call("arm/estop_release", Trigger).success
    graph.until(lambda: graph.health[-1].state == ArmHealth.HOLDING, 2, "a released arm")
    assert_stays(graph, 1.0)

    graph.say("")
    graph.say(BREAD)
    graph.until_moving()
