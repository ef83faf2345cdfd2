# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm teleop, jog, guide, pose, monitor` in a terminal, on real nodes and emulated arms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from std_srvs.srv import Trigger
from two_arms import REST, Follower

from chefmate.arm_client import ArmClient, ArmError
from chefmate.poses import get_pose, read_poses, save_pose
from chefmate.ros import joined
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_driver.teleop.jog import HOLD, SPEEDS

CTRL_C = "\x03"
NEAR = [0.2, -0.5, 0.4, 0.5, 0.1, 0.5]  # rad


def leader_words(tmp_path: Path, leader_file: Path) -> list[str]:
    return ["--leader", str(tmp_path / "leader"), "--calibration", str(leader_file), "--max-voltage", "15"]


def test_teleop_drives_until_ctrl_c_and_leaves_the_arm_holding(
    follower: Follower,
    terminal: Callable[..., Any],
    leader_port: Any,
    leader_plant: SimplePlant,
    leader_file: Path,
    tmp_path: Path,
) -> None:
    leader_plant.positions[:] = NEAR
    command = terminal("arm", "teleop", *leader_words(tmp_path, leader_file))
    follower.until_state("TELEOPERATED")
    command.until_shows("difference")
    follower.until_at(NEAR)
    command.type(CTRL_C)
    assert command.wait() == 0
    assert "(ctrl-C); the arm is HOLDING" in command.screen
    follower.until_state("HOLDING")
    leader_plant.positions[:] = REST
    follower.listener.spin(0.3)
    assert follower.plant.positions == pytest.approx(NEAR, abs=0.02)


def test_teleop_says_why_the_arm_ended_it_and_exits_1(
    follower: Follower, terminal: Callable[..., Any], leader_port: Any, leader_file: Path, tmp_path: Path
) -> None:
    command = terminal("arm", "teleop", *leader_words(tmp_path, leader_file))
    follower.until_state("TELEOPERATED")
    follower.listener.call("arm/estop", Trigger)
    assert command.wait() == 1
    assert "ESTOPPED: e-stop: arm/estop was called" in command.screen

    again = terminal("arm", "teleop", *leader_words(tmp_path, leader_file))
    assert again.wait() == 1
    assert "the e-stop is latched" in again.screen and "chefmate arm release" in again.screen


def test_teleop_names_a_leader_that_is_not_there(
    follower: Follower, terminal: Callable[..., Any], leader_file: Path
) -> None:
    command = terminal("arm", "teleop", "--leader", "/dev/none", "--calibration", str(leader_file))
    assert command.wait() == 1
    assert "/dev/none does not exist" in command.screen
    assert follower.health[-1].state == "HOLDING"


def test_jog_moves_while_a_key_is_held_and_stops_when_it_is_released(
    follower: Follower, terminal: Callable[..., Any]
) -> None:
    command = terminal("arm", "jog")
    follower.until_state("TELEOPERATED")
    command.until_shows("shoulder_pan")
    command.hold("1", 1.0)
    follower.until(lambda: follower.plant.positions[0] > REST[0] + 0.05, "a joint that moved")
    follower.listener.spin(2.0 * HOLD + 0.5)  # the key is up: longer than a release may take
    stopped = follower.plant.positions.copy()
    assert stopped[0] < REST[0] + SPEEDS[2] * 1.5
    assert stopped[1:] == pytest.approx(REST[1:], abs=0.01)
    follower.listener.spin(0.5)
    assert follower.plant.positions == pytest.approx(stopped, abs=2e-3)

    command.type("c")
    follower.until(lambda: follower.plant.positions[5] < REST[5] - 0.02, "a gripper that closes")
    command.type("x")
    follower.until_state("ESTOPPED")
    command.until_shows("not engaged", pressing="1")
    assert follower.listener.call("arm/estop_release", Trigger).success
    follower.until_state("HOLDING")

    def engaged() -> bool:
        command.type("\r")  # the command may hear of the release a moment later than this test
        return bool(follower.health[-1].state == "TELEOPERATED")

    follower.until(engaged, "an arm that is engaged again")
    command.type(CTRL_C)
    assert command.wait() == 0
    follower.until_state("HOLDING")
    assert command.as_before


def test_jog_whose_terminal_dies_leaves_the_arm_holding(
    follower: Follower, terminal: Callable[..., Any]
) -> None:
    command = terminal("arm", "jog")
    follower.until_state("TELEOPERATED")
    command.process.kill()
    follower.until_state("HOLDING", "silent", timeout=5.0)


