# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm pose` and `chefmate arm guide`: poses saved by hand, and gone to."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from chefmate_msgs.msg import ArmHealth
from rich.console import Console, Group
from rich.live import Live
from rich.prompt import Prompt
from rich.table import Table
from rich.text import Text
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from chefmate.arm_client import PATIENCE, ArmClient, ArmError
from chefmate.arm_options import MAX_GO_SPEED
from chefmate.engagement import check_engageable, why
from chefmate.interrupting import Interrupt, interruptible
from chefmate.poses import (
    Pose,
    PoseError,
    check_name,
    delete_pose,
    get_pose,
    read_poses,
    save_pose,
)
from chefmate.ros import joined
from chefmate.terminal import Keys, keys
from chefmate_driver.arm.model import JOINT_NAMES

TRAJECTORY_TOPIC = "arm_controller/joint_trajectory"
SHORTEST = 0.5  # s
# Peak over mean speed of the cubic from rest to rest.
PEAK = 1.5
BEGINS = 3.0  # s for the arm to follow a trajectory that was sent
MARGIN = 5.0  # s beyond the computed time
STOP_TIME = 0.3  # s of the trajectory that stops another one
REFRESH = 0.1  # s between pictures
INTERRUPTED = 130


def pose(options: argparse.Namespace) -> int:
    """Saves, lists, deletes, or goes to a pose. 130: ctrl-C stopped the arm on its way."""
    if options.action == "list":
        return _list(options)
    if options.action == "delete":
        delete_pose(options.file, options.name)
        return _done(options, {"deleted": options.name}, f"pose {options.name} deleted from {options.file}")
    with joined(), interruptible() as interrupt, ArmClient("arm_pose", options.namespace) as arm:
        arm.wait_for_arm()
        if options.action == "save":
            check_name(options.name)
            measured = _named(arm.wait_for_pose())
            save_pose(options.file, options.name, measured, replace=options.replace)
            text = f"pose {options.name} saved in {options.file}"
            return _done(options, {"saved": options.name, "pose": measured}, text)
        target = get_pose(options.file, options.name)
        seconds = go(arm, target, options.speed, interrupt)
    if interrupt.asked:
        print("stopped on the way; the arm holds", file=sys.stderr)
        return INTERRUPTED
    return _done(
        options,
        {"reached": options.name, "seconds": round(seconds, 2)},
        f"at {options.name}, {seconds:.1f} s",
    )


def go(arm: ArmClient, target: Pose, speed: float, interrupt: Interrupt) -> float:
    """Goes to a pose by one slow trajectory and waits for its end; returns the time it took, s.

    Ctrl-C stops the arm on the way. ArmError if the arm refuses, stops, or does not arrive.
    """
    if not 0.0 < speed <= MAX_GO_SPEED:
        raise ArmError(f"speed {speed:g} rad/s is not between 0 and {MAX_GO_SPEED:g}")
    check_engageable(arm)
    measured = arm.wait_for_pose()
    goal = np.array([target[name] for name in JOINT_NAMES])
    duration = max(PEAK * float(np.abs(goal - measured).max()) / speed, SHORTEST)
    publisher = arm.node.create_publisher(JointTrajectory, TRAJECTORY_TOPIC, 10)
    if not arm.until(lambda: publisher.get_subscription_count() > 0, PATIENCE):
        raise ArmError(f"the arm does not listen to {TRAJECTORY_TOPIC}")
    rejected = arm.health.rejected_trajectories if arm.health is not None else 0
    publisher.publish(_trajectory(goal, duration))
    begun = time.monotonic()

    def taken() -> bool:
        if arm.health is not None and arm.health.rejected_trajectories > rejected:
            raise ArmError(f"the arm refused the trajectory ({why(arm)}); its log and /diagnostics say why")
        return bool(arm.state != ArmHealth.HOLDING)

    near = float(np.abs(goal - measured).max()) < 0.01
    if not arm.until(taken, BEGINS) and not near:
        raise ArmError(f"the arm did not begin to move within {BEGINS:g} s; it is {why(arm)}")
    arm.until(lambda: interrupt.asked or arm.state != ArmHealth.FOLLOWING, duration + MARGIN)
    if interrupt.asked:
        publisher.publish(_trajectory(arm.pose, STOP_TIME))
        if not arm.until(lambda: arm.state == ArmHealth.HOLDING, MARGIN):
            raise ArmError(f"interrupted, but the arm is {why(arm)} {MARGIN:g} s later")
        return time.monotonic() - begun
    arm.until(lambda: arm.state != ArmHealth.BRAKING, MARGIN)
    if arm.state != ArmHealth.HOLDING or arm.reason:
        raise ArmError(f"the arm did not reach the pose: {why(arm)}")
    return time.monotonic() - begun


