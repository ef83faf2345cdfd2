# SPDX-License-Identifier: Apache-2.0
"""Emulated servos behind a pty, the real node as a process on them, and what a test sees of it.

What needs ROS is imported by the fixtures that need it: the other tests of this folder run without."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the tests' own modules, with --import-mode=importlib

from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.plant import SimplePlant


@pytest.fixture
def plant() -> SimplePlant:
    """Joints that stand on whole ticks: a servo that takes over a pose between two of them creeps to one."""
    from arm_graph import START, TWIN

    units = ArmUnits(read_calibration(TWIN))
    return SimplePlant([float(angle) for angle in units.radians(units.ticks(START))])


@pytest.fixture
def port(tmp_path: Path, plant: SimplePlant) -> Iterator[EmulatedPort]:
    from arm_graph import TWIN

    with emulated_arm(TWIN, plant, tmp_path / "servos") as opened:
        yield opened


@pytest.fixture
def start_arm(start_process: Callable[..., Any], ros_domain: int, tmp_path: Path) -> Callable[..., Any]:
    """Starts the node with the shipped parameters and those given."""
    from arm_graph import CONFIG, yaml_text

    def start(**parameters: Any) -> Any:
        values = {
            "port": tmp_path / "servos",
            "calibration": "twin",
            "torque_on_start": True,
            "park_on_shutdown": False,
            "black_box_folder": tmp_path / "black_box",
            **parameters,
        }
        words = [word for name, value in values.items() for word in ("-p", f"{name}:={yaml_text(value)}")]
        return start_process(
            ["python", "-m", "chefmate_driver.arm.node", "--ros-args", "--params-file", str(CONFIG), *words]
        )

    return start


@pytest.fixture
def graph(start_arm: Callable[..., Any], port: EmulatedPort, listener: Any) -> Any:
    from arm_graph import Graph

    made = Graph(listener, start_arm())
    made.until_state("HOLDING", 20.0)
    return made