def test_guide_lets_the_arm_go_saves_a_pose_and_holds_where_it_was_led(
    follower: Follower, terminal: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "config" / "chefmate" / "poses.yaml"
    command = terminal("arm", "guide")
    command.until_shows("Support it with one hand")
    assert follower.plant.enabled.all()
    command.type("\r")
    follower.until_state("READY")
    assert not follower.plant.enabled.any()
    follower.plant.positions[:] = NEAR
    command.until_shows("0.500")
    command.type("s")
    command.until_shows("save this pose as")
    command.type("above_plate\r")
    command.until_shows("saved above_plate")
    assert list(get_pose(file, "above_plate").values()) == pytest.approx(NEAR, abs=2e-3)
    command.type("\r")
    assert command.wait() == 0
    follower.until_state("HOLDING")
    assert follower.plant.positions == pytest.approx(NEAR, abs=5e-3)
    assert command.as_before

    # and the saved pose can be gone to, listed, and deleted
    command = terminal("arm", "pose", "save", "here", "--json")
    assert command.wait() == 0, command.screen
    go = terminal("arm", "pose", "go", "above_plate")
    assert go.wait() == 0, go.screen
    listed = terminal("arm", "pose", "list", "--json")
    assert listed.wait() == 0
    assert set(json.loads(listed.screen)["poses"]) == {"above_plate", "here"} == set(read_poses(file))
    unknown = terminal("arm", "pose", "go", "nowhere")
    assert unknown.wait() == 1 and "known: above_plate, here" in unknown.screen


def test_guide_whose_terminal_is_closed_switches_torque_on_again(
    follower: Follower, terminal: Callable[..., Any]
) -> None:
    command = terminal("arm", "guide")
    command.until_shows("Support it with one hand")
    command.type("\r")
    follower.until_state("READY")
    command.until_shows("s saves this pose")
    follower.plant.positions[:] = NEAR
    command.hang_up()
    follower.until_state("HOLDING")
    assert follower.plant.enabled.all()
    assert follower.plant.positions == pytest.approx(NEAR, abs=5e-3)


def test_a_pose_is_gone_to_slowly_and_ctrl_c_stops_on_the_way(
    follower: Follower, terminal: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "config" / "chefmate" / "poses.yaml"
    save_pose(file, "near", dict(zip(JOINT_NAMES, NEAR, strict=True)))
    save_pose(file, "far", dict(zip(JOINT_NAMES, [1.2, *NEAR[1:]], strict=True)))
    go = terminal("arm", "pose", "go", "near")
    follower.until_state("FOLLOWING")
    assert go.wait() == 0, go.screen
    assert follower.plant.positions == pytest.approx(NEAR, abs=0.02)

    far = terminal("arm", "pose", "go", "far", "--speed", "0.3")
    follower.until(lambda: follower.plant.positions[0] > NEAR[0] + 0.1, "an arm on its way")
    far.type(CTRL_C)
    assert far.wait() == 130
    follower.until_state("HOLDING")
    assert NEAR[0] + 0.05 < follower.plant.positions[0] < 1.1
    assert np.abs(follower.states[-1].velocity).max() < 0.1

    assert follower.switch("arm/torque", False).success
    follower.until_state("READY")
    limp = terminal("arm", "pose", "go", "near")
    assert limp.wait() == 1 and "chefmate arm torque-on" in limp.screen


def test_monitor_shows_every_servo_live_once_and_as_json(
    follower: Follower, terminal: Callable[..., Any]
) -> None:
    live = terminal("arm", "monitor")
    once = terminal("arm", "monitor", "--once")
    assert once.wait() == 0
    for word in ("HOLDING", "torque on", "shoulder_pan", "gripper", "12.1 V", "25 °C", "late p50"):
        assert word in once.screen
    snapshot = terminal("arm", "monitor", "--json")
    assert snapshot.wait() == 0
    document = json.loads(snapshot.screen)
    assert document["state"] == "HOLDING" and document["loop_rate"] > 50.0
    assert [servo["position"] for servo in document["servos"]] == pytest.approx(REST, abs=2e-3)
    assert {servo["voltage"] for servo in document["servos"]} == {12.1}

    live.until_shows("HOLDING")
    follower.process.kill_group()
    live.until_shows("the arm node is gone")
    live.type(CTRL_C)
    assert live.wait() == 0


def test_without_an_arm_the_commands_say_where_they_looked(ros_domain: int) -> None:
    with joined(), ArmClient("test_client", "left") as client:
        with pytest.raises(ArmError, match="no arm publishes /left/arm/health; is the graph up"):
            client.wait_for_arm(patience=0.3)
