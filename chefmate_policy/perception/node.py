# SPDX-License-Identifier: Apache-2.0
"""perception_node: the scene camera's images to /workcell/state.

Publishes one state for each image that it looks at, and nothing when images stop: a subscriber sees the age.
Images are taken from DDS only when one is looked at, which keeps a 30 Hz camera from costing a core.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from chefmate_msgs.msg import WorkcellState
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import MarkerArray

from chefmate_policy.errors import PolicyError
from chefmate_policy.images import image_to_rgb
from chefmate_policy.perception.markers import to_markers
from chefmate_policy.perception.messages import to_message
from chefmate_policy.perception.segmentation import Eye
from chefmate_policy.perception.settings import load
from chefmate_policy.perception.tracking import Tracker
from chefmate_ros.parameters import Parameter, declare
from chefmate_ros.polling import polled_subscription, take_all
from chefmate_ros.running import run
from chefmate_ros.share import share_file

PARAMETERS = (
    Parameter(
        "workcell", "", "workcell file: zones and colours; empty: the twin's (config/workcell_twin.yaml)"
    ),
    Parameter("camera_name", "scene_camera", "prefix of the camera's topics image_raw and camera_info"),
    Parameter("process_rate", 8.0, "Hz, images looked at, at most", (0.5, 60.0)),
    Parameter(
        "stale_after", 1.0, "s, older images are not looked at and reported in /diagnostics", (0.1, 60.0)
    ),
)


class PerceptionNode(Node):  # type: ignore[misc]
    """See the module."""

    def __init__(self, name: str = "perception", **arguments: Any) -> None:
        super().__init__(name, **arguments)
        self._values = declare(self, PARAMETERS)
        given = self._values["workcell"]
        path = Path(given) if given else share_file("config", "workcell_twin.yaml")
        self._settings = load(path)
        self._tracker = Tracker(len(self._settings.slots), self._settings.frames, self._settings.plate_moved)
        self._eye: Eye | None = None
        self._info: CameraInfo | None = None
        self._last_stamp: Time | None = None
        self._fault = ""
        self._seconds: list[float] = []  # spent on each image since the last diagnostics
        camera = self._values["camera_name"]
        newest = QoSProfile(depth=1, reliability=qos_profile_sensor_data.reliability)
        self._publisher = self.create_publisher(WorkcellState, "workcell/state", 1)
        self._markers = self.create_publisher(MarkerArray, "workcell/markers", 1)
        self._colours = {ingredient.name: ingredient.colour for ingredient in self._settings.ingredients}
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._image_topic = f"{camera}/image_raw"
        self._images = polled_subscription(self, Image, self._image_topic, newest)
        self._info_subscription = self.create_subscription(
            CameraInfo, f"{camera}/camera_info", self._on_info, newest
        )
        self.create_timer(1.0 / self._values["process_rate"], self._on_time)
        self.create_timer(1.0, self._on_diagnostics)
        self.get_logger().info(f"zones and colours: {path}")

    def _on_info(self, info: CameraInfo) -> None:
        """Takes the lens over once: it does not change."""
        if self._info_subscription is None:
            return
        self._info, self._eye = info, None
        self.destroy_subscription(self._info_subscription)
        self._info_subscription = None

    def _on_time(self) -> None:
        for image, _ in take_all(self._images):
            self._look(image)

    def _look(self, image: Image) -> None:
        began = time.perf_counter()
        self._last_stamp = Time.from_msg(image.header.stamp)
        if self._age() > self._values["stale_after"]:
            return
        try:
            pixels = image_to_rgb(image)
            if self._eye is None or self._eye.size != (image.width, image.height):
                self._eye = self._made_for((image.width, image.height))
            seen = self._tracker.see(self._eye.look(pixels), self._last_stamp.nanoseconds * 1e-9)
        except PolicyError as error:
            self._fail(str(error))
            return
        self._fault = ""
        state = to_message(seen, image.header.stamp)
        self._publisher.publish(state)
        if self._markers.get_subscription_count():
            self._markers.publish(to_markers(state, self._colours))
        self._seconds.append(time.perf_counter() - began)

    def _fail(self, fault: str) -> None:
        if fault != self._fault:
            self.get_logger().error(fault)
        self._fault = fault

    def _made_for(self, size: tuple[int, int]) -> Eye:
        view, info = self._settings.view, self._info
        if view is None or info is None or info.k[0] <= 0.0 or (info.width, info.height) != size:
            return Eye(self._settings, size)
        return Eye(self._settings, size, view.camera(size, np.array(info.k).reshape(3, 3), np.array(info.d)))

    def _age(self) -> float:
        """s since the newest image that was looked at was taken; infinite before the first."""
        if self._last_stamp is None:
            return float("inf")
        return float((self.get_clock().now() - self._last_stamp).nanoseconds * 1e-9)

    def _on_diagnostics(self) -> None:
        age, topic = self._age(), self._image_topic
        level, text = DiagnosticStatus.OK, "the workcell is in sight"
        if self._last_stamp is None:
            level, text = DiagnosticStatus.ERROR, f"{topic}: no image yet; nothing is published"
        elif age > self._values["stale_after"]:
            level, text = DiagnosticStatus.ERROR, f"{topic}: no image for {age:.1f} s; nothing is published"
        elif self._fault:
            level, text = DiagnosticStatus.ERROR, self._fault
        seconds, self._seconds = self._seconds, []
        figures = {
            "rate_hz": str(len(seconds)),
            "image_age_s": f"{age:.3f}",
            "processing_ms": f"{1e3 * sum(seconds) / max(1, len(seconds)):.1f}",
        }
        status = DiagnosticStatus(
            level=level,
            name=f"{self.get_fully_qualified_name()}: workcell",
            message=text,
            hardware_id=self._values["camera_name"],
            values=[KeyValue(key=key, value=value) for key, value in figures.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main(args: list[str] | None = None) -> int:
    """Runs perception until ctrl-C or SIGTERM; exit status 0, 1 when the workcell file cannot be used."""
    return run(PerceptionNode, args, "perception", (PolicyError,))


if __name__ == "__main__":
    sys.exit(main())
