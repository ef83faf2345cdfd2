# SPDX-License-Identifier: Apache-2.0
"""Recordings become episodes by the stamps of their messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_graph import BEGIN, BREAD, CHEESE, LEAD, Recorded, grey, pose

from chefmate import cli
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_policy.data.conversion import Converted, Wanted, convert
from chefmate_policy.data.dataset import Dataset
from chefmate_policy.data.lerobot_layout import ACTION, STATE, DatasetError
from chefmate_policy.data.message_types import RecordingError
from chefmate_policy.data.validation import validate
from chefmate_policy.units import JointUnits, so101_units

UNITS = JointUnits(so101_units(JOINT_NAMES, "degrees"))
CAMERAS = {"scene": "scene_camera", "wrist": "wrist_camera"}


def converted(recorded: Recorded, folder: Path, **other: Any) -> tuple[Dataset, Converted]:
    bag = recorded.write(folder / "bag")
    found = convert([bag], folder / "set", Wanted(**{"fps": 10, "units": UNITS, "cameras": CAMERAS, **other}))
    return Dataset(folder / "set"), found


def moments(dataset: Dataset, number: int) -> np.ndarray:
    """s since BEGIN of an episode's frames."""
    episode = dataset.episodes[number]
    start = episode.extra["start_ns"] / 1e9 - BEGIN
    return start + np.arange(episode.length) / 10


def late(number: int) -> float:
    """Up to 0.4 s, differently for neighbours: what was sent later often comes first."""
    return float((number * 7919) % 41) / 100


@pytest.fixture(scope="module")
def in_disorder(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return converted(Recorded(arrival=late), tmp_path_factory.mktemp("disorder"))[0]


def test_each_instruction_in_force_is_an_episode_with_its_outcome(in_disorder: Dataset) -> None:
    assert validate(in_disorder) == []
    bread, cheese = in_disorder.episodes
    assert (bread.instructions, cheese.instructions) == ((BREAD,), (CHEESE,))
    assert (bread.extra["outcome"], cheese.extra["outcome"]) == ("success", "unknown")
    assert not bread.extra["takeover"] and not bread.extra["operator_help"]
    assert (bread.length, cheese.length) == (20, 25)


def test_states_and_targets_are_those_of_the_frames_moment_whatever_came_first(in_disorder: Dataset) -> None:
    for number, episode in enumerate(in_disorder.episodes):
        times, columns = moments(in_disorder, number), in_disorder.columns(episode)
        assert np.abs(columns[STATE] - UNITS.values(pose(times))).max() < 0.01
        off = np.abs(columns[ACTION] - UNITS.values(pose(times) + LEAD))
        assert off.max() < 0.2  # degrees; points of a chunk are 0.1 s apart


def test_pictures_are_the_nearest_ones(in_disorder: Dataset) -> None:
    for camera in in_disorder.info.cameras:
        shown = [picture.mean() for picture in in_disorder.pictures(in_disorder.episodes[0], camera)]
        nearest = np.round(moments(in_disorder, 0) * 30) / 30
        assert np.abs(np.array(shown) - [grey(time) for time in nearest]).max() < 3  # neighbours differ by 6


def test_arrival_order_changes_nothing(tmp_path: Path, in_disorder: Dataset) -> None:
    ordered, _ = converted(Recorded(), tmp_path)
    for first, second in zip(ordered.episodes, in_disorder.episodes, strict=True):
        for name in (STATE, ACTION):
            assert np.array_equal(ordered.columns(first)[name], in_disorder.columns(second)[name])
        for camera, clip in first.videos.items():
            assert clip.file.read_bytes() == second.videos[camera].file.read_bytes()


def test_a_leaders_commands_are_the_actions_while_it_drives(tmp_path: Path) -> None:
    dataset, _ = converted(Recorded(teleoperated=(3.0, 4.0), compressed=False), tmp_path)
    bread, cheese = dataset.episodes
    assert not bread.extra["takeover"]
    assert cheese.extra["takeover"] and cheese.extra["operator_help"]
    led = moments(dataset, 1) < 3.95
    wanted = np.where(led[:, None], pose(moments(dataset, 1)) - LEAD, pose(moments(dataset, 1)) + LEAD)
    assert np.abs(dataset.columns(cheese)[ACTION] - UNITS.values(wanted)).max() < 0.2


def test_instructions_that_were_only_published_count_too(tmp_path: Path) -> None:
    dataset, _ = converted(Recorded(status=False, seconds=5.0), tmp_path, size=(16, 12), version="v3.0")
    assert [episode.instructions[0] for episode in dataset.episodes] == [BREAD, CHEESE]
    assert dataset.info.size("observation.images.wrist") == (16, 12)
    assert validate(dataset) == []


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        (Recorded(lost=[("/joint_states", 3.5, 4.0)]), r"a gap of 0\.51 s in joint_states at 0\.50 s"),
        (
            Recorded(lost=[("/wrist_camera/image_raw/compressed", 3.5, 4.5)]),
            r"picture of camera wrist is 0\.\d+ s away from the frame at 0\.\d0 s, the limit is 0\.15 s",
        ),
        (Recorded(jump_at=4.0), r"clock of /joint_states jumps by \+5\.00 s"),
        (
            Recorded(teleoperated=(3.2, 3.6), lost=[("/teleop/joint_command", 0, 9)]),
            r"teleoperated without teleop/joint_command at 0\.20 s",
        ),
    ],
)
def test_what_makes_an_episode_faulty_is_named_and_left_out(
    tmp_path: Path, recorded: Recorded, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = recorded.write(tmp_path / "bag")
    assert cli.main(["data", "convert", str(bag), "--to", str(tmp_path / "set")]) == 0
    out = capsys.readouterr().out
    assert "1 episodes, 20 frames" in out

    assert re.search(f"left out: .*'{CHEESE}' at 3.0 s: .*{words}", out)


def test_a_bag_without_a_camera_or_joints_is_refused(tmp_path: Path) -> None:
    blind = Recorded(seconds=2.0, lost=[("/wrist_camera/image_raw/compressed", 0, 9)])
    with pytest.raises(RecordingError, match=r"no pictures of camera wrist: no topic wrist_camera/image_raw"):
        converted(blind, tmp_path / "blind")
    with pytest.raises(RecordingError, match="holds no joint_states"):
        converted(Recorded(seconds=2.0, lost=[("/joint_states", 0, 9)]), tmp_path / "limp")
    with pytest.raises(DatasetError, match="no instruction was in force"):
        converted(Recorded(seconds=1.0), tmp_path / "silent")
    with pytest.raises(RecordingError, match="is no rosbag2 folder"):
        convert([tmp_path], tmp_path / "set", Wanted(10, UNITS, CAMERAS))
    assert not list(tmp_path.glob("*/set"))
