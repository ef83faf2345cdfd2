# SPDX-License-Identifier: Apache-2.0
"""camera_info from a ROS calibration file or from a field of view."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from chefmate_driver.camera.calibration import pinhole, read_camera_info, uncalibrated
from chefmate_driver.camera.frame import CameraSettingsError

# As camera_calibration's cameracalibrator writes it.
FILE = """\
image_width: 640
image_height: 480
camera_name: scene
camera_matrix:
  rows: 3
  cols: 3
  data: [600.5, 0.0, 320.1, 0.0, 601.5, 240.2, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [0.1, -0.2, 0.001, 0.002, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
projection_matrix:
  rows: 3
  cols: 4
  data: [590.0, 0.0, 321.0, 0.0, 0.0, 591.0, 241.0, 0.0, 0.0, 0.0, 1.0, 0.0]
"""


def test_a_ros_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(FILE)
    found = read_camera_info(path)
    assert (found.width, found.height, found.distortion_model) == (640, 480, "plumb_bob")
    assert found.k[0] == 600.5 and found.k[4] == 601.5
    assert found.d == (0.1, -0.2, 0.001, 0.002, 0.0)
    assert found.p[2] == 321.0
    found.check_size(640, 480, "the file")


def test_another_image_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(FILE)
    with pytest.raises(CameraSettingsError, match=r"640x480.*320x240"):
        read_camera_info(path).check_size(320, 240, f"camera_info file {path}")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("image_width: 640", "image_width: wide", "image_width.*'wide'"),
        ("camera_matrix:", "other:", "camera_matrix"),
        ("600.5, ", "", "camera_matrix.data must be 9 numbers"),
        ("600.5", ".nan", "not finite"),
        ("600.5", "abc", "camera_matrix.data"),
    ],
)
def test_a_malformed_file_names_file_and_key(tmp_path: Path, old: str, new: str, error: str) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(FILE.replace(old, new))
    with pytest.raises(CameraSettingsError, match=rf"scene.yaml.*{error}"):
        read_camera_info(path)


def test_pinhole_sees_the_field_of_view_at_the_edge_of_the_image() -> None:
    lens = pinhole(640, 480, 40.0)
    top_edge = (-0.5 - lens.k[5]) / lens.k[4]
    assert math.degrees(math.atan(-top_edge)) == pytest.approx(20.0)
    assert lens.calibrated
    with pytest.raises(CameraSettingsError, match="200"):
        pinhole(640, 480, 200.0)


def test_uncalibrated_says_so_by_zeros() -> None:
    assert not uncalibrated(640, 480).calibrated
