# SPDX-License-Identifier: Apache-2.0
"""LeRobot datasets: what is written is read back, and a broken-off write leaves nothing that opens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chefmate_policy.data.dataset import Dataset
from chefmate_policy.data.lerobot_layout import WRITABLE, DatasetError
from chefmate_policy.data.writing import DatasetWriter

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
SIZE = (48, 32)  # pixels
INSTRUCTIONS = ("pick up the cheese", "pick up the bread", "pick up the cheese")


def images(length: int, level: int) -> list[np.ndarray]:
    return [np.full((SIZE[1], SIZE[0], 3), level + 4 * frame, np.uint8) for frame in range(length)]


def states(length: int, start: float) -> np.ndarray:
    return start + np.arange(length * 6, dtype=np.float32).reshape(length, 6)


def writer(root: Path, version: str) -> DatasetWriter:
    return DatasetWriter(root, fps=10, joints=JOINTS, cameras={"front": SIZE, "wrist": SIZE}, version=version)


def write(root: Path, version: str) -> Path:
    with writer(root, version) as dataset:
        for index, text in enumerate(INSTRUCTIONS):
            length = 8 + index
            dataset.add_episode(
                text,
                states(length, index),
                states(length, index) + 1,
                {"front": images(length, 20 * index), "wrist": images(length, 120)},
            )
    return root


@pytest.mark.parametrize("version", WRITABLE)
def test_what_is_written_is_read_back(tmp_path: Path, version: str) -> None:
    dataset = Dataset(write(tmp_path / "set", version))
    assert dataset.info.version == version
    assert [episode.length for episode in dataset.episodes] == [8, 9, 10]
    assert [episode.instructions for episode in dataset.episodes] == [(text,) for text in INSTRUCTIONS]
    assert dataset.tasks == {0: INSTRUCTIONS[0], 1: INSTRUCTIONS[1]}
    second = dataset.episodes[1]
    columns = dataset.columns(second)
    np.testing.assert_array_equal(columns["observation.state"], states(9, 1))
    np.testing.assert_array_equal(columns["action"], states(9, 1) + 1)
    np.testing.assert_array_equal(columns["index"], np.arange(8, 17))
    assert set(columns["task_index"]) == {1}
    shown = [int(picture.mean()) for picture in dataset.pictures(second, "observation.images.front")]
    np.testing.assert_allclose(shown, [20 + 4 * frame for frame in range(9)], atol=3)
    chosen = list(dataset.pictures(second, "observation.images.front", [2, 7]))
    np.testing.assert_allclose([picture.mean() for picture in chosen], [28, 48], atol=3)
    assert dataset.modality["state"]["gripper"] == {"start": 5, "end": 6}
    assert dataset.stats is not None and dataset.stats["observation.state"]["max"][5] == 2 + 59


def test_a_dataset_of_v2_0_is_read(tmp_path: Path) -> None:
    root = write(tmp_path / "set", "v2.1")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.0"}))
    (root / "meta/episodes_stats.jsonl").unlink()
    dataset = Dataset(root)
    assert len(dataset.columns(dataset.episodes[2])["action"]) == 10


@pytest.mark.parametrize("version", WRITABLE)
def test_a_write_that_breaks_off_leaves_nothing(tmp_path: Path, version: str) -> None:
    with pytest.raises(RuntimeError), writer(tmp_path / "set", version) as dataset:
        dataset.add_episode("go", states(3, 0), states(3, 0), {"front": images(3, 0), "wrist": images(3, 0)})
        (partial,) = tmp_path.iterdir()
        with pytest.raises(DatasetError, match=r"info\.json is missing"):
            Dataset(partial)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_refused_episode_is_no_part_of_the_dataset(tmp_path: Path) -> None:
    both = {"front": images(3, 0), "wrist": images(3, 0)}
    bad = states(3, 0)
    bad[2, 5] = np.nan
    with writer(tmp_path / "set", "v2.1") as dataset:
        with pytest.raises(DatasetError, match="episode 0, frame 2: states of gripper is nan"):
            dataset.add_episode("go", bad, states(3, 0), both)
        with pytest.raises(DatasetError, match=r"2 pictures of observation\.images\.wrist for 3 frames"):
            dataset.add_episode("go", states(3, 0), states(3, 0), {**both, "wrist": images(2, 0)})
        with pytest.raises(DatasetError, match="pictures of"):
            dataset.add_episode("go", states(3, 0), states(3, 0), {"front": images(3, 0)})
        dataset.add_episode("go", states(3, 0), states(3, 0), both)
    assert len(Dataset(tmp_path / "set").episodes) == 1
    assert len(list((tmp_path / "set").rglob("*.mp4"))) == 2


def test_an_existing_folder_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="exists"):
        writer(tmp_path, "v2.1")


def test_unknown_versions_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "set", "v2.1")
    (root / "meta/info.json").write_text('{"codebase_version": "v1.6"}')
    with pytest.raises(DatasetError, match=r"codebase_version is 'v1\.6'"):
        Dataset(root)
