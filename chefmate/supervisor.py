# SPDX-License-Identifier: Apache-2.0
"""Starts and supervises the graph without `ros2 launch`.

A process's death is seen by its parent, which looks every 50 ms, never by discovery. Required
nodes end the graph with a failure; the others are started again with backoff. The arm is stopped after
everything that commands it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from chefmate.graph import Node, leave_out
from chefmate.workers import die_with_parent
from chefmate.workspace import executable

BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # s, before the n-th restart in a row
STEADY = 30.0  # s of life after which the backoff begins anew
LOOK = 0.05  # s between looks at a process that is being stopped

Say = Callable[[str], None]


class Child:
    """One supervised process."""

    def __init__(self, node: Node, command: list[str], environment: dict[str, str], log: Path | None) -> None:
        self.node = node
        self.command = command
        self.environment = environment
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.restart_at: float | None = None
        self.restarts_in_a_row = 0
        self.exit_code: int | None = None

    def start(self) -> None:
        """Starts the process in a session of its own: a terminal's ctrl-C reaches the supervisor only."""
        out = self.log.open("ab") if self.log else None
        try:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT if out else None,
                start_new_session=True,
                # A killed supervisor must not leave nodes that nobody stops: they get the signal of a ctrl-C.
                preexec_fn=partial(begin_child, signal.SIGINT, self.node.niceness),
            )
        finally:
            if out:
                out.close()
        self.started = time.monotonic()
        self.restart_at = None
        self.exit_code = None

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self.process is not None and self.process.poll() is None


def begin_child(number: int, niceness: int) -> None:
    """As die_with_parent; and others go before this child where cores are scarce, if niceness is above 0."""
    die_with_parent(number)
    os.nice(niceness)


class Supervisor:
    """Runs the nodes of a graph until it is told to stop or a required one dies."""

    def __init__(self, nodes: Sequence[Node], say: Say, logs: Path | None = None) -> None:
        """Prepares the processes.

        Args:
            nodes: what to run, in start order.
            say: receives one line for each event.
            logs: folder for one log file per node; None lets the nodes write to this terminal.

        Raises:
            WorkspaceError: an executable of this package, or one that was asked for, is missing.
        """
        self._say = say
        self._folder = tempfile.TemporaryDirectory(prefix="chefmate-")
        self.children: list[Child] = []
        for node in nodes:
            path = executable(node.package, node.executable)
            if path is None:
                leave_out(node)
                continue
            log = logs / f"{node.name}.log" if logs else None
            environment = {**os.environ, "PYTHONUNBUFFERED": "1", **node.environment}
            command = [str(path), *node.arguments, "--ros-args", *self._ros_arguments(node)]
            self.children.append(Child(node, command, environment, log))
        self.failure = ""

    def _ros_arguments(self, node: Node) -> list[str]:
        arguments = ["-r", f"__node:={node.name}"]
        if node.namespace:
            arguments += ["-r", f"__ns:=/{node.namespace.strip('/')}"]
        for old, new in node.remappings:
            arguments += ["-r", f"{old}:={new}"]
        for file in node.parameter_files:
            arguments += ["--params-file", file]
        if node.parameters:
            arguments += ["--params-file", str(self._write(node.name, node.parameters))]
        return [*arguments, *node.ros_arguments]

    def _write(self, name: str, parameters: Mapping[str, Any]) -> Path:
        path = Path(self._folder.name) / f"{name}.yaml"
        path.write_text(parameter_file(parameters))
        return path

    def start(self) -> None:
        """Starts every process."""
        for child in self.children:
            child.start()

    def child(self, name: str) -> Child | None:
        """The process of this node, or None when it is not part of the graph."""
        return next((child for child in self.children if child.node.name == name), None)

    def poll(self) -> bool:
        """Looks after the processes once; False when the graph must end (`failure` says why)."""
        now = time.monotonic()
        for child in self.children:
            if child.restart_at is not None:
                if now >= child.restart_at:
                    if child.node.restart_parameters:
                        self._write(
                            child.node.name, {**child.node.parameters, **child.node.restart_parameters}
                        )
                    child.start()
                continue
            if child.exit_code is not None or child.alive or child.process is None:
                continue
            child.exit_code = child.process.returncode
            self._on_exit(child, now)
        return not self.failure

    def _on_exit(self, child: Child, now: float) -> None:
        what = f"{child.node.name} ended ({describe_exit(child.exit_code or 0)})"
        if child.node.required:
            if not self.failure:  # what follows it may be its doing
                self.failure = f"{what}; the graph cannot go on without it"
                if child.log:
                    self.failure += f"\n{last_error(child.log)}"
            return
        if child.node.respawn:
            if now - child.started > STEADY:
                child.restarts_in_a_row = 0
            delay = BACKOFF[min(child.restarts_in_a_row, len(BACKOFF) - 1)]
            child.restarts_in_a_row += 1
            child.restart_at = now + delay
            self._say(f"{what}; it starts again in {delay:g} s")
            return
        self._say(f"{what}; it is not started again")

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> dict[str, int]:
        """Stops everything in order and returns the exit codes by node name; safe to call twice.

        Of processes that ran until now: the death of a required one is `failure`, the others' have been said.

        hurry: looked at meanwhile; once it is true, each process is told a second time, by SIGTERM. The arm
        then holds where it is instead of parking.
        """
        codes: dict[str, int] = {}
        ending = [child for child in self.children if not self._ended_before(child)]
        for order in sorted({child.node.stop_order for child in ending}):
            group = [child for child in ending if child.node.stop_order == order]
            for child in group:
                if child.alive and child.process:
                    child.process.send_signal(signal.SIGINT)
            began, hurried = time.monotonic(), False
            for child in group:
                if child.process is None:
                    continue
                while child.alive:
                    if time.monotonic() - began > child.node.patience:
                        self._say(
                            f"{child.node.name} did not stop within {child.node.patience:g} s and was killed"
                        )
                        child.process.kill()
                    elif hurry() and not hurried:
                        hurried = True
                        for other in group:
                            if other.alive and other.process:
                                other.process.send_signal(signal.SIGTERM)
                    try:
                        child.process.wait(LOOK)
                    except subprocess.TimeoutExpired:
                        continue
                codes[child.node.name] = child.exit_code = child.process.returncode
        self._folder.cleanup()
        return codes

    def _ended_before(self, child: Child) -> bool:
        """Whether the graph has done without this process since before it was to end; said at last here."""
        child.restart_at = None
        if child.process is None or child.exit_code is not None:
            return True
        if child.alive or child.node.required:
            return False
        child.exit_code = child.process.returncode
        self._say(f"{child.node.name} ended ({describe_exit(child.exit_code)})")
        return True

    def run(self, until: Callable[[], bool] = lambda: False, period: float = 0.05) -> bool:
        """Polls until `until()` is true (returns True) or the graph must end (returns False)."""
        while self.poll():
            if until():
                return True
            time.sleep(period)
        return False


def parameter_file(parameters: Mapping[str, Any]) -> str:
    """ROS parameter file that gives these values to any node name and namespace."""
    return str(
        yaml.safe_dump({"/**": {"ros__parameters": dict(parameters)}}, sort_keys=True, allow_unicode=True)
    )


def describe_exit(code: int) -> str:
    """Exit code or signal in words."""
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"


def last_error(log: Path) -> str:
    """The last error lines of a log, for the message that ends the graph."""
    lines = log.read_text(errors="replace").splitlines()
    marked = [line for line in lines if "[ERROR]" in line or "[FATAL]" in line or "Error:" in line]
    return "\n".join(marked[-3:] or lines[-5:])
