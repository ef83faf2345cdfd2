# SPDX-License-Identifier: Apache-2.0
"""policy_node in a graph of a bench's own: processes in a free domain, joint states, what the arm hears."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chefmate.domain import free_domain
from chefmate.errors import ChefmateError
from chefmate.sandwich import isolate
from chefmate.workspace import share_folder

BACKEND = "chefmate_policy.inference.timed:TimedBackend"
READY_PATIENCE = 60.0  # s until the node is there
JOINT_PERIOD = 0.02  # s
ENDING = 10.0  # s for a process to end


@contextmanager
def graph_of(*commands: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes (arguments of this Python) in a domain of their own; this process joins it. They end with the
    block."""
    started: list[subprocess.Popen[str]] = []
    with free_domain() as domain, tempfile.TemporaryDirectory(prefix="chefmate-bench-") as folder:
        isolate(domain, Path(folder))
        profile = str(share_folder() / "config" / "fastdds.xml")
        environment = {**os.environ, "FASTRTPS_DEFAULT_PROFILES_FILE": profile}
        from chefmate.ros import joined

        try:
            for number, command in enumerate(commands):
                with Path(folder, f"{number}.log").open("w") as log:
                    started.append(
                        subprocess.Popen(
                            [sys.executable, *command],
                            env=environment,
                            stdout=log,
                            stderr=log,
                            text=True,
                        )
                    )
            with joined():
                yield started
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGINT)
            for process in started:
                try:
                    process.wait(ENDING)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def process_beside(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """One more process in the domain of `graph_of`; its standard output is to be read."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def policy_command(*parameters: str) -> list[str]:
    """Arguments of a policy_node with the timed backend."""
    command = ["-m", "chefmate_policy.inference.node", "--ros-args", "-p", f"backend:={BACKEND}"]
    for parameter in parameters:
        command += ["-p", parameter]
    return command


class Ear:
    """A node that plays the arm's joints and hears what the policy says, with the time of hearing. It runs in
    the caller's thread, inside `until` and `spin`."""

    def __init__(self, joints: bool = True) -> None:
        import rclpy
        from chefmate_msgs.msg import ActionChunk, PolicyStatus
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSDurabilityPolicy, QoSProfile
        from sensor_msgs.msg import JointState
        from std_msgs.msg import String
        from trajectory_msgs.msg import JointTrajectory

        from chefmate_policy.inference.parameters import JOINTS

        self.node = rclpy.create_node("bench_ear")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.statuses: list[tuple[float, Any]] = []
        self.chunks: list[tuple[float, Any]] = []
        self.trajectories: list[tuple[float, Any]] = []
        latched = QoSProfile(depth=50, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        self._hear("policy/status", PolicyStatus, self.statuses, latched)
        self._hear("policy/chunk", ActionChunk, self.chunks, 50)
        self._hear("arm_controller/joint_trajectory", JointTrajectory, self.trajectories, 50)
        self._instruction = self.node.create_publisher(String, "instruction", 10)
        self._text = String
        if joints:
            self._joints = JointState(name=list(JOINTS), position=[0.0] * 6, velocity=[0.0] * 6)
            self._joint_publisher = self.node.create_publisher(JointState, "joint_states", 10)
            self.node.create_timer(JOINT_PERIOD, self._publish_joints)

    def close(self) -> None:
        """Ends the node."""
        self._executor.shutdown()
        self.node.destroy_node()

    def say(self, text: str) -> float:
        """Publishes an instruction; s since the epoch, just before."""
        now = time.time()
        self._instruction.publish(self._text(data=text))
        return now

    def spin(self, seconds: float) -> None:
        """Listens for a time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)

    def until(self, condition: Callable[[], Any], patience: float, what: str) -> Any:
        """Listens until a condition holds and returns its value. Raises ChefmateError after `patience` s."""
        end = time.monotonic() + patience
        while not (value := condition()):
            if time.monotonic() > end:
                last = self.statuses[-1][1] if self.statuses else None
                said = f"{last.state} {last.reason}" if last else "no policy/status"
                raise ChefmateError(f"bench: not within {patience:g} s: {what}; last heard: {said}")
            self._executor.spin_once(timeout_sec=0.02)
        return value

    def until_ready(self) -> None:
        """Listens until the policy waits for an instruction."""
        self.until(lambda: self.state == "IDLE", READY_PATIENCE, "policy_node idle")
        self.until(lambda: self._instruction.get_subscription_count(), READY_PATIENCE, "its ear")

    @property
    def state(self) -> str:
        """Of the newest status."""
        return str(self.statuses[-1][1].state) if self.statuses else ""

    def _hear(self, topic: str, kind: type, into: list[tuple[float, Any]], qos: Any) -> None:
        self.node.create_subscription(kind, topic, lambda message: into.append((time.time(), message)), qos)

    def _publish_joints(self) -> None:
        self._joints.header.stamp = self.node.get_clock().now().to_msg()
        self._joint_publisher.publish(self._joints)


def seconds_of(stamp: Any) -> float:
    """s since the epoch of a builtin_interfaces/Time."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)
