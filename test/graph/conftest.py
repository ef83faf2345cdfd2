# SPDX-License-Identifier: Apache-2.0
"""A running graph on the twin, and what the tests see of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chefmate_msgs.msg import ArmHealth, PolicyStatus, SequencerStatus, WorkcellState
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from chefmate import graph
from chefmate.supervisor import Supervisor
from chefmate.workspace import share_folder
from chefmate_driver.kitchen.shared_state import StateReader

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
STARTED = 90.0  # s for a cold start
MOVING = 0.2  # rad/s of the fastest joint
STILL, STILL_FOR = 0.03, 0.2  # rad/s, s
READY = (SequencerStatus.IDLE, SequencerStatus.RUNNING)


class Graph:
    """The graph under a supervisor that works only inside `until`, and a listener beside it."""

    def __init__(self, listener: Any, logs: Path, values: dict[str, str]) -> None:
        values = {"policy": "expert", **values}  # what is tested here is the graph, whoever is its default
        self.listener = listener
        self.lines: list[str] = []
        self.values = values
        run = f"test{os.getpid()}"
        self.nodes = graph.describe(values, share_folder(), run=run)
        self.port, self.memory = graph.twin_names(values.get("namespace", ""), run)
        self.supervisor = Supervisor(self.nodes, self.lines.append, logs=logs)
        self.logs = logs
        self.joints = listener.subscribe("joint_states", JointState, qos_profile_sensor_data)
        self.health = listener.subscribe("arm/health", ArmHealth)
        self.policy = listener.subscribe("policy/status", PolicyStatus, LATCHED)
        self.sequencer = listener.subscribe("sequencer/status", SequencerStatus, LATCHED)
        self.truth = listener.subscribe("kitchen/truth", WorkcellState)
        self.instruction = listener.node.create_publisher(String, "instruction", RELIABLE)

    def start(self) -> None:
        """Starts everything and waits until all nodes are there: the sequencer is ready or at work.

        In shadow mode the sequencer waits for torque, so the policy is looked at.
        """
        self.supervisor.start()
        if self.values.get("execute") == "false":
            self.until(
                lambda: (
                    self.policy and self.policy[-1].state == PolicyStatus.IDLE and self.joints and self.health
                ),
                STARTED,
                "an idle policy",
            )
        else:
            self.until(
                lambda: self.sequencer and self.sequencer[-1].state in READY, STARTED, "a graph that is ready"
            )

    def until(self, condition: Callable[[], Any], seconds: float, what: str, supervised: bool = True) -> Any:
        """Listens (and supervises) until the condition holds; shows the logs' errors when it does not."""

        def look() -> Any:
            if supervised and not self.supervisor.poll():
                pytest.fail(f"the graph ended: {self.supervisor.failure}\n{self.errors()}")
            return condition()

        try:
            return self.listener.until(look, seconds, what)
        except pytest.fail.Exception as failure:
            pytest.fail(f"{failure}\n{self.state()}\n{self.errors()}")

    def say(self, text: str) -> None:
        """Publishes an instruction as anyone may."""
        self.until(
            lambda: self.instruction.get_subscription_count() >= 2, 10, "policy and sequencer listening"
        )
        self.instruction.publish(String(data=text))

    def speed(self) -> float:
        """Fastest joint now, rad/s."""
        return max(map(abs, self.joints[-1].velocity)) if self.joints else 0.0

    def until_moving(self) -> None:
        """Waits until the arm follows and moves."""
        self.until(
            lambda: self.speed() > MOVING and self.health and self.health[-1].state == ArmHealth.FOLLOWING,
            20,
            "a moving arm",
        )

    def kill(self, name: str) -> float:
        """kill -9; returns the moment."""
        child = self.supervisor.child(name)
        assert child is not None and child.process is not None
        os.kill(child.process.pid, signal.SIGKILL)
        return time.monotonic()

    def errors(self) -> str:
        """Warnings and errors of all logs."""
        found = []
        for log in sorted(self.logs.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            marked = [line for line in lines if "[ERROR]" in line or "[WARN]" in line or "Error" in line]
            found += [f"{log.stem}: {line}" for line in marked[-4:]]
        return "\n".join(found + self.lines[-5:])

    def state(self) -> str:
        """Where every node stands."""
        heard = [("arm", self.health), ("policy", self.policy), ("sequencer", self.sequencer)]
        return "; ".join(
            f"{name} {m[-1].state}: {m[-1].reason}" if m else f"{name} silent" for name, m in heard
        )

    def joints_of_the_twin(self) -> NDArray[np.float64]:
        """Joint angles (rad) as the physics has them, without the arm node."""
        reader = StateReader(self.memory)
        try:
            sample = reader.read()
            assert sample is not None
            return np.array(sample.qpos[:6])
        finally:
            reader.close()

    def until_the_twin_stands(self, seconds: float) -> float:
        """Waits until the physics say that the joints stand, at most this long; returns when that began."""
        reader = StateReader(self.memory)
        deadline = time.monotonic() + seconds
        try:
            seen: list[tuple[float, NDArray[np.float64]]] = []
            while time.monotonic() < deadline:
                sample = reader.read()
                assert sample is not None
                seen.append((time.monotonic(), np.array(sample.qpos[:6])))
                moved = [np.abs(pose - seen[-1][1]).max() > STILL_FOR * STILL for _, pose in seen]
                began = seen[len(moved) - moved[::-1].index(True) if True in moved else 0][0]
                if seen[-1][0] - began > STILL_FOR:
                    return began
                time.sleep(0.004)
        finally:
            reader.close()
        pytest.fail(f"the twin's joints did not stand within {seconds:g} s")


@pytest.fixture
def start_graph(
    listener: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Graph]]:
    """Function (**arguments of the graph) -> running Graph."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    started: list[Graph] = []

    def start(**values: str) -> Graph:
        logs = tmp_path / "log"
        logs.mkdir()
        graph_ = Graph(listener, logs, values)
        started.append(graph_)
        graph_.start()
        return graph_

    yield start
    for graph_ in started:
        graph_.supervisor.stop()
