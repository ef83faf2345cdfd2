# SPDX-License-Identifier: Apache-2.0
"""camera_node: publishes one camera as image, compressed image and camera_info."""

from __future__ import annotations

import array
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy._rclpy_pybind11 import RCLError
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from chefmate_driver.camera.calibration import Calibration, pinhole, read_camera_info, uncalibrated
from chefmate_driver.camera.capture import CaptureState, CaptureStatus, CaptureThread
from chefmate_driver.camera.frame import CameraSettings, Capture, FrameSource
from chefmate_driver.camera.profile import use_image_profile
from chefmate_driver.camera.sources import make_source
from chefmate_driver.errors import DriverError
from chefmate_ros.parameters import Parameter, declare
from chefmate_ros.running import autostart, run

Live = partial(Parameter, live=True)
PARAMETERS = (
    Live("source", "", "v4l2:DEVICE, file:VIDEO, folder:FOLDER or kitchen:SHARED_MEMORY:CAMERA"),
    Live("camera_name", "", "prefix of topics and frame; empty: the node's name"),
    Live("rate", 30.0, "frames per second (Hz)", (0.1, 240.0)),
    Live(
        "image_rate",
        0.0,
        "pictures per second (Hz) at most; camera_info comes with every frame; 0: a picture with every frame",
        (0.0, 240.0),
    ),
    Live("width", 640, "image width (pixels); the source must give exactly this", (16, 4096)),
    Live("height", 480, "image height (pixels)", (16, 4096)),
    Live(
        "phase",
        0.0,
        "share of a period by which the twin's and files' frames are shifted on the clock",
        (0.0, 1.0),
    ),
    Live("loop", False, "begin a video or folder again at its end"),
    Live("fourcc", "MJPG", "pixel format asked of a V4L2 device; empty: the driver's choice"),
    Live("jpeg_quality", 80, "quality of image_raw/compressed", (1, 100)),
    Live("camera_info_file", "", "calibration as camera_calibration writes it; empty: see field_of_view"),
    Live(
        "field_of_view",
        0.0,
        "vertical, degrees, of an ideal lens; 0: the twin's own, else uncalibrated",
        (0.0, 179.0),
    ),
    Live("frame_timeout", 0.5, "s without a frame after which diagnostics say ERROR", (0.05, 60.0)),
    Live("autostart", True, "configure and activate at start; false: wait for a lifecycle manager"),
)


