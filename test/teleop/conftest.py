# SPDX-License-Identifier: Apache-2.0
"""A leader and a follower of emulated servos, each on a pty of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_ros.share import share_file

sys.path.insert(0, str(Path(__file__).parent))  # lets the tests of this folder import two_arms.py

from two_arms import ANY_SUPPLY, REST, write_leader_file

TELEOP_CONFIG = share_file("config", "teleop.yaml")


@pytest.fixture
def leader_file(tmp_path: Path) -> Path:
    """Path of the leader's calibration."""
    return write_leader_file(tmp_path / "calibration" / "leader.json")


@pytest.fixture
def leader_plant() -> SimplePlant:
    """The leader's joints; with torque off whoever sets `positions` is the hand that moves them."""
    return SimplePlant(REST)


@pytest.fixture
def leader_port(tmp_path: Path, leader_file: Path, leader_plant: SimplePlant) -> Iterator[EmulatedPort]:
    with emulated_arm(leader_file, leader_plant, tmp_path / "leader") as opened:
        yield opened


@pytest.fixture
def start_leader(
    start_process: Callable[..., Any], ros_domain: int, tmp_path: Path, leader_file: Path
) -> Callable[..., Any]:
    """Starts teleop_node with the shipped parameters and those given."""

    def start(**parameters: Any) -> Any:
        values = {
            "port": tmp_path / "leader",
            "calibration": leader_file,
            "max_voltage": ANY_SUPPLY,
            **parameters,
        }
        words = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
        return start_process(
            [
                "python",
                "-m",
                "chefmate_driver.teleop.node",
                "--ros-args",
                "--params-file",
                str(TELEOP_CONFIG),
                *words,
            ]
        )

    return start
