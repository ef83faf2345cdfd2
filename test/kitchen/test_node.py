# SPDX-License-Identifier: Apache-2.0
"""kitchen_node over real DDS, a real pty and real shared memory."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rclpy.qos import qos_profile_sensor_data

from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.kitchen.shared_state import path_of

SERVOS = (1, 2, 3, 4, 5, 6)


class Kitchen:
    """A kitchen_node and where it lives."""

    def __init__(self, start_process: Callable[..., Any], folder: Path, **parameters: Any) -> None:
        self.port = folder / "arm.port"
        self.memory = f"test.{os.getpid()}"
        values = {"port": self.port, "shared_memory": self.memory, **parameters}
        words = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
        command = ["python", "-m", "chefmate_driver.kitchen.node", "--ros-args", "-r", "__node:=kitchen"]
        self.process = start_process([*command, *words])

    def started(self) -> Kitchen:
        """Waits until it runs."""
        self.process.until_output("runs: servos on")
        return self


def poses(message: Any) -> dict[str, tuple[float, ...]]:
    """Position of each object of an ExpertState."""
    return {o.name: (o.pose.position.x, o.pose.position.y, o.pose.position.z) for o in message.objects}


def test_servos_answer_on_the_port_and_move(
    tmp_path: Path, start_process: Callable[..., Any], ros_domain: int
) -> None:
    kitchen = Kitchen(start_process, tmp_path).started()
    with FeetechBus(str(kitchen.port)) as bus:
        assert bus.scan() == list(SERVOS)
        before = bus.sync_read("present_position", SERVOS)
        for id in SERVOS:
            bus.write(id, "torque_enable", 1)
        bus.sync_write("goal_position", {id: before[id] + (200 if id == 1 else 0) for id in SERVOS})
        deadline = time.monotonic() + 5.0
        while abs(bus.read(1, "present_position") - before[1] - 200) >= 15:
            assert time.monotonic() < deadline, bus.read(1, "present_position") - before[1]
        assert 20 <= bus.read(2, "present_temperature") <= 40
        assert 110 <= bus.read(2, "present_voltage") <= 125
        assert 0 < abs(bus.read(2, "present_load")) < 1000
    assert kitchen.process.stop(signal.SIGINT) == 0
    assert not kitchen.port.exists() and not path_of(kitchen.memory).exists()


def test_reset_changes_the_layout_and_repeats_by_seed(
    tmp_path: Path, start_process: Callable[..., Any], listener: Any
) -> None:
    from chefmate_msgs.msg import ExpertState
    from chefmate_msgs.srv import KitchenReset

    states = listener.subscribe("kitchen/expert_state", ExpertState)
    Kitchen(start_process, tmp_path, seed=5).started()

    def layout() -> dict[str, int]:
        states.clear()
        listener.until(lambda: len(states) >= 3, 5.0, "expert states")
        return {o.name: o.slot for o in states[-1].objects}

    first = layout()
    assert sorted(first) == ["bread_1", "bread_2", "cheese_1", "patty_1"]
    answer = listener.call("kitchen/reset", KitchenReset, KitchenReset.Request(seed=-1))
    assert answer.success and answer.seed == 6
    assert layout() != first
    answer = listener.call("kitchen/reset", KitchenReset, KitchenReset.Request(seed=5))
    assert answer.success and layout() == first
    named = KitchenReset.Request(seed=5, slots=["", "cheese", "lettuce"])
    assert listener.call("kitchen/reset", KitchenReset, named).success
    assert layout() == {"cheese_1": 1, "lettuce_1": 2}
    answer = listener.call("kitchen/reset", KitchenReset, KitchenReset.Request(seed=9, slots=["anvil"]))
    assert not answer.success and "anvil" in answer.message and answer.seed == 5
    assert layout() == {"cheese_1": 1, "lettuce_1": 2}


def test_place_moves_the_object_in_state_and_truth(
    tmp_path: Path, start_process: Callable[..., Any], listener: Any
) -> None:
    from chefmate_msgs.msg import ExpertState, WorkcellState
    from chefmate_msgs.srv import KitchenPlace

    states = listener.subscribe("kitchen/expert_state", ExpertState)
    truths = listener.subscribe("kitchen/truth", WorkcellState)
    Kitchen(start_process, tmp_path, slots="bread,cheese").started()
    for name in ("bread", "cheese_1"):
        assert listener.call(
            "kitchen/place", KitchenPlace, KitchenPlace.Request(name=name, place="plate")
        ).success

    def stack() -> list[tuple[int, str]]:
        return sorted((o.stack_index, o.ingredient) for o in truths[-1].objects if o.place == "plate")

    listener.until(lambda: truths and stack() == [(0, "bread"), (1, "cheese")], 5.0, "both on the plate")
    plate = states[-1].plate.position
    listener.until(lambda: abs(poses(states[-1])["bread_1"][1] - plate.y) < 0.02, 5.0, "bread on the plate")
    assert states[-1].header.frame_id == truths[-1].header.frame_id == "base_link"
    back = KitchenPlace.Request(name="cheese", place="holder", slot=4)
    assert listener.call("kitchen/place", KitchenPlace, back).success
    listener.until(
        lambda: any(o.ingredient == "cheese" and o.slot == 4 for o in truths[-1].objects),
        5.0,
        "cheese in slot 4",
    )
    answer = listener.call("kitchen/place", KitchenPlace, KitchenPlace.Request(name="spoon", place="plate"))
    assert not answer.success and "spoon" in answer.message


def test_it_runs_in_real_time_and_says_so(
    tmp_path: Path, start_process: Callable[..., Any], listener: Any
) -> None:
    from diagnostic_msgs.msg import DiagnosticArray

    reports = listener.subscribe("/diagnostics", DiagnosticArray)
    Kitchen(start_process, tmp_path).started()
    listener.until(lambda: len(reports) >= 3, 10.0, "diagnostics")
    status = reports[-1].status[0]
    values = {pair.key: pair.value for pair in status.values}
    assert float(values["real_time_factor"]) > 0.9
    assert status.level == b"\x00" and status.name == "kitchen: real time"


def test_a_killed_kitchen_silences_its_cameras_with_an_error_and_a_new_one_brings_them_back(
    tmp_path: Path, start_process: Callable[..., Any], listener: Any
) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    images = listener.subscribe("wrist_camera/image_raw", Image, qos_profile_sensor_data)
    reports = listener.subscribe("/diagnostics", DiagnosticArray)
    kitchen = Kitchen(start_process, tmp_path)
    camera = ("python", "-m", "chefmate_driver.camera.node", "--ros-args", "-r", "__node:=wrist_camera")
    start_process([*camera, "-p", f"source:=kitchen:{kitchen.memory}:wrist"])
    listener.until(lambda: len(images) > 10, 20.0, "frames of the twin")
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in images]
    assert len(set(stamps)) == len(stamps)
    kitchen.process.kill_group()

    def camera_error() -> bool:
        found = (status for report in reports for status in report.status)
        return any(s.name == "wrist_camera: frames" and s.level == b"\x02" for s in found)

    listener.until(camera_error, 10.0, "an error of the camera")
    heard = len(images)
    listener.spin(1.0)
    assert len(images) == heard
    Kitchen(start_process, tmp_path).started()
    listener.until(lambda: len(images) > heard + 10, 15.0, "frames of the new twin")


def test_the_command_resets_and_places_and_says_what_is_refused(
    tmp_path: Path, start_process: Callable[..., Any], listener: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from chefmate_msgs.msg import WorkcellState

    from chefmate.cli import main

    truths = listener.subscribe("kitchen/truth", WorkcellState)
    Kitchen(start_process, tmp_path, seed=5).started()

    def chefmate(*words: str) -> tuple[int, str]:
        code = main(["kitchen", *words])
        return code, "".join(capsys.readouterr())

    def seen() -> set[tuple[str, str, int]]:
        return {(o.ingredient, o.place, o.slot) for o in truths[-1].objects}

    code, said = chefmate("reset", "--slots", "bread,,cheese", "--json")
    assert (code, json.loads(said)["seed"]) == (0, 6)
    assert json.loads(said)["message"] == "slots: bread_1, -, cheese_1, -, -"
    listener.until(
        lambda: truths and seen() == {("bread", "holder", 0), ("cheese", "holder", 2)}, 10.0, "the layout"
    )
    code, said = chefmate("place", "cheese", "holder", "--slot", "4")
    assert (code, said) == (0, "cheese_1 is on its place: holder\n")
    listener.until(
        lambda: seen() == {("bread", "holder", 0), ("cheese", "holder", 4)}, 10.0, "the cheese in slot 4"
    )
    code, said = chefmate("place", "bread", "holder", "--slot", "4")
    assert code == 1 and "kitchen/place: cannot put bread_1 into the holder: slot 4 is taken" in said
    with pytest.raises(SystemExit, match="2"):
        chefmate("reset", "--seed", "-3")


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"slots": "bread,anvil"}, "no ingredient 'anvil'"),
        ({"config": "/no/such/scene.yaml"}, "/no/such/scene.yaml"),
        ({"calibration": "/no/such.json"}, "/no/such.json"),
    ],
)
def test_a_bad_parameter_ends_it_with_one_line(
    tmp_path: Path, start_process: Callable[..., Any], ros_domain: int, parameters: dict[str, str], error: str
) -> None:
    kitchen = Kitchen(start_process, tmp_path, **parameters)
    assert kitchen.process.wait() == 1
    assert error in kitchen.process.output and "Traceback" not in kitchen.process.output


def test_a_second_kitchen_on_the_same_port_is_refused(
    tmp_path: Path, start_process: Callable[..., Any], ros_domain: int
) -> None:
    first = Kitchen(start_process, tmp_path).started()
    second = Kitchen(start_process, tmp_path, shared_memory=f"{first.memory}.2")
    assert second.process.wait() == 1
    assert "already belongs to a running servo emulator" in second.process.output
    assert not path_of(f"{first.memory}.2").exists()
    third = Kitchen(start_process, tmp_path, port=tmp_path / "other.port")
    assert third.process.wait() == 1
    assert f"process {first.process.pid}" in third.process.output
    with FeetechBus(str(first.port)) as bus:
        assert bus.ping(1) == 0
    assert first.process.stop(signal.SIGTERM) == 0


BROKEN_PHYSICS = """
import sys
from chefmate_driver.kitchen.world import World
from chefmate_driver.kitchen import node

def step(self, count=1):
    raise ArithmeticError("broken on purpose")

World.step = step
sys.exit(node.main())
"""


def test_physics_that_end_end_the_node_and_say_why(
    tmp_path: Path, start_process: Callable[..., Any], ros_domain: int
) -> None:
    port = ("-p", f"port:={tmp_path / 'port'}", "-p", f"shared_memory:=test.{os.getpid()}")
    process = start_process(["python", "-c", BROKEN_PHYSICS, "--ros-args", *port])
    assert process.wait() == 1
    assert "the twin's physics ended: broken on purpose" in process.output
