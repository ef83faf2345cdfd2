# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm jog`: the keyboard as a leader, for those without one."""

from __future__ import annotations

import argparse
import array
import math
import time
from typing import Any

import numpy as np
from chefmate_msgs.msg import ArmHealth
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from chefmate.arm_client import NEWEST, ArmClient, ArmError
from chefmate.engagement import (
    COMMAND_TOPIC,
    DISCOVERY_PATIENCE,
    SERVICE,
    check_engageable,
    disengage,
    refuse_other_leaders,
    why,
)
from chefmate.interrupting import Interrupt, interruptible
from chefmate.ros import joined
from chefmate.terminal import Keys, keys
from chefmate_driver.arm.health import time_message
from chefmate_driver.arm.model import JOINT_NAMES, LOWER, UPPER
from chefmate_driver.teleop.jog import BY_KEY, KEYS, JogTarget

PERIOD = 1.0 / 60.0  # s between commands
REFRESH = 0.1  # s between pictures
LISTENER = 5.0  # s for the arm to be found by the publisher
NEAR_LIMIT = math.radians(2.0)  # rad from a limit of the URDF, from where on it is shown
HELP = (
    "space stops   + - speed   x e-stop   enter engages again   ctrl-C ends: the arm holds",
    "A tap is a small step; hold a key to go on. The arm's limits and filter apply.",
)


class Jog:
    """Keys in, commands and a picture out."""

    def __init__(self, arm: ArmClient) -> None:
        self.arm, self.target = arm, JogTarget()
        self.note = ""
        self._commands = arm.node.create_publisher(JointState, COMMAND_TOPIC, NEWEST)
        self._estop = arm.node.create_publisher(Bool, "estop", 10)
        self._message = JointState(name=list(JOINT_NAMES))
        self._stepped = time.monotonic()
        self._engaging: Any = None  # future of the service
        # s, monotonic: until then a refusal is no answer yet, since the arm may not have found the commands
        self._patient_until = -math.inf

    def await_listener(self) -> None:
        """Waits until the arm hears the commands. ArmError if it does not."""
        found = self.arm.until(lambda: self._commands.get_subscription_count() > 0, LISTENER)
        if not found:
            raise ArmError(f"the arm does not listen to {COMMAND_TOPIC}: is its arm_node of this version?")

    @property
    def engaged(self) -> bool:
        """True while the arm follows the keys."""
        return self.arm.alive and self.arm.state == ArmHealth.TELEOPERATED

    def engage(self) -> None:
        """Asks the arm to follow, from where it is. The answer comes later, in `note`."""
        if self._engaging is not None or self.engaged:
            return
        try:
            check_engageable(self.arm)
        except ArmError as error:
            self.note = str(error)
            return
        self._patient_until = time.monotonic() + DISCOVERY_PATIENCE
        self._ask()

    def _ask(self) -> None:
        self._engaging = self.arm.ask(SERVICE, SetBool, SetBool.Request(data=True))

    def tick(self) -> None:
        """One command: the target while the arm follows, else where it is."""
        now = time.monotonic()
        dt, self._stepped = min(now - self._stepped, 3.0 * PERIOD), now
        measured = self.arm.pose
        if self._engaging is not None and self._engaging.done():
            answer, self._engaging = self._engaging.result(), None
            self.note = "" if answer.success else answer.message
            if not answer.success and now < self._patient_until and self.arm.state == ArmHealth.HOLDING:
                self._ask()
        if not self.engaged and self._engaging is None:
            self.target.rest_at(measured)
        position = self.target.step(now, dt, measured)
        self._message.header.stamp = time_message(time.time_ns())
        self._message.position = array.array("d", position.tobytes())
        self._commands.publish(self._message)

    def press(self, key: str) -> None:
        """What a key does."""
        if key in BY_KEY:
            if self.engaged:
                self.target.press(BY_KEY[key], time.monotonic(), self.arm.pose)
            else:
                self.note = "not engaged: press enter"
        elif key == "x":
            self.target.halt()
            self._estop.publish(Bool(data=True))
            self.note = "e-stop sent; `chefmate arm release` in another terminal clears it"
        elif key == " ":
            self.target.halt()
        elif key in ("+", "=", "-"):
            self.target.change_speed(-1 if key == "-" else +1)
        elif key in ("\r", "\n"):
            self.engage()

    def picture(self) -> Group:
        """State line, one row for each joint, and the keys."""
        table = Table("joint", "keys", "does", "angle", "target", "", box=None)
        for index, name in enumerate(JOINT_NAMES):
            plus, minus = (
                next(entry for entry in KEYS if entry.joint == index and entry.direction == direction)
                for direction in (+1, -1)
            )
            angle, wanted = float(self.arm.pose[index]), float(self.target.position[index])
            limit = min(wanted - LOWER[index], UPPER[index] - wanted) < NEAR_LIMIT
            table.add_row(
                name,
                f"[bold]{plus.key} {minus.key}[/bold]",
                f"{plus.effect} / {minus.effect}",
                f"{math.degrees(angle):.1f}°",
                f"{math.degrees(wanted):.1f}°",
                "at its limit" if limit else "",
            )
        silent = "" if self.arm.alive else "  (the arm node is silent)"
        return Group(
            Text(why(self.arm) + silent, style="green" if self.engaged else "yellow"),
            Text(f"speed {self.target.speed:g} rad/s    {self.note}"),
            table,
            *(Text(line, style="dim") for line in HELP),
        )


def jog(options: argparse.Namespace) -> int:
    """Jogs until ctrl-C (0): the arm then holds."""
    with keys("chefmate arm jog") as typed, joined(), interruptible() as interrupt:
        with ArmClient("arm_jog", options.namespace) as arm:
            arm.wait_for_arm()
            check_engageable(arm)
            refuse_other_leaders(arm)
            arm.wait_for_pose()
            session = Jog(arm)
            session.await_listener()
            try:
                run(session, typed, interrupt)
            finally:
                state = disengage(arm)
    print(f"jogging ended; the arm is {state}")
    return 0


def run(session: Jog, typed: Keys, interrupt: Interrupt) -> None:
    """Commands at a steady rate, keys in between, until ctrl-C or the end of the terminal."""
    due = time.monotonic()
    shown, begun = -np.inf, 0
    with Live(auto_refresh=False, transient=True) as live:
        while not interrupt.asked:
            try:
                for key in typed.read(due - time.monotonic()):
                    session.press(key)
            except EOFError:
                return
            now = time.monotonic()
            if now < due:
                continue
            due = max(due + PERIOD, now)
            session.arm.look()
            session.tick()
            begun += 1
            if begun == 3:  # the arm has a fresh command by now, without which it refuses
                session.engage()
            if now - shown > REFRESH:
                shown = now
                live.update(session.picture(), refresh=True)
