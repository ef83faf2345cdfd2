# SPDX-License-Identifier: Apache-2.0
"""A leader and a follower of emulated servos, and a terminal to command them from."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.feetech.plant import SimplePlant

REST = [0.1, -0.6, 0.5, 0.4, 0.0, 0.3]  # rad, of both arms at first
ANY_SUPPLY = 15.0  # V; emulated servos run on 12 V
ROOT = Path(__file__).parents[2]


def write_leader_file(path: Path) -> Path:
    """A leader's calibration: other offsets and ranges than the follower's, the gripper mounted mirrored."""
    ranges = {"wrist_roll": (0, 4095), "gripper": (1900, 3100)}
    entries = {}
    for index, name in enumerate(JOINT_NAMES):
        low, high = ranges.get(name, (700 + 20 * index, 3300 + 20 * index))
        entries[name] = {
            "id": index + 1,
            "drive_mode": int(name == "gripper"),
            "homing_offset": 100 * index - 250,
            "range_min": low,
            "range_max": high,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=4))
    return path


class Follower:
    """The follower's node as its topics and services show it, and the plant behind its servos."""

    def __init__(self, listener: Any, process: Any, plant: SimplePlant) -> None:
        from chefmate_msgs.msg import ArmHealth
        from sensor_msgs.msg import JointState

        self.listener, self.process, self.plant = listener, process, plant
        self.health = listener.subscribe("arm/health", ArmHealth)
        self.states = listener.subscribe("joint_states", JointState)

    def until(self, condition: Callable[[], Any], what: str, timeout: float = 40.0) -> Any:
        """Listens until the condition holds; tells what the arm said last if it never does."""

        def told() -> str:
            last = self.health[-1] if self.health else None
            return f"{what}; the arm: {last.state + ' ' + last.reason if last else 'silent'}"

        try:
            return self.listener.until(condition, timeout, what)
        except pytest.fail.Exception:
            pytest.fail(f"{told()}\n{self.process.output[-3000:]}")

    def until_state(self, state: str, reason: str = "", timeout: float = 40.0) -> None:
        """Waits for a report, newer than this call, with this state and words in its reason."""
        self.health.clear()
        self.until(
            lambda: self.health and self.health[-1].state == state and reason in self.health[-1].reason,
            f"state {state} {reason}",
            timeout,
        )

    def until_at(self, positions: list[float], tolerance: float = 0.01, timeout: float = 40.0) -> None:
        """Waits until every joint is there."""
        self.until(
            lambda: max(abs(self.plant.positions - positions)) < tolerance,
            f"the follower at {positions}; it is at {self.plant.positions}",
            timeout,
        )

    def switch(self, service: str, on: bool) -> Any:
        """Answer of a std_srvs/SetBool."""
        from std_srvs.srv import SetBool

        return self.listener.call(service, SetBool, SetBool.Request(data=on))

    def engage(self) -> None:
        """Begins teleoperation, once the arm has heard the leader."""
        self.until(lambda: self.switch("arm/teleop", True).success, "an arm that takes the leader")


class Terminal:
    """A command in a terminal of its own: keys in, screen out."""

    def __init__(self, *words: str, env: Mapping[str, str] | None = None) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.before = termios.tcgetattr(slave)
        self._slave = slave  # kept, to look at its settings afterwards
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chefmate", *words],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40", **(env or {})},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.screen = ""
        self._closing = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._closing:
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:
                    return
                self.screen += data.decode(errors="replace")
            elif self.process.poll() is not None:
                return

    def type(self, text: str) -> None:
        """Presses keys."""
        os.write(self.master, text.encode())

    def hold(self, key: str, seconds: float) -> None:
        """A key held down: it repeats 30 times a second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.type(key)
            time.sleep(1.0 / 30.0)

    def until_shows(self, text: str, timeout: float = 40.0, pressing: str = "") -> None:
        """Waits until the text has been written; `pressing`: a key that is pressed meanwhile, again and
        again."""
        deadline = time.monotonic() + timeout
        while text not in self.screen:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self._reader.join(1.0)
                if text not in self.screen:
                    pytest.fail(
                        f"{text!r} is not on the screen of {self.process.args}:\n{self.screen[-3000:]}"
                    )
            if pressing:
                self.type(pressing)
            time.sleep(0.05 if pressing else 0.01)

    def wait(self, timeout: float = 40.0) -> int:
        """Exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout:g} s:\n{self.screen[-3000:]}")
        self._reader.join(2.0)
        return code

    @property
    def as_before(self) -> bool:
        """True if the terminal's settings are what they were before the command."""
        return termios.tcgetattr(self._slave) == self.before

    def hang_up(self) -> None:
        """The window is closed: no more output is taken, and the command gets a hangup."""
        self._closing = True
        self._reader.join(2.0)
        os.close(self._slave)
        os.close(self.master)

    def close(self) -> None:
        """Ends the command if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if not self._closing:
            self.hang_up()
