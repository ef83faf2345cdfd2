# SPDX-License-Identifier: Apache-2.0
"""Options of the commands of `chefmate arm` that set an arm up. Cheap to import."""

from __future__ import annotations

import argparse
from pathlib import Path

BAUD = 1_000_000
KINDS = ("follower", "follower-7.4v", "leader")


def _bus(command: argparse.ArgumentParser) -> None:
    command.add_argument("--port", help="serial port of the arm (default: the only USB serial port)")


def _kind(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kind",
        choices=KINDS,
        default=KINDS[0],
        help="which arm it is: a follower of 12 V or 7.4 V servos, or a leader (default: %(default)s)",
    )


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _yes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--yes",
        action="store_true",
        help="answer every question with yes, torque off included: support the arm",
    )


def scan_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate arm scan`."""
    _bus(command)
    command.add_argument(
        "--baud", default=str(BAUD), help="baud rates to try, with commas, or `all` (default: %(default)s)"
    )
    command.add_argument(
        "--ids", default="0-253", metavar="FIRST-LAST", help="servo ids to ask (default: all, %(default)s)"
    )
    command.add_argument(
        "--set-id",
        nargs=2,
        type=int,
        metavar=("OLD", "NEW"),
        help="change the id of a servo in its EEPROM; connect one servo at a time",
    )
    _yes(command)
    _json(command)


def calibrate_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate arm calibrate`."""
    _bus(command)
    _kind(command)
    command.add_argument(
        "--calibration",
        required=True,
        help="LeRobot's id of the arm (the file is put into LeRobot's folder), or a path ending in .json",
    )
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--use-file", action="store_true", help="write the calibration of the file into the servos; no sweep"
    )
    source.add_argument(
        "--from-servos", action="store_true", help="save what the servos hold to the file; no sweep"
    )
    command.add_argument(
        "--accept-ranges",
        action="store_true",
        help="accept ranges that an SO-ARM 101 does not have (never a wrap-around)",
    )
    _yes(command)
    _json(command)


def configure_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate arm configure`."""
    _bus(command)
    _kind(command)
    command.add_argument("--dry-run", action="store_true", help="show what differs, write nothing")
    _yes(command)
    _json(command)


def check_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate arm check`."""
    _bus(command)
    _kind(command)
    command.add_argument("--calibration", required=True, help="LeRobot's id of the arm, or its file")
    command.add_argument(
        "--no-hands",
        action="store_true",
        help="leave out the joints' directions, for which the arm goes limp",
    )
    _yes(command)
    _json(command)


def emulate_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate arm emulate`."""
    command.add_argument(
        "--link", type=Path, default=Path("/tmp/arm"), help="path of the emulated port (default: %(default)s)"
    )
    command.add_argument(
        "--new",
        action="store_true",
        help="servos as they come from the factory: not configured or calibrated",
    )
