# SPDX-License-Identifier: Apache-2.0
"""Pinhole calibration of a camera, from a camera_info file or from a field of view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chefmate_driver.camera.frame import CameraSettingsError


@dataclass(frozen=True)
class Calibration:
    """The numbers of sensor_msgs/CameraInfo, by its names.

    width, height: pixels. d: distortion coefficients of distortion_model. k: 3x3 row by row, pixels; all
    zero where the camera is not calibrated (the convention of CameraInfo). r: 3x3. p: 3x4, pixels.
    """

    width: int
    height: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]

    @property
    def calibrated(self) -> bool:
        """False when nothing is known of the lens."""
        return self.k[0] != 0.0

    def check_size(self, width: int, height: int, source: str) -> None:
        """Raises CameraSettingsError unless the calibration was made at this image size (pixels)."""
        if (self.width, self.height) != (width, height):
            raise CameraSettingsError(
                f"{source} was made at {self.width}x{self.height}, the camera's parameters width and height "
                f"say {width}x{height}: calibrate at that size, or change the parameters."
            )


_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def uncalibrated(width: int, height: int) -> Calibration:
    """A calibration that says that nothing is known (k all zero)."""
    return Calibration(width, height, "plumb_bob", (), (0.0,) * 9, _IDENTITY, (0.0,) * 12)


def pinhole(width: int, height: int, vertical_field_of_view: float) -> Calibration:
    """An ideal lens: square pixels, centre in the middle, no distortion.

    width, height: pixels. vertical_field_of_view: degrees, as MuJoCo's `fovy`. Raises CameraSettingsError
    outside 1..179.
    """
    if not 1.0 <= vertical_field_of_view <= 179.0:
        raise CameraSettingsError(f"field of view {vertical_field_of_view} is outside 1..179 degrees.")
    f = 0.5 * height / math.tan(math.radians(vertical_field_of_view) / 2.0)
    # Pixel centres are at whole numbers, so the middle of the image is at (n - 1) / 2.
    cx, cy = (width - 1) / 2.0, (height - 1) / 2.0
    k = (f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0)
    p = (f, 0.0, cx, 0.0, 0.0, f, cy, 0.0, 0.0, 0.0, 1.0, 0.0)
    return Calibration(width, height, "plumb_bob", (0.0,) * 5, k, _IDENTITY, p)


def read_camera_info(path: Path) -> Calibration:
    """Reads a file as ROS camera_calibration writes it (camera_info_manager's YAML).

    Raises CameraSettingsError that names the file and the key when something is missing or has the wrong
    size.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            content = yaml.safe_load(stream)
    except OSError as error:
        raise CameraSettingsError(f"camera_info file {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise CameraSettingsError(f"camera_info file {path} is not YAML: {error}.") from error
    if not isinstance(content, dict):
        raise CameraSettingsError(
            f"camera_info file {path} holds no keys; expected image_width, camera_matrix, ..."
        )
    d = _numbers(path, content, "distortion_coefficients", None)
    return Calibration(
        width=_whole_number(path, content, "image_width"),
        height=_whole_number(path, content, "image_height"),
        distortion_model=str(content.get("distortion_model") or content.get("camera_model") or "plumb_bob"),
        d=d,
        k=_numbers(path, content, "camera_matrix", 9),
        r=_numbers(path, content, "rectification_matrix", 9),
        p=_numbers(path, content, "projection_matrix", 12),
    )


def _whole_number(path: Path, content: dict[str, Any], key: str) -> int:
    value = content.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CameraSettingsError(
            f"camera_info file {path}: {key} must be a whole number of pixels, it is {value!r}."
        )
    return value


def _numbers(path: Path, content: dict[str, Any], key: str, count: int | None) -> tuple[float, ...]:
    matrix = content.get(key)
    data = matrix.get("data") if isinstance(matrix, dict) else None
    if not isinstance(data, list) or (count is not None and len(data) != count):
        size = "a list of" if count is None else str(count)
        raise CameraSettingsError(
            f"camera_info file {path}: {key}.data must be {size} numbers, it is {data!r}."
        )
    try:
        values = tuple(float(v) for v in data)
    except (TypeError, ValueError) as error:
        raise CameraSettingsError(f"camera_info file {path}: {key}.data holds {error}.") from error
    if not all(math.isfinite(v) for v in values):
        raise CameraSettingsError(f"camera_info file {path}: {key}.data holds a number that is not finite.")
    return values
