# SPDX-License-Identifier: Apache-2.0
"""A subscriber process: counts the frames of topics, and prints the counts when it is interrupted.

python frame_counter.py TOPIC...
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image


def main() -> None:
    topics = sys.argv[1:]
    counts = dict.fromkeys(topics, 0)

    def counter(topic: str) -> Callable[[bytes], None]:
        def count(_: bytes) -> None:
            counts[topic] += 1

        return count

    rclpy.init()
    node = rclpy.create_node("frame_counter")
    # Serialised messages: this process measures delivery, not Python's conversion.
    for topic in topics:
        node.create_subscription(Image, topic, counter(topic), qos_profile_sensor_data, raw=True)
    print("counting", flush=True)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    print("counts", *(counts[topic] for topic in topics), flush=True)


if __name__ == "__main__":
    main()
