# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm monitor`: what the arm and each servo report, as a live table or one JSON document."""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

from chefmate_msgs.msg import ArmHealth, ServoHealth
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chefmate.arm_client import ArmClient
from chefmate.interrupting import interruptible
from chefmate.ros import joined
from chefmate_driver.feetech.packet import status_text

REFRESH = 0.1  # s between pictures
POSE_PATIENCE = 1.0  # s for joint_states, which a silent bus does not give
WARM, HOT = 55.0, 60.0  # degree Celsius; the servo's own limit is 70
STYLES = {
    ArmHealth.HOLDING: "green",
    ArmHealth.FOLLOWING: "green",
    ArmHealth.TELEOPERATED: "green",
    ArmHealth.READY: "cyan",
    ArmHealth.FAULT: "bold red",
    ArmHealth.ESTOPPED: "bold red",
    ArmHealth.UNPOWERED: "red",
}


def monitor(options: argparse.Namespace) -> int:
    """A live table until ctrl-C (0); one snapshot with --json or --once."""
    with joined(), interruptible() as interrupt, ArmClient("arm_monitor", options.namespace) as arm:
        arm.idle = interrupt.check
        arm.wait_for_arm()
        arm.until(lambda: arm.has_pose, POSE_PATIENCE)
        if options.json:
            print(json.dumps(snapshot(arm), indent=2))
            return 0
        console = Console()
        if options.once or not console.is_terminal:
            console.print(picture(arm))
            return 0
        arm.idle = lambda: None
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while not interrupt.asked:
                live.update(picture(arm), refresh=True)
                arm.until(lambda: interrupt.asked, REFRESH)
    return 0


def snapshot(arm: ArmClient) -> dict[str, Any]:
    """Everything that arm/health says, in its units (SI, degrees Celsius), and each joint's angle in rad."""
    health = arm.health
    assert health is not None
    angles = arm.pose.tolist() if arm.has_pose else [None] * len(health.servos)
    fields = (
        "state", "reason", "torque", "estop", "active", "protection", "protection_reason", "cycles",
        "missed_cycles", "bus_errors", "rejected_trajectories", "filter_interventions", "speed_scale",
        "gripper_torque_limit", "wanted_rate", "loop_rate", "lateness_p50", "lateness_p99", "black_box",
    )  # fmt: skip
    document: dict[str, Any] = {name: _plain(getattr(health, name)) for name in fields}
    document["age"] = round(time.monotonic() - arm.heard, 3)
    document["interventions"] = {entry.name: entry.count for entry in health.interventions}
    document["servos"] = [
        {
            "name": servo.name,
            "id": servo.id,
            "position": angle if angle is None else round(angle, 6),
            **{
                name: _plain(getattr(servo, name))
                for name in (
                    "present",
                    "torque_enabled",
                    "temperature",
                    "voltage",
                    "current",
                    "load",
                    "errors",
                )
            },
            "status": servo.status,
            "status_text": status_text(servo.status),
        }
        for servo, angle in zip(health.servos, angles, strict=False)
    ]
    return document


def picture(arm: ArmClient) -> Group:
    """The same for a terminal."""
    health = arm.health
    assert health is not None
    lines = [_headline(arm, health), _loop(health)]
    counts = [f"{entry.name} {entry.count}" for entry in health.interventions if entry.count]
    lines.append(
        Text(
            f"filter {health.filter_interventions} interventions"
            + (f" ({', '.join(counts)})" if counts else "")
            + f"   trajectories refused {health.rejected_trajectories}   speed x{health.speed_scale:.2f}"
        )
    )
    if health.protection not in ("", ArmHealth.NORMAL):
        lines.append(Text(f"protection {health.protection}: {health.protection_reason}", style="bold yellow"))
    if health.black_box:
        lines.append(Text(f"black box {health.black_box}", style="yellow"))
    return Group(*lines, _servos(arm, health))


def _headline(arm: ArmClient, health: ArmHealth) -> Text:
    if not arm.alive:
        age = time.monotonic() - arm.heard
        return Text(
            f"no arm/health for {age:.1f} s: the arm node is gone; below is the last word", "bold red"
        )
    text = f"{health.state}: {health.reason}" if health.reason else health.state
    marks = [mark for mark, on in (("e-stop latched", health.estop), ("inactive", not health.active)) if on]
    marks.append("torque on" if health.torque else "torque off")
    return Text(f"{text}   [{', '.join(marks)}]", style=STYLES.get(health.state, "yellow"))


def _loop(health: ArmHealth) -> Text:
    slow = 0.0 < health.loop_rate < 0.95 * health.wanted_rate
    wanted = f" of {health.wanted_rate:.0f}" if health.wanted_rate > 0.0 else ""
    return Text(
        f"loop {health.loop_rate:.1f}{wanted} Hz   late p50 {health.lateness_p50 * 1e3:.2f} ms, "
        f"p99 {health.lateness_p99 * 1e3:.2f} ms   missed {health.missed_cycles} of {health.cycles} cycles   "
        f"bus errors {health.bus_errors}",
        style="yellow" if slow else "",
    )


def _servos(arm: ArmClient, health: ArmHealth) -> Table:
    table = Table(
        "joint", "id", "angle", "load", "current", "temp.", "supply", "torque", "errors", "status", box=None
    )
    for column in table.columns[1:9]:
        column.justify = "right"
    angles = arm.pose.tolist() if arm.has_pose else [math.nan] * len(health.servos)
    for servo, angle in zip(health.servos, angles, strict=False):
        table.add_row(
            servo.name,
            str(servo.id),
            "?" if math.isnan(angle) else f"{math.degrees(angle):.1f}°",
            f"{servo.load * 100:.0f} %",
            f"{servo.current:.2f} A",
            Text(f"{servo.temperature:.0f} °C", style=_heat(servo)),
            f"{servo.voltage:.1f} V",
            "on" if servo.torque_enabled else "off",
            str(servo.errors),
            "no answer" if not servo.present else status_text(servo.status) or "ok",
            style="" if servo.present and not servo.status else "red",
        )
    return table


def _heat(servo: ServoHealth) -> str:
    if servo.temperature >= HOT:
        return "bold red"
    return "yellow" if servo.temperature >= WARM else ""


def _plain(value: Any) -> Any:
    """A message's number without the digits that a float32 does not have."""
    return round(value, 6) if isinstance(value, float) else value