class CameraNode(LifecycleNode):  # type: ignore[misc]
    """Publishes what its source gives, at the source's stamps; publishes nothing while the source gives
    nothing.

    Diagnostics flow from the first second in every lifecycle state.
    """

    def __init__(self, name: str = "camera", **arguments: Any) -> None:
        super().__init__(name, **arguments)
        declare(self, PARAMETERS)
        self._capture: CaptureThread | None = None
        self._source: FrameSource | None = None
        self._fault = ""
        self._seen_lost = 0
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._publish_diagnostics)

    def value(self, name: str) -> Any:
        """Value of a declared parameter."""
        return self.get_parameter(name).value

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Checks every parameter and makes the publishers; the device itself may still be unplugged."""
        try:
            self._configure()
        except DriverError as error:
            self._source = None
            self._fault = str(error)
            self.get_logger().error(self._fault)
            return TransitionCallbackReturn.FAILURE
        self._fault = ""
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        self._name = self.value("camera_name") or self.get_name()
        self._settings = CameraSettings(
            width=self.value("width"),
            height=self.value("height"),
            rate=self.value("rate"),
            loop=self.value("loop"),
            phase=self.value("phase"),
            fourcc=self.value("fourcc"),
            image_rate=self.value("image_rate"),
        )
        self._source = make_source(self.value("source"), self._settings)
        size = (self._settings.width, self._settings.height)
        self._calibration: Calibration | None = None
        if path := self.value("camera_info_file"):
            self._calibration = read_camera_info(Path(path).expanduser())
            self._calibration.check_size(*size, f"camera_info file {path}")
        elif degrees := self.value("field_of_view"):
            self._calibration = pinhole(*size, degrees)
        self._picture_due = 0.0  # s, monotonic
        self._jpeg = (int(cv2.IMWRITE_JPEG_QUALITY), self.value("jpeg_quality"))

        frame_id = f"{self._name}_optical_frame"
        self._image = Image(width=size[0], height=size[1], encoding="rgb8", step=3 * size[0])
        # The message's array is the frame buffer: a source writes into it, nothing is copied or checked byte
        # by byte.
        self._image.data = array.array("B", bytes(3 * size[0] * size[1]))
        self._buffer = np.frombuffer(self._image.data, dtype=np.uint8).reshape(size[1], size[0], 3)
        self._compressed = CompressedImage(format="rgb8; jpeg compressed bgr8")
        self._info: CameraInfo | None = None
        self._image.header.frame_id = self._compressed.header.frame_id = frame_id

        def publisher(kind: Any, topic: str) -> Any:
            return self.create_publisher(kind, f"{self._name}/{topic}", qos_profile_sensor_data)

        self._image_publisher = publisher(Image, "image_raw")
        self._compressed_publisher = publisher(CompressedImage, "image_raw/compressed")
        self._info_publisher = publisher(CameraInfo, "camera_info")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts the capture thread."""
        assert self._source is not None
        self._seen_lost = 0
        self._capture = CaptureThread(
            self._source, self._buffer, self._pixels_wanted, self._publish, self._say, self._on_grab
        )
        self._capture.start()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops the capture thread and frees the device."""
        self._stop_capture()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Removes the publishers."""
        for publisher in (self._image_publisher, self._compressed_publisher, self._info_publisher):
            self.destroy_publisher(publisher)
        self._source = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops the capture thread."""
        self._stop_capture()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stops the capture thread. Call before the node is destroyed."""
        self._stop_capture()

    def _stop_capture(self) -> None:
        if self._capture is not None:
            self._capture.stop()
            self._capture = None

    # Frames: called in the capture thread

    def _pixels_wanted(self) -> bool:
        now = time.monotonic()
        if now < self._picture_due:
            return False
        publishers = (self._image_publisher, self._compressed_publisher)
        wanted = bool(self._while_running(lambda: sum(p.get_subscription_count() for p in publishers)))
        period = self._settings.picture_period
        if wanted and period > 1.0 / self._settings.rate:
            # On a grid, so that the mean rate is the asked one; it begins anew after a pause.
            self._picture_due = (self._picture_due if now - self._picture_due < period else now) + period
        return wanted

    def _on_grab(self, capture: Capture) -> None:
        """camera_info goes out for each frame, at once and also when nobody wants its pixels."""
        if self._info is None:
            self._info = self._camera_info()
        stamp = self._info.header.stamp
        stamp.sec, stamp.nanosec = divmod(capture.stamp, 1_000_000_000)
        self._image.header.stamp = self._compressed.header.stamp = stamp
        info = self._info
        self._while_running(lambda: self._info_publisher.publish(info))

    def _publish(self, capture: Capture, pixels: bool) -> None:
        """The picture of the frame that was grabbed last."""
        if pixels:
            self._while_running(self._send)

    def _send(self) -> None:
        self._image_publisher.publish(self._image)
        if self._compressed_publisher.get_subscription_count():
            _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(self._buffer, cv2.COLOR_RGB2BGR), self._jpeg)
            self._compressed.data = array.array("B", jpeg.tobytes())
            self._compressed_publisher.publish(self._compressed)

    def _while_running(self, call: Callable[[], Any]) -> Any:
        """Result of a ROS call, None once the context is shut down: a signal may do that at any moment."""
        if not self.context.ok():
            return None
        try:
            return call()
        except RCLError:
            if self.context.ok():
                raise
            return None

    def _camera_info(self) -> CameraInfo:
        assert self._source is not None
        calibration = self._calibration
        if calibration is None:
            degrees = self._source.field_of_view()
            size = (self._settings.width, self._settings.height)
            calibration = uncalibrated(*size) if degrees is None else pinhole(*size, degrees)
        if not calibration.calibrated:
            self.get_logger().warning(
                f"{self._name} is not calibrated (camera_info.k is zero): "
                "set camera_info_file or field_of_view."
            )
        info = CameraInfo(width=calibration.width, height=calibration.height)
        info.distortion_model = calibration.distortion_model
        info.d, info.k, info.r, info.p = (
            list(v) for v in (calibration.d, calibration.k, calibration.r, calibration.p)
        )
        info.header.frame_id = self._image.header.frame_id
        return info

    def _say(self, good: bool, reason: str) -> None:
        if not self.context.ok():
            return
        if good:
            self.get_logger().info(f"{self._source.name if self._source else self._name}: frames flow")
        else:
            self.get_logger().error(reason)

    # Diagnostics

    def _publish_diagnostics(self) -> None:
        status = self._capture.status() if self._capture is not None else None
        level, message = self._judge(status)
        source = self._source.name if self._source is not None else self.value("source")
        values = {} if status is None else _figures(status)
        if self._source is not None:
            values["subscribers"] = str(self._image_publisher.get_subscription_count())
        report = DiagnosticStatus(
            level=level,
            name=f"{self.get_fully_qualified_name().lstrip('/')}: frames",
            hardware_id=source,
            message=message,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array_ = DiagnosticArray(status=[report])
        array_.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array_)

    def _judge(self, status: CaptureStatus | None) -> tuple[bytes, str]:
        """Level and text of the diagnostic."""
        if status is None:
            return (
                (DiagnosticStatus.ERROR, self._fault) if self._fault else (DiagnosticStatus.WARN, "inactive")
            )
        if status.state is CaptureState.OPENING:
            return DiagnosticStatus.WARN, "opening"
        if status.state is not CaptureState.STREAMING:
            return DiagnosticStatus.ERROR, f"no frames, {status.state.value}: {status.reason}"
        if status.age is None or status.age > self.value("frame_timeout"):
            return DiagnosticStatus.ERROR, f"no frame for {status.age or 0.0:.1f} s"
        fresh_losses, self._seen_lost = status.lost - self._seen_lost, status.lost
        if fresh_losses:
            return (
                DiagnosticStatus.WARN,
                f"{fresh_losses} frames lost in the last second, {status.rate:.1f} Hz",
            )
        return DiagnosticStatus.OK, f"{status.rate:.1f} Hz"


def _figures(status: CaptureStatus) -> dict[str, str]:
    return {
        "state": status.state.value,
        "rate_hz": f"{status.rate:.2f}",
        "age_s": "" if status.age is None else f"{status.age:.3f}",
        "frames": str(status.frames),
        "frames_with_pixels": str(status.rendered),
        "frames_lost": str(status.lost),
        "reconnects": str(status.reconnects),
    }


def _make() -> CameraNode:
    use_image_profile()
    return CameraNode()


def main(args: list[str] | None = None) -> int:
    """Runs one camera until ctrl-C or SIGTERM; exit status 0."""
    return run(_make, args, "camera", (DriverError,), started=autostart)


if __name__ == "__main__":
    sys.exit(main())
