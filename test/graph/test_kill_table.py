# SPDX-License-Identifier: Apache-2.0
"""The kill table of docs/design.md, row by row: a process is killed (-9) while the arm moves.

Times: 0.3 s of chunk after the last heartbeat, then braking (2 rad/s at 10 rad/s^2 is 0.2 s); LATENCY is what
the observation of it through DDS may add on a busy machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chefmate_msgs.msg import ArmHealth, PolicyStatus, SequencerStatus

from chefmate_driver.feetech.bus import FeetechBus

pytestmark = [pytest.mark.graph, pytest.mark.timeout(240)]
BREAD = "pick up the bread and put it into the white plate"
STILL = 0.03  # rad/s
LEASE, BRAKING, LATENCY = 0.3, 0.3, 0.4  # s; arm/health comes at 10 Hz
INSTRUCTION_LEASE = 1.0  # s
CYCLE, SETTLING = 0.01, 0.2  # s: of the arm node's goals; of the servos at the last one
SERVOS = (1, 2, 3, 4, 5, 6)
REACHED = 23  # ticks of 2 pi / 4096, 2 degrees: a loaded servo stands that far from its goal


def moving_graph(start_graph: Callable[..., Any], recipe: bool = False) -> Any:
    """A graph whose arm moves because of an instruction, or because of a recipe."""
    graph = start_graph(**({"recipe": "cheese_sandwich"} if recipe else {}))
    if not recipe:
        graph.say(BREAD)
    graph.until_moving()
    return graph


def assert_stops(graph: Any, killed_at: float, within: float) -> None:
    """The arm is still within the time, and stays still."""

    def held() -> bool:
        return graph.speed() < STILL and graph.health[-1].state == ArmHealth.HOLDING

    graph.until(held, within + 5.0, "an arm that stands still and holds", supervised=False)
    took = time.monotonic() - killed_at
    assert took <= within, f"the arm moved for {took:.2f} s"
    pose = np.array(graph.joints[-1].position)
    graph.listener.spin(0.5)
    assert np.abs(np.array(graph.joints[-1].position) - pose).max() < 0.02


def test_killed_policy_brakes_the_arm_and_ends_the_graph(start_graph: Callable[..., Any]) -> None:
    graph = moving_graph(start_graph)
    killed_at = graph.kill("policy")
    assert_stops(graph, killed_at, LEASE + BRAKING + LATENCY)
    assert graph.health[-1].state == ArmHealth.HOLDING
    assert "policy" in graph.health[-1].reason
    assert graph.health[-1].torque
    assert not graph.supervisor.run(period=0.01)
    assert "policy ended (killed by SIGKILL)" in graph.supervisor.failure


def test_killed_camera_holds_the_arm_until_it_is_back(start_graph: Callable[..., Any]) -> None:
    graph = moving_graph(start_graph)
    for camera in ("scene_camera", "wrist_camera"):
        graph.until_moving()
        killed_at = graph.kill(camera)
        # The frame before the kill is an observation until its age limit (0.3 s), then the lease runs.
        assert_stops(graph, killed_at, 0.3 + LEASE + BRAKING + LATENCY)
        assert graph.policy[-1].state == PolicyStatus.HOLDING
        assert camera.removesuffix("_camera") in graph.policy[-1].reason
        graph.until(lambda: graph.policy[-1].state == PolicyStatus.DRIVING, 30, "the policy driving again")
        assert any(f"{camera} ended (killed by SIGKILL)" in line for line in graph.lines)


def test_killed_perception_or_sequencer_ends_the_lease_of_the_instruction(
    start_graph: Callable[..., Any],
) -> None:
    graph = moving_graph(start_graph, recipe=True)
    killed_at = graph.kill("perception")
    # The sequencer notices by message age, and withdraws the instruction at once.
    assert_stops(graph, killed_at, 2.0 + BRAKING + LATENCY)
    assert graph.policy[-1].state != PolicyStatus.DRIVING
    graph.until(lambda: graph.policy[-1].state == PolicyStatus.DRIVING, 40, "the recipe going on")

    graph.until_moving()
    killed_at = graph.kill("sequencer")
    assert_stops(graph, killed_at, INSTRUCTION_LEASE + 0.2 + BRAKING + LATENCY)
    assert graph.policy[-1].state != PolicyStatus.DRIVING
    assert "sequencer" in graph.policy[-1].reason
    graph.until(
        lambda: graph.sequencer[-1].state == SequencerStatus.IDLE and graph.sequencer[-1].resumable,
        40,
        "the restarted sequencer offering to go on",
    )


def test_killed_arm_node_leaves_the_servos_holding_and_ends_the_graph(
    start_graph: Callable[..., Any],
) -> None:
    graph = moving_graph(start_graph)
    killed_at = graph.kill("arm")
    # Nobody commands any more: the twin shows what the servos do, and the port is free to ask them.
    took = graph.until_the_twin_stands(2.0) - killed_at
    print(f"the arm stood {took:.3f} s after its node was killed")
    assert took <= CYCLE + SETTLING, f"the arm moved for {took:.3f} s"
    pose = graph.joints_of_the_twin()
    with FeetechBus(graph.port) as bus:
        goals = bus.sync_read("goal_position", SERVOS)
        assert set(bus.sync_read("torque_enable", SERVOS).values()) == {1}
        graph.listener.spin(1.0)
        assert bus.sync_read("goal_position", SERVOS) == goals, "the last goal stands"
        present = bus.sync_read("present_position", SERVOS)
    assert np.abs(graph.joints_of_the_twin() - pose).max() < 0.01
    off = {servo: abs(goals[servo] - present[servo]) for servo in SERVOS}
    assert max(off.values()) <= REACHED, f"ticks from the last goal: {off}"
    assert not graph.supervisor.run(period=0.01)
    assert "arm ended (killed by SIGKILL)" in graph.supervisor.failure


def test_killed_twin_is_a_named_fault_of_the_arm(start_graph: Callable[..., Any]) -> None:
    graph = moving_graph(start_graph)
    killed_at = graph.kill("kitchen")
    graph.until(lambda: graph.health[-1].state == ArmHealth.FAULT, 5, "a fault of the arm", supervised=False)
    assert time.monotonic() - killed_at < 1.0
    assert graph.health[-1].reason
    graph.until(
        lambda: graph.policy[-1].state == PolicyStatus.HOLDING, 5, "a holding policy", supervised=False
    )
    assert not graph.supervisor.run(period=0.01)
    assert "kitchen ended (killed by SIGKILL)" in graph.supervisor.failure
