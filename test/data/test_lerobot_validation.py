# SPDX-License-Identifier: Apache-2.0
"""Faults of datasets are found and named; `chefmate data inspect` shows what is in one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from chefmate.cli import main
from chefmate_policy.data.dataset import Dataset
from chefmate_policy.data.inspection import idle_ends
from chefmate_policy.data.lerobot_layout import WRITABLE
from chefmate_policy.data.validation import validate
from chefmate_policy.data.video import VideoWriter
from chefmate_policy.data.writing import DatasetWriter

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
SIZE = (48, 32)  # pixels
LENGTH = 12  # frames
SECOND = {
    "v2.1": ("data/chunk-000/episode_000001.parquet", "videos/chunk-000/{}/episode_000001.mp4"),
    "v3.0": ("data/chunk-000/file-001.parquet", "videos/{}/chunk-000/file-001.mp4"),
}
CAMERA = "observation.images.front"


def write(root: Path, version: str) -> Path:
    motion = np.repeat(np.clip(np.arange(LENGTH) - 3, 0, 5)[:, None] * 1.0, 6, axis=1)
    with DatasetWriter(root, fps=10, joints=JOINTS, cameras={"front": SIZE}, version=version) as dataset:
        for text in ("pick up the cheese", "pick up the bread"):
            images = [np.full((SIZE[1], SIZE[0], 3), 9 * frame, np.uint8) for frame in range(LENGTH)]
            dataset.add_episode(text, motion, motion, {"front": images})
    return root


@pytest.fixture(scope="module", params=WRITABLE)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return write(tmp_path_factory.mktemp("data") / "set", request.param), request.param


@pytest.fixture
def copied(original: tuple[Path, str], tmp_path: Path) -> tuple[Path, Path, Path]:
    """Root, data and video file of the second episode."""
    root, version = original
    shutil.copytree(root, tmp_path / "set")
    table, video = SECOND[version]
    return tmp_path / "set", tmp_path / "set" / table, tmp_path / "set" / video.format(CAMERA)


def edit(file: Path, column: str, change: Callable[[list[Any]], None]) -> None:
    """Rewrites one column of a parquet file."""
    table = pyarrow.parquet.read_table(file)
    values = table[column].to_pylist()
    change(values)
    place = table.column_names.index(column)
    pyarrow.parquet.write_table(
        table.set_column(place, column, pyarrow.array(values, table[column].type)), file
    )


def test_a_whole_dataset_has_no_fault(copied: tuple[Path, Path, Path]) -> None:
    assert validate(Dataset(copied[0]), dict.fromkeys(JOINTS, (0.0, 5.0))) == []


def test_a_missing_video_is_named(copied: tuple[Path, Path, Path]) -> None:
    root, _, video = copied
    video.unlink()
    (fault,) = validate(Dataset(root))
    assert (fault.file, fault.episode, fault.message) == (video, 1, "the video is missing")


@pytest.mark.parametrize(
    ("fps", "pictures", "size", "message"),
    [
        (10, LENGTH - 2, SIZE, "10 pictures for 12 frames"),
        (20, LENGTH, SIZE, "20 Hz; the dataset has 10 Hz"),
        (10, LENGTH, (64, 32), "64x32; info.json has 48x32"),
    ],
)
def test_another_video_is_named(
    copied: tuple[Path, Path, Path], fps: int, pictures: int, size: tuple[int, int], message: str
) -> None:
    root, _, video = copied
    with VideoWriter(video, fps, *size) as file:
        for _ in range(pictures):
            file.add(np.zeros((size[1], size[0], 3), np.uint8))
    faults = validate(Dataset(root))
    assert (faults[0].file, faults[0].episode, faults[0].message) == (video, 1, message)


@pytest.mark.parametrize(
    ("column", "frame", "value", "message"),
    [
        ("timestamp", 5, 0.35, "timestamp 0.35 s follows 0.4 s: not ascending"),
        ("timestamp", 5, 0.55, "timestamp 0.55 s; at 10 Hz it must be 0.5 s"),
        ("frame_index", 4, 7, "frame_index is 7"),
        ("action", 3, [0.0, 0.0, float("nan"), 0.0, 0.0, 0.0], "action[2] is nan"),
        ("action", 8, [5.0, 5.0, 5.0, 5.0, 5.0, 6.5], "action of gripper is 6.5, outside 0..5"),
    ],
)
def test_a_wrong_frame_is_named(
    copied: tuple[Path, Path, Path], column: str, frame: int, value: object, message: str
) -> None:
    root, table, _ = copied
    edit(table, column, lambda values: values.__setitem__(frame, value))
    faults = validate(Dataset(root), dict.fromkeys(JOINTS, (0.0, 5.0)))
    named = [(fault.file, fault.episode, fault.frame, fault.message) for fault in faults]
    assert named[0] == (table, 1, frame, message)


def test_statistics_that_do_not_match_are_named(copied: tuple[Path, Path, Path]) -> None:
    root, _, _ = copied
    stats = json.loads((root / "meta/stats.json").read_text())
    stats["action"]["max"][5] = 7.0
    (root / "meta/stats.json").write_text(json.dumps(stats))
    (fault,) = validate(Dataset(root))
    assert str(fault).endswith("stats.json: max of action, gripper, is 7, but the frames give 5")


def test_idle_ends_are_counted() -> None:
    moving = np.array([0, 0, 0, 1, 2, 3, 3], dtype=float)[:, None]
    assert idle_ends(moving, np.array([3.0])) == (2, 1)
    assert idle_ends(np.zeros((4, 1)), np.array([3.0])) == (4, 0)


def test_inspect_prints_and_draws(
    copied: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, video = copied
    picture = root.parent / "set.png"
    assert main(["data", "inspect", str(root), "--plot", str(picture), "--units", "degrees"]) == 0
    printed = capsys.readouterr().out
    assert "2 episodes, 24 frames, 1.2 to 1.2 s long" in printed
    assert "1 episodes: 'pick up the bread'" in printed
    assert "idle heads: 0.30 s on average" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    video.unlink()
    assert main(["data", "inspect", str(root), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["faults"][0]["episode"] == 1 and document["contents"]["lengths"] == [12, 12]


def test_inspect_says_what_is_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(tmp_path)]) == 1
    assert "info.json is missing" in capsys.readouterr().err
