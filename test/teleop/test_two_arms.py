# SPDX-License-Identifier: Apache-2.0
"""Leader node and arm node as processes, over real DDS, on two emulated arms."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState
from two_arms import REST, Follower

from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.model import GRIPPER, JOINT_NAMES
from chefmate_driver.feetech.plant import SimplePlant

TOPIC = "teleop/joint_command"
NEAR = [0.3, -0.5, 0.4, 0.5, 0.2, 0.8]  # rad, a pose of the leader that the follower may take


def test_the_node_says_where_the_leader_is_at_its_rate(
    start_leader: Callable[..., Any], leader_port: Any, leader_plant: SimplePlant, listener: Any
) -> None:
    heard = listener.subscribe(TOPIC, JointState, 1)
    reports = listener.subscribe("/diagnostics", DiagnosticArray)
    node = start_leader()
    listener.until(lambda: len(heard) > 20, 40.0, "commands of the leader")
    heard.clear()
    listener.spin(1.0)
    assert 80 <= len(heard) <= 105
    message = heard[-1]
    assert message.name == list(JOINT_NAMES)
    assert list(message.position) == pytest.approx(REST, abs=2e-3)
    assert abs(time.time() - message.header.stamp.sec - message.header.stamp.nanosec * 1e-9) < 0.5
    leader_plant.positions[:] = NEAR
    listener.until(
        lambda: np.allclose(heard[-1].position, NEAR, atol=2e-3), 5.0, "the pose that the leader was moved to"
    )
    listener.until(
        lambda: any(s.level == b"\0" and "Hz" in s.message for r in reports for s in r.status),
        5.0,
        "diagnostics",
    )
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"port": "/dev/none"}, "/dev/none does not exist"),
        ({"port": "''"}, "the parameter `port` is empty"),
        ({"calibration": "nobody"}, "no calibration file 'nobody'"),
        ({"max_voltage": 9.0}, "follower's port"),
    ],
)
def test_a_leader_that_cannot_be_used_ends_the_node_with_its_reason(
    start_leader: Callable[..., Any], leader_port: Any, parameters: dict[str, Any], message: str
) -> None:
    node = start_leader(**parameters)
    assert node.wait() == 1
    assert message in node.output


def test_the_follower_goes_to_the_leader_and_follows_it(
    follower: Follower, start_leader: Callable[..., Any], leader_port: Any, leader_plant: SimplePlant
) -> None:
    leader_plant.positions[:] = NEAR
    start_leader()
    commands = follower.listener.subscribe(TOPIC, JointState, 1)
    follower.until(lambda: commands, "commands of the leader")
    assert follower.plant.positions == pytest.approx(REST, abs=5e-3)  # nothing moves before it is engaged
    follower.engage()
    follower.until_state("TELEOPERATED")
    follower.until_at(NEAR)
    leader_plant.positions[GRIPPER] = 1.2
    leader_plant.positions[0] = 0.1
    follower.until_at([0.1, *NEAR[1:GRIPPER], 1.2])
    assert follower.switch("arm/teleop", False).success
    follower.until_state("HOLDING")
    leader_plant.positions[0] = 0.5
    follower.listener.spin(0.5)
    assert follower.plant.positions[0] == pytest.approx(0.1, abs=0.02)


def test_a_leader_unplugged_stops_the_arm_and_drives_again_only_when_engaged_anew(
    follower: Follower, start_leader: Callable[..., Any], leader_file: Any, tmp_path: Any
) -> None:
    first = emulated_arm(leader_file, SimplePlant(REST), tmp_path / "leader")
    first.start()
    node = start_leader()
    node.until_output("leader found")
    commands = follower.listener.subscribe(TOPIC, JointState, 1)
    follower.until(lambda: commands, "commands of the leader")
    follower.engage()
    follower.until_state("TELEOPERATED")
    pulled = time.monotonic()
    first.close()
    follower.until_state("HOLDING", "leader is silent", timeout=5.0)
    assert time.monotonic() - pulled < 2.0
    node.until_output("leader lost, nothing is published")

    commands.clear()
    moved = [0.6, *REST[1:]]
    with emulated_arm(leader_file, SimplePlant(moved), tmp_path / "leader"):
        follower.until(lambda: len(commands) > 20, "commands of the leader that is back")
        follower.listener.spin(0.5)
        assert follower.health[-1].state == "HOLDING"
        assert follower.plant.positions == pytest.approx(REST, abs=5e-3)
        follower.engage()
        follower.until_at(moved)
