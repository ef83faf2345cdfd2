# SPDX-License-Identifier: Apache-2.0
"""The black box: what is in a file, how many there are, and a disk that takes none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chefmate_driver.arm.black_box import COLUMNS, SECONDS, BlackBox, default_folder, story
from chefmate_driver.arm.model import JOINT_NAMES

RATE = 100.0
SECOND = 1_000_000_000


def filled(folder: Path, seconds: float, most: int = 3) -> BlackBox:
    """A box with so many seconds in it; row n holds n in each place."""
    box = BlackBox(folder, "/left/arm", RATE, most)
    for number in range(int(seconds * RATE)):
        box.record(number * SECOND // 100, *(np.full(6, float(number)) for _ in COLUMNS))
    return box


def test_a_file_holds_the_last_half_minute_and_the_story(tmp_path: Path) -> None:
    box = filled(tmp_path, 100.0)
    box.note("instruction", "pick up the bread", 75 * SECOND)
    box.note("state", "long ago", 1 * SECOND)
    box.trigger("estop", "e-stop: arm/estop was called")
    box.close()
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("left_arm-") and path.name.endswith("-estop.npz") and str(path) == box.newest
    with np.load(path, allow_pickle=False) as file:
        assert len(file["time"]) == SECONDS * RATE
        assert file["time"][-1] == 99 * SECOND + 99 * SECOND // 100
        for column in COLUMNS:
            assert file[column].shape == (SECONDS * RATE, 6)
            assert (file[column] == np.arange(7000, 10000)[:, None]).all()
        assert list(file["joints"]) == list(JOINT_NAMES)
        assert list(file["event_text"]) == ["pick up the bread", "e-stop: arm/estop was called"]
        assert str(file["reason"]) == "e-stop: arm/estop was called"
    told = story(path)
    assert "instruction  pick up the bread" in told and "wrist_flex" in told
    shown = subprocess.run(
        [sys.executable, "-m", "chefmate_driver.arm.black_box", str(path)], capture_output=True, text=True
    )
    assert shown.stdout.strip() == told and shown.returncode == 0


def test_a_short_life_gives_a_short_file(tmp_path: Path) -> None:
    box = filled(tmp_path, 0.5)
    box.trigger("fault", "gone")
    box.close()
    with np.load(box.newest) as file:
        assert len(file["time"]) == 50


def test_nothing_recorded_yet_is_a_file_all_the_same(tmp_path: Path) -> None:
    box = filled(tmp_path, 0.0)
    box.trigger("loop", "died at once")
    box.close()
    assert "died at once" in story(Path(box.newest))


def test_only_so_many_files_are_kept_and_none_of_another_arm_goes(tmp_path: Path) -> None:
    (tmp_path / "right_arm-20200101-000000.000-fault.npz").write_bytes(b"")
    names = []
    for number in range(5):
        box = filled(tmp_path, 0.1)
        box.trigger("fault", f"number {number}")
        box.close()
        names.append(Path(box.newest).name)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == sorted([*names[-3:], "right_arm-20200101-000000.000-fault.npz"])


def test_no_file_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    box = filled(tmp_path / "none", 0.1, most=0)
    box.trigger("fault", "gone")
    box.close()
    assert not (tmp_path / "none").exists() and box.problem == ""


def full_disk(file: object, **content: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_named_leaves_nothing_behind_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = filled(tmp_path, 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        box.trigger("fault", "gone")
        box.close()
    assert "No space left on device" in box.problem and str(tmp_path) in box.problem
    assert "black_box_folder" in box.problem
    assert list(tmp_path.iterdir()) == [] and box.newest == ""
    box.trigger("fault", "gone again")
    box.close()
    assert box.problem == "" and box.newest


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    box = filled(tmp_path / "file" / "folder", 0.1)
    box.trigger("fault", "gone")
    box.close()
    assert "could not be written" in box.problem


def test_the_folder_is_the_one_that_ros_keeps_its_logs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_LOG_DIR", raising=False)
    monkeypatch.delenv("ROS_HOME", raising=False)
    assert default_folder() == Path(os.path.expanduser("~/.ros/log/black_box"))
    monkeypatch.setenv("ROS_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/log/black_box")
    monkeypatch.setenv("ROS_LOG_DIR", "/logs")
    assert default_folder() == Path("/logs/black_box")
