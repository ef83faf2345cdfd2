# SPDX-License-Identifier: Apache-2.0
"""perception_node over real DDS."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("MUJOCO_GL", "egl")  # before MuJoCo is imported: there is no screen
pytest.importorskip("chefmate_msgs.msg", reason="chefmate_msgs is not built: make setup && source env.sh")

import mujoco
from chefmate_msgs.msg import WorkcellState
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from chefmate_driver.kitchen.world import World

WORKCELL = Path(__file__).parents[2] / "config" / "workcell_twin.yaml"
PERIOD = 0.05  # s between images


@pytest.fixture(scope="module")
def scene() -> Image:
    """The scene camera's image of seed 0: cheese, empty, patty, bread, bread. Half as wide as the camera's:
    it fits into Fast DDS's shared memory without a profile."""
    world = World(seed=0)
    renderer = mujoco.Renderer(world.model, 240, 320)
    renderer.update_scene(world.data, camera="scene")
    pixels = renderer.render()
    renderer.close()
    return Image(height=240, width=320, encoding="rgb8", step=960, data=pixels.tobytes())


class Camera:
    """Publishes the image with the capture time that the test wants."""

    def __init__(self, listener: Any, image: Image) -> None:
        self.listener, self.image, self.runs, self.late = listener, image, True, 0
        self.states: list[WorkcellState] = listener.subscribe("workcell/state", WorkcellState)
        self.diagnostics: list[DiagnosticArray] = listener.subscribe("/diagnostics", DiagnosticArray)
        self._publisher = listener.node.create_publisher(
            Image, "scene_camera/image_raw", qos_profile_sensor_data
        )
        listener.node.create_timer(PERIOD, self._publish)

    def _publish(self) -> None:
        if self.runs:
            self.image.header.stamp = self.listener.node.get_clock().now().to_msg()
            self.image.header.stamp.sec -= self.late
            self._publisher.publish(self.image)

    def until_said(self, text: str) -> None:
        self.listener.until(
            lambda: any(text in s.message for d in self.diagnostics[-2:] for s in d.status),
            15.0,
            f"{text!r} in /diagnostics",
        )


@pytest.fixture
def start(start_process: Callable[..., Any]) -> Callable[..., Any]:
    def start_node(workcell: Path = WORKCELL) -> Any:
        command = ["python", "-m", "chefmate_policy.perception.node", "--ros-args"]
        return start_process([*command, "-p", f"workcell:={workcell}"])

    return start_node


def test_states_carry_the_images_stamp_and_what_it_shows(listener: Any, start: Any, scene: Image) -> None:
    camera = Camera(listener, scene)
    node = start()
    listener.until(lambda: camera.states and camera.states[-1].holder_visible, 15.0, "a visible holder")
    state = camera.states[-1]
    seen = sorted((item.ingredient, item.place, item.slot) for item in state.objects)
    assert seen == [
        ("bread", "holder", 3),
        ("bread", "holder", 4),
        ("cheese", "holder", 0),
        ("patty", "holder", 2),
    ]
    assert state.plate_visible and state.header.frame_id == "base_link" and state.header.stamp.sec > 0
    count = len(camera.states)
    listener.spin(2.0)
    assert 4 <= len(camera.states) - count <= 18, "process_rate is 8 Hz, images come at 20 Hz"
    assert node.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("how", ["stops", "late"])
def test_a_camera_without_fresh_images_ends_the_states_and_is_reported(
    listener: Any, start: Any, scene: Image, how: str
) -> None:
    camera = Camera(listener, scene)
    start()
    listener.until(lambda: camera.states, 15.0, "a state")
    camera.runs, camera.late = how == "late", 5
    camera.until_said("no image for")
    count = len(camera.states)
    listener.spin(1.5)
    assert len(camera.states) == count, "nothing is invented"
    camera.runs, camera.late = True, 0
    listener.until(lambda: len(camera.states) > count, 15.0, "states again")


def test_an_encoding_that_is_not_read_is_named(listener: Any, start: Any) -> None:
    image = Image(height=480, width=640, encoding="16UC1", step=1280, data=bytes(480 * 1280))
    camera = Camera(listener, image)
    start()
    camera.until_said("'16UC1'")
    assert not camera.states


def test_a_faulty_workcell_file_ends_the_node_with_the_key(
    start: Any, tmp_path: Path, ros_domain: int
) -> None:
    path = tmp_path / "workcell.yaml"
    path.write_text(WORKCELL.read_text().replace("max_hidden: 0.06", "max_hidden: much"))
    node = start(path)
    assert node.wait() == 1
    assert f"{path}: plate.max_hidden must be a number" in node.output
