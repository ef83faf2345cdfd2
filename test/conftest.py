# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests that use real DDS or real processes.

`ros_domain`: a ROS_DOMAIN_ID that no other test run on this machine uses, set for this process and its
children. `start_process`: starts a command, collects its output, and stops whatever is still alive at the
end. `listener`: a `Listener`, a node in this process that records messages and calls services.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chefmate.domain import free_domain
from chefmate.workers import die_with_parent

ROOT = Path(__file__).resolve().parents[1]
# A test run in a shell's background inherits an ignored SIGINT, and every process that it starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Tests that a clock, DDS or a serial line decides, by folder; "" is the whole folder. So are all with one of
# REAL_TIME_FIXTURES. They run alone and, on failure, again; every other test runs once, beside others.
REAL_TIME: dict[str, tuple[str, ...]] = {
    "arm": ("test_calibration", "test_loop", "test_loop_bench", "test_torque"),
    "camera": ("",),
    "campaign": ("",),
    "chefmate": ("test_arm_commands", "test_doctor", "test_supervisor", "test_terminal"),
    "data": ("test_bag", "test_record", "test_recorder"),
    "feetech": ("",),
    "graph": ("",),
    "inference": (
        "test_policy_bench",
        "test_policy_graph_benches",
        "test_seams_bench",
        "test_server_backend",
    ),
    "kitchen": ("test_render", "test_shared_state"),
    "obedience": ("test_study_steps",),
    "ros": ("",),
    "teleop": ("",),
}
REAL_TIME_FIXTURES = {"port", "ros_domain"}
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2 and 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the real-time tests, and has them run up to three times: other machines' work may take both cores
    for a second.

    Such tests assert times of some 0.3 s, or a servo's answer within 20 ms. A defect fails all three times;
    the summary names every test that was run again.
    """
    for item in items:
        names = REAL_TIME.get(item.path.parent.name, ())
        if (
            item.path.stem in names
            or "" in names
            or REAL_TIME_FIXTURES & set(getattr(item, "fixturenames", ()))
        ):
            item.add_marker("real_time")
        if item.get_closest_marker("real_time"):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=2.0))


def until(
    condition: Callable[[], Any], timeout: float, what: str, step: Callable[[], None] | None = None
) -> Any:
    """Waits until `condition()` is true and returns its value; fails with `what` after `timeout` seconds.

    `step` runs between looks (for example a short spin); without it the wait is a 5 ms nap.
    """
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}")
        if step is None:
            time.sleep(0.005)
        else:
            step()


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A free domain id, held for the time of the test."""
    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield domain


class StartedProcess:
    """A child process in a process group of its own, with its output (stdout and stderr together) as a list
    of lines."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self.command = list(command)
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            self.command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=partial(die_with_parent, signal.SIGKILL),  # also when the test run is killed
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        """Process id, also of its group."""
        return self.process.pid

    @property
    def output(self) -> str:
        """Everything that it has printed so far."""
        return "\n".join(self.lines)

    def until_output(self, text: str, timeout: float = 40.0) -> None:
        """Waits until `text` has been printed; fails at once if the process ends without."""

        def seen() -> bool:
            if text in self.output:
                return True
            if self.process.poll() is not None:
                self._reader.join(2.0)
                if text not in self.output:
                    pytest.fail(
                        f"ended with {self.process.returncode} before printing {text!r}:\n{self.output}"
                    )
            return text in self.output

        until(seen, timeout, f"{text!r} in the output of {self.command}; so far:\n{self.output}")

    def wait(self, timeout: float = 40.0) -> int:
        """Exit code, once it has ended by itself."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout:g} s: {self.command}\n{self.output}")
        self._reader.join(2.0)
        return code

    def stop(self, number: int = signal.SIGINT, timeout: float = 40.0) -> int:
        """Sends a signal to the process alone and returns its exit code."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def kill_group(self) -> None:
        """Ends it and its children, whatever they do."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()


@pytest.fixture
def start_process() -> Iterator[Callable[..., StartedProcess]]:
    """Function (command, env=None, cwd=repository root) -> StartedProcess. "python" means this
    interpreter."""
    started: list[StartedProcess] = []

    def start(command: Sequence[str], env: dict[str, str] | None = None, cwd: Path = ROOT) -> StartedProcess:
        words = [sys.executable if word == "python" else word for word in command]
        process = StartedProcess(words, {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}, cwd)
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.kill_group()


class Listener:
    """A node that records what it hears. It runs only inside `until`, `call` and `spin`, in the calling
    thread."""

    def __init__(self, domain: int, name: str = "test_listener") -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        with (
            pytest.MonkeyPatch.context() as patch
        ):  # for this process alone: nodes start as they do elsewhere
            for variable in PROFILES:
                patch.setenv(variable, str(ROOT / "test" / "quick_discovery.xml"))
            rclpy.init(context=self.context, domain_id=domain)
            self.node = rclpy.create_node(name, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    def close(self) -> None:
        """Ends the node."""
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def subscribe(self, topic: str, kind: type, qos: Any = 10) -> list[Any]:
        """A list that grows by each message heard on `topic`."""
        heard: list[Any] = []
        self.node.create_subscription(kind, topic, heard.append, qos)
        return heard

    def publisher(
        self, topic: str, kind: type, qos: Any = 10, *, matched: int = 1, timeout: float = 30.0
    ) -> Any:
        """A publisher, once `matched` subscriptions have found it."""
        publisher = self.node.create_publisher(kind, topic, qos)
        self.until(lambda: publisher.get_subscription_count() >= matched, timeout, f"a subscriber of {topic}")
        return publisher

    def spin(self, seconds: float) -> None:
        """Listens for a given time: for measurements, not for waiting."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def until(self, condition: Callable[[], Any], timeout: float, what: str) -> Any:
        """Listens until `condition()` is true and returns its value; fails with `what` after `timeout`
        seconds."""
        return until(condition, timeout, what, step=lambda: self._executor.spin_once(timeout_sec=0.02))

    def call(self, service: str, kind: type, request: Any = None, timeout: float = 30.0) -> Any:
        """Response of a service."""
        client = self.node.create_client(kind, service)
        self.until(client.service_is_ready, timeout, f"service {service}")
        future = client.call_async(request if request is not None else kind.Request())
        self.until(future.done, timeout, f"an answer of {service}")
        self.node.destroy_client(client)
        return future.result()


@pytest.fixture
def listener(ros_domain: int) -> Iterator[Listener]:
    """A Listener on the test's own domain."""
    heard = Listener(ros_domain)
    yield heard
    heard.close()
