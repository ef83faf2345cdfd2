# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm teleop`: the follower goes where a leader arm is moved by hand."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import rclpy
from chefmate_msgs.msg import ArmHealth
from numpy.typing import NDArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.logging import LoggingSeverity
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sensor_msgs.msg import JointState

from chefmate.arm_client import NEWEST, PATIENCE, ArmClient, ArmError
from chefmate.engagement import (
    COMMAND_TOPIC,
    check_engageable,
    disengage,
    engage,
    publishers,
    refuse_other_leaders,
    why,
)
from chefmate.interrupting import Interrupt, interruptible
from chefmate.progress import progress
from chefmate.ros import joined
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.teleop.node import TeleopNode
from chefmate_ros.polling import polled_subscription, take_all
from chefmate_ros.share import share_file

REFRESH = 0.1  # s between pictures


class Teleoperation:
    """One engagement: who leads, what is shown, how it ended."""

    def __init__(self, arm: ArmClient, leader: TeleopNode | None) -> None:
        self.arm, self.leader = arm, leader
        self.commanded: NDArray[np.float64] | None = None
        self.heard = -math.inf  # s, monotonic, newest command of the leader
        self.count = 0
        self._commands = polled_subscription(arm.node, JointState, COMMAND_TOPIC, NEWEST)

    def look(self) -> None:
        """Takes the leader's newest command."""
        for message, _ in take_all(self._commands):
            by_name = dict(zip(message.name, message.position, strict=False))
            if set(JOINT_NAMES) <= set(by_name):
                self.commanded = np.array([by_name[name] for name in JOINT_NAMES])
                self.heard = time.monotonic()
                self.count += 1

    @property
    def leading(self) -> bool:
        """True while the leader speaks."""
        return time.monotonic() - self.heard < 0.25

    def leader_text(self) -> str:
        """What the leader does, in words."""
        if self.leader is not None and (status := self.leader.status()) is not None:
            if status.reason:
                return f"lost: {status.reason}"
            return f"{self.leader.value('port')}, {status.rate:.0f} Hz, {status.losses} losses"
        return "speaks" if self.leading else "silent"

    def picture(self) -> Group:
        """State line and a table of both arms' angles."""
        table = Table("joint", "leader", "follower", "difference", box=None)
        for column in table.columns[1:]:
            column.justify = "right"
        pose = np.degrees(self.arm.pose)
        for index, name in enumerate(JOINT_NAMES):
            row = [name, "", f"{pose[index]:.1f}°", ""]
            if self.commanded is not None:
                leader = math.degrees(self.commanded[index])
                row[1], row[3] = f"{leader:.1f}°", f"{leader - pose[index]:+.1f}°"
            table.add_row(*row)
        style = "green" if self.arm.state == ArmHealth.TELEOPERATED else "yellow"
        return Group(
            Text(why(self.arm), style=style),
            Text(f"leader {self.leader_text()}"),
            table,
            Text("ctrl-C ends: the arm brakes and holds", style="dim"),
        )


def teleop(options: argparse.Namespace) -> int:
    """Engages, shows both arms until ctrl-C (0), or until the arm ends it (1: the reason is printed)."""
    say = progress(quiet=options.json)
    with joined(), ArmClient("arm_teleop", options.namespace) as arm, interruptible() as interrupt:
        arm.idle = interrupt.check
        arm.wait_for_arm()
        check_engageable(arm)
        with leader_node(arm, options) as leader:
            session = Teleoperation(arm, leader)
            await_leader(session)
            say(f"leader {session.leader_text()}; engaging: the follower goes to the leader's pose slowly")
            begun = time.monotonic()
            try:
                engage(arm)
                arm.idle = lambda: None  # from here on ctrl-C ends the engagement in order
                arm.until(lambda: arm.state == ArmHealth.TELEOPERATED, PATIENCE)
                arm.wait_for_pose()
                follow(session, interrupt, say, Console(stderr=options.json))
                ended = "ctrl-C" if interrupt.asked else why(arm)
            finally:
                arm.idle = lambda: None
                state = disengage(arm)
    seconds = time.monotonic() - begun
    if options.json:
        print(json.dumps({"seconds": round(seconds, 3), "ended": ended, "state": state}))
    say(f"teleoperation ended after {seconds:.0f} s ({ended}); the arm is {state}")
    return 0 if ended == "ctrl-C" else 1


def follow(session: Teleoperation, interrupt: Interrupt, say: Any, console: Console) -> None:
    """Shows the engagement until ctrl-C, or until the arm is no longer teleoperated."""
    arm = session.arm
    said = ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not interrupt.asked and arm.alive and arm.state == ArmHealth.TELEOPERATED:
            arm.until(lambda: interrupt.asked, REFRESH)
            session.look()
            if console.is_terminal:
                live.update(session.picture(), refresh=True)
            elif why(arm) != said:
                said = why(arm)
                say(said)


def await_leader(session: Teleoperation) -> None:
    """Waits for the leader's first command. ArmError if there is no leader."""
    arm = session.arm

    def spoken() -> bool:
        session.look()
        return session.leading

    if not arm.until(spoken, PATIENCE):
        who = ", ".join(publishers(arm))
        raise ArmError(
            f"{who} publishes {COMMAND_TOPIC} but is silent: is its leader plugged in?"
            if who
            else f"nobody publishes {COMMAND_TOPIC}: name the leader's port (--leader "
            "/dev/serial/by-id/...), or start the graph with teleop:=PORT"
        )


@contextmanager
def leader_node(arm: ArmClient, options: argparse.Namespace) -> Iterator[TeleopNode | None]:
    """The leader node inside this process, or None where a running one is used.

    Raises:
        ArmError: the leader cannot be used, or another one speaks already.
    """
    if not options.leader:
        yield None
        return
    refuse_other_leaders(arm)
    given = {"port": options.leader, "calibration": options.calibration, "max_voltage": options.max_voltage}
    node = TeleopNode(
        namespace=options.namespace,
        cli_args=["--ros-args", "--params-file", str(share_file("config", "teleop.yaml"))],
        parameter_overrides=[
            rclpy.Parameter(name, value=value) for name, value in given.items() if value is not None
        ],
    )
    # The picture and the error below say what the log would.
    node.get_logger().set_level(LoggingSeverity.FATAL)
    try:
        if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            raise ArmError(f"leader: {node.fault}")
        node.trigger_activate()
        arm.add(node)
        yield node
    finally:
        node.close()
        node.destroy_node()
