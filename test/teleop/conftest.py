# SPDX-License-Identifier: Apache-2.0
"""A leader and a follower of emulated servos, each on a pty of its own, and their nodes."""

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

from two_arms import ANY_SUPPLY, REST, Follower, Terminal, write_leader_file

TWIN = share_file("config", "calibration", "twin.json")


def node_command(module: str, config: str, parameters: dict[str, Any]) -> list[str]:
    """A node as a process, with its shipped parameters and those given."""
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    return ["python", "-m", module, "--ros-args", "--params-file", str(share_file("config", config)), *words]


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
        values = {"port": tmp_path / "leader", "calibration": leader_file, "max_voltage": ANY_SUPPLY}
        return start_process(node_command("chefmate_driver.teleop.node", "teleop.yaml", values | parameters))

    return start


@pytest.fixture
def follower(start_process: Callable[..., Any], listener: Any, tmp_path: Path) -> Iterator[Follower]:
    """The arm node on emulated servos, holding REST."""
    plant = SimplePlant(REST)
    with emulated_arm(TWIN, plant, tmp_path / "follower"):
        values = {"port": tmp_path / "follower", "calibration": "twin", "torque_on_start": "true"}
        process = start_process(node_command("chefmate_driver.arm.node", "arm.yaml", values))
        arm = Follower(listener, process, plant)
        arm.until_state("HOLDING")
        yield arm
        process.kill_group()


@pytest.fixture
def terminal(ros_domain: int, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Function (words of a chefmate command) -> Terminal."""
    opened: list[Terminal] = []

    def start(*words: str) -> Terminal:
        opened.append(Terminal(*words, env={"XDG_CONFIG_HOME": str(tmp_path / "config")}))
        return opened[-1]

    yield start
    for each in opened:
        each.close()
