# SPDX-License-Identifier: Apache-2.0
"""The robot description: meshes exist, and the cameras' frames stand where the twin's cameras stand."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from chefmate.description import robot_description
from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_driver.kitchen.scene import build_model

ROOT = Path(__file__).parents[2]
FRAMES = ROOT / "config" / "camera_frames.yaml"
BODIES = {"base_link": "world", "gripper_link": "gripper"}
OPTICAL = np.diag([1.0, -1.0, -1.0])  # MuJoCo's cameras look along -z with y up


def test_every_mesh_exists_and_every_camera_has_a_frame() -> None:
    robot = ElementTree.fromstring(robot_description(FRAMES))
    meshes = [Path(urlparse(mesh.attrib["filename"]).path) for mesh in robot.iter("mesh")]
    assert meshes
    assert all(mesh.exists() for mesh in meshes)
    links = {link.attrib["name"] for link in robot.findall("link")}
    assert {
        "base_link",
        "gripper_frame_link",
        "scene_camera_optical_frame",
        "wrist_camera_optical_frame",
    } <= links
    assert {joint.find("parent").attrib["link"] for joint in robot.findall("joint")} <= links  # type: ignore[union-attr]


@pytest.mark.parametrize("camera", ["scene", "wrist"])
def test_camera_frames_are_those_of_the_twin(camera: str) -> None:
    model = build_model(KitchenConfig.load())
    frame = yaml.safe_load(FRAMES.read_text())["cameras"][f"{camera}_camera"]
    assert model.body(model.cam_bodyid[model.camera(camera).id]).name == BODIES[frame["parent"]]
    assert frame["position"] == pytest.approx(model.camera(camera).pos, abs=1e-6)
    twin = Rotation.from_quat(np.roll(model.camera(camera).quat, -1)).as_matrix() @ OPTICAL
    written = Rotation.from_euler("xyz", frame["rpy"]).as_matrix()
    assert np.degrees(Rotation.from_matrix(twin.T @ written).magnitude()) < 0.05
