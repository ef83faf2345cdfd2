# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm`: the table of its commands. What they do is in the modules that the table names."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from chefmate import arm_setup_options as setup
from chefmate.arm_options import graph_options, guide_options, monitor_options, pose_options, teleop_options

# Verbs of a running arm node; see chefmate.tell.ARM_SERVICES.
NODE_VERBS: dict[str, str] = {
    "estop": "stop the running arm at once; it holds until `release`",
    "release": "end an e-stop; nothing moves",
    "home": "move the running arm to its home pose",
    "park": "move the running arm to its park pose, from which torque off drops nothing",
    "torque-on": "servos of the running arm hold where they are; ends a fault",
    "torque-off": "the running arm goes limp at once",
}


def node_options(command: argparse.ArgumentParser) -> None:
    """Options of a command that talks to a running arm node."""
    command.add_argument("--namespace", default="", help="namespace of the graph")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


@dataclass(frozen=True, slots=True)
class ArmCommand:
    """One command of `chefmate arm`."""

    name: str
    help: str
    options: Callable[[argparse.ArgumentParser], None]
    run: str  # "module:function", called with the options; returns the exit code. Imported when it is run


COMMANDS: tuple[ArmCommand, ...] = (
    *(ArmCommand(verb, help, node_options, "chefmate.tell:command") for verb, help in NODE_VERBS.items()),
    *(
        ArmCommand(name, help, options, run)
        for name, help, options, run in (
            (
                "scan",
                "find the servos on a port, or change an id",
                setup.scan_options,
                "chefmate.arm_scan:scan_command",
            ),
            (
                "configure",
                "bring the servos' settings in line with this arm",
                setup.configure_options,
                "chefmate.arm_configure:configure_arm",
            ),
            (
                "calibrate",
                "teach the arm its joints' middles and ranges",
                setup.calibrate_options,
                "chefmate.arm_calibrate:calibrate",
            ),
            (
                "check",
                "is the arm fit for its first motion?",
                setup.check_options,
                "chefmate.arm_check:check",
            ),
            (
                "emulate",
                "an arm without an arm, to try these",
                setup.emulate_options,
                "chefmate.arm_emulate:emulate",
            ),
            ("monitor", "watch the running arm", monitor_options, "chefmate.arm_monitor:monitor"),
            ("teleop", "move the running arm by a leader arm", teleop_options, "chefmate.arm_teleop:teleop"),
            ("jog", "move the running arm by keys", graph_options, "chefmate.arm_jog:jog"),
            ("guide", "move the limp arm by hand and save poses", guide_options, "chefmate.arm_poses:guide"),
            ("pose", "save, list, delete, or go to a named pose", pose_options, "chefmate.arm_poses:pose"),
        )
    ),
)


def add(arm: argparse.ArgumentParser) -> None:
    """Adds all commands to the parser of `chefmate arm`; `verb` names the chosen one."""
    verbs = arm.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.options(verbs.add_parser(command.name, help=command.help, description=command.help))


def run(options: argparse.Namespace) -> int:
    """Runs the chosen command; returns its exit code."""
    chosen = next(command for command in COMMANDS if command.name == options.verb)
    module, function = chosen.run.split(":")
    return int(getattr(import_module(module), function)(options))
