# SPDX-License-Identifier: Apache-2.0
"""Processes of `chefmate bench graph`.

`python -m chefmate.bench_frames publish` sends pre-rendered images of two cameras; `... listen SECONDS` is a
bare subscriber that prints their ages, s, as a JSON list.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

CAMERAS = ("scene_camera", "wrist_camera")
WIDTH, HEIGHT, RATE = 640, 480, 30.0
PICTURES = 8  # pre-rendered, of each camera
STAMP_AT = 4  # byte of header.stamp in a serialized message: behind the encapsulation header


def pictures() -> list[bytearray]:
    """Serialized images of noise; their stamps are to be set."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(PICTURES):
        image = Image(width=WIDTH, height=HEIGHT, encoding="rgb8", step=3 * WIDTH)
        image.header.frame_id = "camera"
        image.data.frombytes(random.integers(0, 255, 3 * WIDTH * HEIGHT, dtype=np.uint8).tobytes())
        made.append(bytearray(serialize_message(image)))
    return made


def publish(node: Node) -> None:
    """Both cameras at RATE, stamped just before they are sent; until the context ends."""
    images = pictures()
    publishers = [
        node.create_publisher(Image, f"{name}/image_raw", qos_profile_sensor_data) for name in CAMERAS
    ]
    due, number = time.monotonic(), 0
    while rclpy.ok():
        time.sleep(max(0.0, due - time.monotonic()))
        for camera, publisher in enumerate(publishers):
            image = images[(number + camera) % PICTURES]
            seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
            struct.pack_into("<iI", image, STAMP_AT, seconds, nanoseconds)
            publisher.publish(bytes(image))
        number += 1
        due += 1.0 / RATE


def listen(node: Node, seconds: float) -> list[float]:
    """Ages, s, at which images of both cameras reach a callback."""
    ages: list[float] = []

    def heard(image: Any) -> None:
        stamp = image.header.stamp
        ages.append(time.time() - stamp.sec - 1e-9 * stamp.nanosec)

    for name in CAMERAS:
        node.create_subscription(Image, f"{name}/image_raw", heard, qos_profile_sensor_data)
    end = time.monotonic() + seconds
    while time.monotonic() < end and rclpy.ok():
        rclpy.spin_once(node, timeout_sec=0.1)
    return ages


def main(arguments: list[str]) -> int:
    """Entry point."""
    rclpy.init()
    node = rclpy.create_node(f"bench_{arguments[0]}")
    try:
        if arguments[0] == "publish":
            publish(node)
        else:
            ages = listen(node, float(arguments[1]))
            print(json.dumps(ages), flush=True)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
