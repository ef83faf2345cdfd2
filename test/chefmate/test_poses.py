# SPDX-License-Identifier: Apache-2.0
"""The file of named poses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chefmate.arm_options import poses_file
from chefmate.poses import PoseError, delete_pose, get_pose, read_poses, save_pose
from chefmate_driver.arm.model import JOINT_NAMES

POSE = dict(zip(JOINT_NAMES, [0.1, -0.6, 0.5, 0.4, 0.0, 0.3], strict=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "chefmate" / "poses.yaml"


def test_a_saved_pose_is_read_again(file: Path) -> None:
    save_pose(file, "above_plate", POSE)
    assert get_pose(file, "above_plate") == pytest.approx(POSE)
    assert list(read_poses(file)) == ["above_plate"]


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(file: Path) -> None:
    save_pose(file, "a", POSE)
    with pytest.raises(PoseError, match=r"'a'.*already; --replace"):
        save_pose(file, "a", {**POSE, "gripper": 1.0})
    assert get_pose(file, "a")["gripper"] == 0.3
    save_pose(file, "a", {**POSE, "gripper": 1.0}, replace=True)
    assert get_pose(file, "a")["gripper"] == 1.0


def test_an_unknown_pose_names_those_there_are(file: Path) -> None:
    save_pose(file, "plate", POSE)
    save_pose(file, "tray", POSE)
    for action in (get_pose, delete_pose):
        with pytest.raises(PoseError, match=r"no pose 'plat'.*known: plate, tray"):
            action(file, "plat")


def test_a_deleted_pose_is_gone_and_the_others_stay(file: Path) -> None:
    save_pose(file, "plate", POSE)
    save_pose(file, "tray", POSE)
    delete_pose(file, "plate")
    assert list(read_poses(file)) == ["tray"]


@pytest.mark.parametrize("name", ["", "home", "park", "1st", "a b", "../x", "x" * 41, "ä"])
def test_a_name_that_cannot_be_is_refused(file: Path, name: str) -> None:
    with pytest.raises(PoseError):
        save_pose(file, name, POSE)
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poses: [", "is not YAML"),
        ("- 1", "mapping `poses`"),
        ("poses: {a: {shoulder_pan: 0.0}}", "needs one angle"),
        ("poses: {a: 3}", "needs one angle"),
        ("{joints}gripper: .nan", "gripper is nan"),
        ("{joints}gripper: wide", "gripper is 'wide'"),
        ("{joints}gripper: 170.0", r"gripper is 170.000 rad, outside -0.175..1.745"),
    ],
)
def test_a_damaged_file_is_named_and_left_alone(file: Path, text: str, message: str) -> None:
    joints = "poses:\n  a:\n" + "".join(f"    {name}: 0.0\n" for name in JOINT_NAMES[:5]) + "    "
    file.parent.mkdir()
    file.write_text(text.replace("{joints}", joints))
    before = file.read_text()
    for action in (lambda: read_poses(file), lambda: save_pose(file, "b", POSE)):
        with pytest.raises(PoseError, match=message):
            action()
    assert file.read_text() == before


def test_two_processes_that_save_at_once_lose_nothing(file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from chefmate.poses import save_pose; "
        "from chefmate_driver.arm.model import JOINT_NAMES\n"
        "pose = dict.fromkeys(JOINT_NAMES, 0.0)\n"
        "for i in range(20): save_pose(Path(sys.argv[1]), f'{sys.argv[2]}{i}', pose)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(file), name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(read_poses(file)) == 40
    assert not [entry for entry in os.listdir(file.parent) if entry not in ("poses.yaml", ".poses.yaml.lock")]


def test_poses_live_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert poses_file() == tmp_path / "chefmate" / "poses.yaml"
