# SPDX-License-Identifier: Apache-2.0
"""`chefmate perception view`: zones and masks over a scene camera picture, for setting up a table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from chefmate.errors import ChefmateError
from chefmate.workspace import share_folder
from chefmate_policy.perception.drawing import draw_zones
from chefmate_policy.perception.segmentation import Eye
from chefmate_policy.perception.settings import load

FRAME_PATIENCE = 10.0  # s


def view(options: argparse.Namespace) -> int:
    """Writes the picture; returns the exit code."""
    settings = load(options.config or share_folder() / "config" / "workcell_twin.yaml")
    image = read(options.image) if options.image else next_frame(options.namespace)
    if options.out.suffix.lower() not in (".png", ".jpg"):
        raise ChefmateError(f"--out {options.out} must end in .png or .jpg")
    if not cv2.imwrite(str(options.out), cv2.cvtColor(draw_zones(image, settings), cv2.COLOR_RGB2BGR)):
        raise ChefmateError(
            f"cannot write {options.out}; choose a folder that exists and a name ending in .png"
        )
    sight = Eye(settings, (image.shape[1], image.shape[0])).look(image)
    found: dict[str, Any] = {
        "slots": [slot.ingredient for slot in sight.slots],
        "plate": sight.plate.top,
        "picture": str(options.out),
    }
    if options.json:
        print(json.dumps(found))
    else:
        for index, ingredient in enumerate(found["slots"]):
            print(f"slot {index}: {ingredient or 'empty'}")
        print(f"plate: {found['plate'] or 'empty'}\npicture: {options.out}")
    return 0


def read(path: Path) -> NDArray[np.uint8]:
    """(h, w, 3) RGB picture of a file.

    Raises:
        ChefmateError: not a picture.
    """
    image = cv2.imread(str(path))
    if image is None:
        raise ChefmateError(f"{path} is not a picture that OpenCV reads.")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def next_frame(namespace: str) -> NDArray[np.uint8]:
    """The next frame of the running scene camera.

    Raises:
        ChefmateError: none comes.
    """
    import rclpy
    from rclpy.node import Node

    from chefmate.observer import Observer, wait
    from chefmate.ros import joined

    with joined():
        node = Node("perception_view", namespace=namespace)
        observer = Observer(node)
        observer.request_scene()
        came = wait(
            lambda seconds: rclpy.spin_once(node, timeout_sec=seconds),
            lambda: observer.scene is not None,
            FRAME_PATIENCE,
        )
        node.destroy_node()
    if not came or observer.scene is None:
        raise ChefmateError(
            "no frame of scene_camera came within 10 s; is the graph up, in this ROS_DOMAIN_ID?"
        )
    return observer.scene