def guide(options: argparse.Namespace) -> int:
    """Torque off, poses saved by key, torque on again where the arm then is, also if the terminal goes."""
    with keys("chefmate arm guide") as typed, joined(), interruptible(signal.SIGHUP) as interrupt:
        with ArmClient("arm_guide", options.namespace) as arm:
            arm.wait_for_arm()
            if arm.state not in (ArmHealth.HOLDING, ArmHealth.READY):
                check_engageable(arm)
            held = arm.state == ArmHealth.HOLDING
            if held and not _supported(typed, interrupt):
                print("nothing changed; the arm holds")
                return 0
            try:
                if held:
                    arm.switch("arm/torque", False)
                arm.wait_for_pose()
                _guide(arm, typed, options.file, interrupt)
            finally:
                if held:
                    print(f"{arm.switch('arm/torque', True)}", flush=True)
    if not held:
        print("torque was off before and stays off; `chefmate arm torque-on` holds the arm")
    return 0


def _supported(typed: Keys, interrupt: Interrupt) -> bool:
    print(
        "Torque goes off and the arm falls if nobody holds it. Support it with one hand, then press enter; "
        "ctrl-C leaves everything as it is.",
        flush=True,
    )
    while not interrupt.asked:
        try:
            if {"\r", "\n"} & set(typed.read(0.1)):
                return True
        except EOFError:
            return False
    return False


def _guide(arm: ArmClient, typed: Keys, file: Path, interrupt: Interrupt) -> None:
    """Live angles; s saves, enter or ctrl-C ends."""
    note = ""
    while not interrupt.asked:
        with Live(auto_refresh=False, transient=True) as live:
            pressed = _watch(arm, typed, live, note, interrupt)
        if pressed != "s":
            return
        with typed.paused():
            note = _ask_and_save(arm, file, interrupt)


def _watch(arm: ArmClient, typed: Keys, live: Live, note: str, interrupt: Interrupt) -> str:
    """Shows the angles until a key that means something; "" for ctrl-C and the end of the terminal."""
    while not interrupt.asked:
        arm.look()
        live.update(_angles(arm, note), refresh=True)
        try:
            for key in typed.read(REFRESH):
                if key in "s\r\n":
                    return key
        except EOFError:
            return ""
    return ""


def _ask_and_save(arm: ArmClient, file: Path, interrupt: Interrupt) -> str:
    """Asks for a name and saves the pose that the arm has when it is given. Says what became of it."""
    try:
        name = Prompt.ask("save this pose as (empty: not at all)", default="", show_default=False).strip()
    except EOFError:
        return "not saved"
    if not name or interrupt.asked:
        return "not saved"
    try:
        measured = arm.wait_for_pose()
        replace = (
            name in read_poses(file)
            and Prompt.ask(f"{name} exists; overwrite it?", choices=["y", "n"], default="n") == "y"
        )
        save_pose(file, name, _named(measured), replace=replace)
    except (PoseError, ArmError, EOFError) as error:
        return f"not saved: {error}"
    return f"saved {name} in {file}"


def _angles(arm: ArmClient, note: str) -> Group:
    table = Table("joint", "angle", "rad", box=None)
    for name, angle in zip(JOINT_NAMES, arm.pose, strict=True):
        table.add_row(name, f"{math.degrees(angle):.1f}°", f"{angle:.3f}")
    return Group(
        Text(why(arm), style="yellow"),
        table,
        Text(note),
        Text("s saves this pose   enter or ctrl-C ends: torque on, the pose is held", style="dim"),
    )


def _trajectory(goal: np.ndarray, duration: float) -> JointTrajectory:
    """One point, reached at rest."""
    point = JointTrajectoryPoint(positions=[float(angle) for angle in goal], velocities=[0.0] * len(goal))
    point.time_from_start.sec, point.time_from_start.nanosec = int(duration), int(duration % 1.0 * 1e9)
    return JointTrajectory(joint_names=list(JOINT_NAMES), points=[point])


def _named(measured: Sequence[float] | np.ndarray) -> Pose:
    return {name: float(angle) for name, angle in zip(JOINT_NAMES, measured, strict=True)}


def _list(options: argparse.Namespace) -> int:
    poses = read_poses(options.file)
    if options.json:
        print(json.dumps({"file": str(options.file), "poses": poses}, indent=2))
        return 0
    if not poses:
        print(f"no poses in {options.file}; `chefmate arm pose save NAME` saves one")
        return 0
    table = Table(
        "pose", *(name.replace("_", "\n") for name in JOINT_NAMES), box=None, title=f"degrees; {options.file}"
    )
    for name, angles in sorted(poses.items()):
        table.add_row(name, *(f"{math.degrees(angles[joint]):.1f}" for joint in JOINT_NAMES))
    Console().print(table)
    return 0


def _done(options: argparse.Namespace, document: dict[str, object], text: str) -> int:
    print(json.dumps(document) if options.json else text)
    return 0
