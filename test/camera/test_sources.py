# SPDX-License-Identifier: Apache-2.0
"""Sources give the frames that they have, in order, and say why when they have none."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from camera_images import HEIGHT, WIDTH, picture, write_folder, write_video

from chefmate_driver.camera.frame import (
    CameraEndedError,
    CameraError,
    CameraSettings,
    CameraSettingsError,
    Pace,
)
from chefmate_driver.camera.sources import make_source, v4l2_device

FAST = CameraSettings(width=WIDTH, height=HEIGHT, rate=200.0)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_frames_come_in_order_as_rgb_with_rising_stamps(tmp_path: Path, kind: str) -> None:
    path = write_folder(tmp_path / "f", 5) if kind == "folder" else write_video(tmp_path / "v.avi", 5)
    source = make_source(f"{kind}:{path}", FAST)
    source.open()
    before = time.time_ns()
    frames = [source.read() for _ in range(5)]
    for number, frame in enumerate(frames):
        assert frame.sequence == number
        # FFV1 keeps its pictures in YUV: one level of rounding.
        assert np.abs(frame.image.astype(int) - picture(10 * number)).max() <= (0 if kind == "folder" else 4)
    stamps = [frame.stamp for frame in frames]
    assert all(b > a for a, b in itertools.pairwise(stamps))
    assert before <= stamps[0] <= stamps[-1] <= time.time_ns()
    with pytest.raises(CameraEndedError, match="loop"):
        source.read()
    source.close()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_loop_begins_again_at_the_end(tmp_path: Path, kind: str) -> None:
    path = write_folder(tmp_path / "f", 2) if kind == "folder" else write_video(tmp_path / "v.avi", 2)
    source = make_source(f"{kind}:{path}", CameraSettings(WIDTH, HEIGHT, rate=200.0, loop=True))
    source.open()
    reds = [int(source.read().image[0, -1, 0]) for _ in range(5)]
    assert [round(red / 10) for red in reds] == [0, 1, 0, 1, 0]
    source.close()


def test_frames_of_another_size_are_refused_not_scaled(tmp_path: Path) -> None:
    source = make_source(f"folder:{write_folder(tmp_path / 'f', 1)}", CameraSettings(rate=200.0))
    source.open()
    with pytest.raises(CameraError, match=r"64x48.*640x480"):
        source.read()


def test_a_deleted_image_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", 3)
    source = make_source(f"folder:{folder}", FAST)
    source.open()
    source.read()
    (folder / "001.png").unlink()
    with pytest.raises(CameraError, match=r"001\.png was deleted"):
        source.read()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("folder:/no/such/folder", "image folder /no/such/folder does not exist"),
        ("file:/no/such/video.mp4", "video file /no/such/video.mp4 does not exist"),
        ("v4l2:/dev/v4l/by-id/nobody", "camera /dev/v4l/by-id/nobody does not exist"),
        ("v4l2:97", "camera /dev/video97 does not exist"),
        ("v4l2:no-such-maker", "/dev/v4l/by-id/no-such-maker does not exist"),
        ("kitchen:nobody:scene", "no twin runs under the name 'nobody'"),
    ],
)
def test_a_source_that_is_not_there_says_so(text: str, error: str) -> None:
    with pytest.raises(CameraError, match=error):
        make_source(text, CameraSettings()).open()


@pytest.mark.parametrize("text", ["", "v4l2:", "/dev/video0", "usb:3", "kitchen:onlyname"])
def test_a_source_that_is_not_understood_is_a_settings_error(text: str) -> None:
    with pytest.raises(CameraSettingsError, match="v4l2:DEVICE"):
        make_source(text, CameraSettings())


def test_stable_names_are_found_by_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("usb-Maker_A_1-video-index0", "usb-Maker_A_1-video-index1", "usb-Maker_B_2-video-index0"):
        (tmp_path / name).touch()
    monkeypatch.setattr("chefmate_driver.camera.sources.BY_ID", tmp_path)
    assert v4l2_device("Maker_B") == tmp_path / "usb-Maker_B_2-video-index0"
    with pytest.raises(CameraError, match="fits several cameras"):
        v4l2_device("Maker")
    with pytest.raises(CameraError, match=r"there are .*Maker_A_1-video-index0"):
        v4l2_device("Maker_C")


def test_pace_keeps_to_the_grid_of_the_clock_and_drops_missed_places() -> None:
    pace = Pace(100.0, phase=0.5)
    pace.wait()
    begun = time.monotonic()
    assert [pace.wait() for _ in range(10)] == [0] * 10
    assert 0.08 < time.monotonic() - begun < 0.15
    time.sleep(0.06)
    assert 3 <= pace.wait() <= 6
    assert 4e6 < time.time_ns() % 10_000_000 or pace.wait() == 0
