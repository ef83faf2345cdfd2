# SPDX-License-Identifier: Apache-2.0
"""Do images get lost on this machine? One process sends, another counts, on a domain of their own.

python -m chefmate.doctor.frames send | count: the two processes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from chefmate.domain import free_domain
from chefmate.errors import ChefmateError

TOPICS = ("scene_camera/image_raw", "wrist_camera/image_raw")
WIDTH, HEIGHT, RATE, SECONDS = 640, 480, 30.0, 2.0
PATIENCE = 45.0  # s for both processes, to find each other and to end
LAST_WORD = "frames_end"  # topic, reliable: the sender has sent everything


class FramesError(ChefmateError):
    """The measurement itself failed."""


@dataclass(frozen=True)
class Count:
    """Frames sent and received."""

    sent: int
    received: int


def measure() -> Count:
    """Runs both processes. FramesError if one fails or they do not find each other."""
    with free_domain() as domain:
        environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOCALHOST_ONLY": "0",
        }
        started = [_start(role, environment) for role in ("count", "send")]
        deadline = time.monotonic() + PATIENCE
        try:
            outputs = [
                process.communicate(timeout=max(deadline - time.monotonic(), 0.1)) for process in started
            ]
        except subprocess.TimeoutExpired:
            raise FramesError(f"two processes did not exchange frames within {PATIENCE:g} s") from None
        finally:
            for process in started:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()
    counts = []
    for process, (out, err) in zip(started, outputs, strict=True):
        if process.returncode or not out.strip().isdigit():
            lines = err.strip().splitlines()
            raise FramesError(
                f"a process of the frame test failed: {lines[-1] if lines else process.returncode}"
            )
        counts.append(int(out))
    return Count(sent=counts[1], received=counts[0])


def _start(role: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "chefmate.doctor.frames", role],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def send() -> int:
    """Frames sent, over SECONDS, once somebody listens."""
    from chefmate_driver.camera.profile import use_image_profile

    use_image_profile()
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image
    from std_msgs.msg import Empty

    rclpy.init()
    node = rclpy.create_node("frame_sender")
    publishers = [node.create_publisher(Image, topic, qos_profile_sensor_data) for topic in TOPICS]
    end = node.create_publisher(Empty, LAST_WORD, 1)
    message = Image(width=WIDTH, height=HEIGHT, encoding="rgb8", step=3 * WIDTH)
    message.data.frombytes(bytes(3 * WIDTH * HEIGHT))
    deadline = time.monotonic() + PATIENCE
    while not all(publisher.get_subscription_count() for publisher in (*publishers, end)):
        if time.monotonic() > deadline:
            raise FramesError("nobody listens")
        time.sleep(0.02)
    begun = time.monotonic()
    for index in range(int(RATE * SECONDS)):
        time.sleep(max(0.0, begun + index / RATE - time.monotonic()))
        for publisher in publishers:
            publisher.publish(message)
    time.sleep(0.2)  # what is on its way arrives before the last word
    end.publish(Empty())
    end.wait_for_all_acked()
    node.destroy_node()
    rclpy.try_shutdown()
    return int(RATE * SECONDS) * len(TOPICS)


def count() -> int:
    """Frames received until the sender's last word."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image
    from std_msgs.msg import Empty

    rclpy.init()
    node = rclpy.create_node("frame_counter")
    received: list[int] = []
    ended: list[Empty] = []
    for topic in TOPICS:
        # Serialised messages: delivery is measured, not Python's conversion.
        node.create_subscription(
            Image, topic, lambda data: received.append(len(data)), qos_profile_sensor_data, raw=True
        )
    node.create_subscription(Empty, LAST_WORD, ended.append, 1)
    deadline = time.monotonic() + PATIENCE
    while not ended and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.try_shutdown()
    return len(received)


if __name__ == "__main__":
    print({"send": send, "count": count}[sys.argv[1]]())
