# SPDX-License-Identifier: Apache-2.0
"""Options of the commands of `chefmate arm` that move the arm by hand or look at it. Cheap to import."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

GO_SPEED = 0.5  # rad/s of the fastest joint
MAX_GO_SPEED = 1.5  # rad/s


def poses_file() -> Path:
    """Where poses are kept: $XDG_CONFIG_HOME/chefmate/poses.yaml, by default below ~/.config."""
    folder = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(folder) / "chefmate" / "poses.yaml"


def graph_options(command: argparse.ArgumentParser) -> None:
    """Where the arm is."""
    command.add_argument("--namespace", default="", help="namespace of the graph")


def teleop_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate arm teleop`."""
    command.add_argument("--leader", help="serial port of the leader arm (default: a running teleop_node)")
    command.add_argument("--calibration", help="with --leader: its LeRobot calibration, JSON file or id")
    command.add_argument(
        "--max-voltage",
        type=float,
        help="with --leader: highest supply of its servos, V; 0 does not check (default: config/teleop.yaml)",
    )
    graph_options(command)
    command.add_argument("--json", action="store_true", help="how it ended, as one JSON document")


def guide_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate arm guide`."""
    _file_option(command)
    graph_options(command)


def pose_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate arm pose`."""
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    save = actions.add_parser("save", help="save the measured pose under a name")
    save.add_argument("--replace", action="store_true", help="overwrite a pose of this name")
    go = actions.add_parser("go", help="go to a saved pose, slowly, gripper included")
    go.add_argument(
        "--speed",
        type=float,
        default=GO_SPEED,
        help=f"rad/s of the fastest joint, at most {MAX_GO_SPEED} (default {GO_SPEED})",
    )
    delete = actions.add_parser("delete", help="forget a pose")
    for named in (save, go, delete):
        named.add_argument("name")
    for each in (save, go, delete, actions.add_parser("list", help="all saved poses")):
        _file_option(each)
        graph_options(each)
        each.add_argument("--json", action="store_true", help="one JSON document on standard output")


def monitor_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate arm monitor`."""
    graph_options(command)
    command.add_argument("--once", action="store_true", help="one picture, then end")
    command.add_argument("--json", action="store_true", help="one snapshot as a JSON document, then end")


def _file_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--file", type=Path, default=poses_file(), help="poses (default: %(default)s)")
