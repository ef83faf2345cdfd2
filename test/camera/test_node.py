# SPDX-License-Identifier: Apache-2.0
"""camera_node over real DDS."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from camera_images import HEIGHT, WIDTH, picture, write_folder, write_video
from rclpy.qos import qos_profile_sensor_data


def start_camera(start_process: Callable[..., Any], source: str, **parameters: Any) -> Any:
    """A camera node scene_camera with the tests' image size."""
    values = {"source": source, "width": WIDTH, "height": HEIGHT, "rate": 50.0, **parameters}
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
    command = ["python", "-m", "chefmate_driver.camera.node", "--ros-args", "-r", "__node:=scene_camera"]
    return start_process([*command, *words])


class Ear:
    """Everything that the camera node says."""

    def __init__(self, listener: Any) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image

        sensor = qos_profile_sensor_data
        self._listener = listener
        self.images = listener.subscribe("scene_camera/image_raw", Image, sensor)
        self.infos = listener.subscribe("scene_camera/camera_info", CameraInfo, sensor)
        self.jpegs = listener.subscribe("scene_camera/image_raw/compressed", CompressedImage, sensor)
        self._reports = listener.subscribe("/diagnostics", DiagnosticArray)

    @property
    def reports(self) -> list[Any]:
        """Diagnostics so far."""
        return [status for report in self._reports for status in report.status]

    def until(self, condition: Callable[[], Any], what: str, timeout: float = 45.0) -> Any:
        return self._listener.until(condition, timeout, what)

    def until_error(self, text: str) -> Any:
        """Waits for a diagnostic of level ERROR with text in it."""

        def found() -> Any:
            return next((r for r in self.reports if r.level == b"\x02" and text in r.message), None)

        return self.until(found, f"diagnostic ERROR with {text!r}; heard {[r.message for r in self.reports]}")

    def silent(self) -> bool:
        """Whether no frame comes for a second."""
        self._listener.spin(0.2)
        before = (len(self.images), len(self.infos))
        self._listener.spin(1.0)
        return before == (len(self.images), len(self.infos))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_images_info_and_jpeg_of_one_frame_share_stamp_and_frame(
    tmp_path: Path, start_process: Callable[..., Any], listener: Any, kind: str
) -> None:
    path = write_folder(tmp_path / "f", 5) if kind == "folder" else write_video(tmp_path / "v.avi", 5)
    ear = Ear(listener)
    camera = start_camera(start_process, f"{kind}:{path}", loop=True, field_of_view=45.0)
    ear.until(lambda: len(ear.images) > 12 and len(ear.jpegs) > 5, "frames")
    image = ear.images[-1]
    assert (image.width, image.height, image.encoding, image.step) == (WIDTH, HEIGHT, "rgb8", 3 * WIDTH)
    assert image.header.frame_id == "scene_camera_optical_frame"
    pixels = np.frombuffer(image.data, np.uint8).reshape(HEIGHT, WIDTH, 3).astype(int)
    assert min(np.abs(pixels - picture(10 * number)).max() for number in range(5)) <= 4
    stamps = {(m.header.stamp.sec, m.header.stamp.nanosec) for m in ear.images}
    assert stamps & {(m.header.stamp.sec, m.header.stamp.nanosec) for m in ear.infos}
    jpeg = next(m for m in ear.jpegs if (m.header.stamp.sec, m.header.stamp.nanosec) in stamps)
    assert cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR).shape == (HEIGHT, WIDTH, 3)
    assert ear.infos[-1].k[0] > 0 and ear.infos[-1].header.frame_id == image.header.frame_id
    assert camera.stop(signal.SIGINT) == 0
    assert "Traceback" not in camera.output


def test_the_end_of_a_folder_is_an_error_and_silence(
    tmp_path: Path, start_process: Callable[..., Any], listener: Any
) -> None:
    ear = Ear(listener)
    # 4 s of frames: the listener and the camera may need a while to find each other
    start_camera(start_process, f"folder:{write_folder(tmp_path / 'f', 25)}", rate=6.0)
    ear.until(lambda: ear.infos, "a frame")
    ear.until_error("has ended after 25 images")
    assert ear.silent()


def test_a_deleted_video_is_an_error_and_silence_and_comes_back(
    tmp_path: Path, start_process: Callable[..., Any], listener: Any
) -> None:
    path = write_video(tmp_path / "v.avi", 10)
    ear = Ear(listener)
    camera = start_camera(start_process, f"file:{path}", loop=True)
    ear.until(lambda: len(ear.images) > 3, "frames")
    path.rename(tmp_path / "away.avi")
    ear.until_error("does not exist")
    assert ear.silent()
    heard = len(ear.images)
    (tmp_path / "away.avi").rename(path)
    ear.until(lambda: len(ear.images) > heard + 3, "frames after reconnection")
    ear.until(lambda: ear.reports[-1].level == b"\x00", "diagnostic OK")
    assert dict((v.key, v.value) for v in ear.reports[-1].values)["reconnects"] == "1"
    assert camera.stop(signal.SIGTERM) == 0


def test_a_camera_that_is_not_plugged_in_is_said_once_and_waited_for(
    start_process: Callable[..., Any], listener: Any
) -> None:
    ear = Ear(listener)
    camera = start_camera(start_process, "v4l2:/dev/v4l/by-id/nobody")
    camera.until_output("camera /dev/v4l/by-id/nobody does not exist")
    ear.until_error("/dev/v4l/by-id/nobody does not exist")
    ear.until(lambda: len(ear.reports) >= 3, "diagnostics that go on")
    assert camera.output.count("does not exist") == 1
    assert not ear.images and not ear.infos
    assert camera.stop(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"source": "usb:1"}, "is not understood"),
        ({"source": "folder:/tmp", "camera_info_file": "/no/such.yaml"}, "/no/such.yaml cannot be read"),
    ],
)
def test_a_bad_parameter_is_one_error_and_the_diagnostics_repeat_it(
    start_process: Callable[..., Any], listener: Any, parameters: dict[str, str], error: str
) -> None:
    ear = Ear(listener)
    camera = start_camera(start_process, **parameters)
    ear.until_error(error)
    assert camera.output.count(error) == 1
    assert camera.stop(signal.SIGINT) == 0


def test_image_rate_thins_the_pictures_and_not_the_camera_info(
    start_process: Callable[..., Any], listener: Any, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "f", 3)
    start_camera(start_process, f"folder:{folder}", loop=True, image_rate=10.0)
    ear = Ear(listener)
    ear.until(lambda: len(ear.images) >= 8, "eight pictures")
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in ear.images]
    span = stamps[-1] - stamps[0]
    assert (len(stamps) - 1) / span < 11.0
    inside = [
        i for i in ear.infos if stamps[0] <= i.header.stamp.sec + i.header.stamp.nanosec * 1e-9 <= stamps[-1]
    ]
    assert len(inside) > 2 * len(stamps)
