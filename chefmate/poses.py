# SPDX-License-Identifier: Apache-2.0
"""Named poses of the arm in a YAML file of the user.

poses:
  above_plate:
    shoulder_pan: 0.10      # rad, URDF angles; all six joints
    ...
"""

from __future__ import annotations

import fcntl
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from chefmate.errors import ChefmateError
from chefmate_driver.arm.model import JOINT_NAMES, JOINTS

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
RESERVED = ("home", "park")  # the arm's own: chefmate arm home, chefmate arm park
DIGITS = 5  # of a saved angle; a servo tick is 0.0015 rad
SLACK = 0.05  # rad beyond the URDF's limit that a measured joint may have

Pose = dict[str, float]  # rad by joint name


class PoseError(ChefmateError):
    """A pose is unknown, taken, or its file is not usable."""


def read_poses(path: Path) -> dict[str, Pose]:
    """All poses of a file, by name; none if there is no file yet. PoseError names what is wrong in it."""
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise PoseError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise PoseError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not isinstance(document.get("poses"), dict):
        raise PoseError(
            f"{path} must hold a mapping `poses` of names to joint angles; mend or remove the file"
        )
    return {str(name): _pose(f"{path}: {name}", entry) for name, entry in document["poses"].items()}


def get_pose(path: Path, name: str) -> Pose:
    """One pose. PoseError, with the names there are, if it is unknown."""
    poses = read_poses(path)
    if name not in poses:
        known = ", ".join(sorted(poses)) or "none yet; `chefmate arm pose save NAME` saves one"
        raise PoseError(f"no pose {name!r} in {path}; known: {known}")
    return poses[name]


def check_name(name: str) -> None:
    """Raises PoseError for what cannot be a pose's name."""
    if name in RESERVED:
        raise PoseError(f"{name!r} is the arm's own pose (chefmate arm {name}); choose another name")
    if not NAME.fullmatch(name):
        raise PoseError(
            f"{name!r} is no name for a pose: a letter, then up to 39 letters, digits, _ or -, for example "
            "above_plate"
        )


def save_pose(path: Path, name: str, pose: Mapping[str, float], *, replace: bool = False) -> None:
    """Adds a pose, at once and whole. PoseError if the name is taken (unless `replace`) or the pose is not
    complete."""
    check_name(name)
    whole = _pose(f"pose {name}", dict(pose))
    with _locked(path):
        poses = read_poses(path)
        if name in poses and not replace:
            raise PoseError(f"there is a pose {name!r} in {path} already; --replace overwrites it")
        poses[name] = {joint: round(angle, DIGITS) for joint, angle in whole.items()}
        _write(path, poses)


def delete_pose(path: Path, name: str) -> None:
    """Removes a pose. PoseError if it is unknown."""
    with _locked(path):
        get_pose(path, name)
        poses = read_poses(path)
        del poses[name]
        _write(path, poses)


def _pose(where: str, entry: object) -> Pose:
    if not isinstance(entry, dict) or set(entry) != set(JOINT_NAMES):
        raise PoseError(f"{where} needs one angle (rad) for each of {', '.join(JOINT_NAMES)}, got {entry!r}")
    for joint in JOINTS:
        value = entry[joint.name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise PoseError(f"{where}: {joint.name} is {value!r}, not an angle in rad")
        if not joint.lower - SLACK <= value <= joint.upper + SLACK:
            raise PoseError(
                f"{where}: {joint.name} is {value:.3f} rad, outside {joint.lower:.3f}..{joint.upper:.3f}"
            )
    return {name: float(entry[name]) for name in JOINT_NAMES}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from changing the file meanwhile. PoseError if the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PoseError(f"{path.parent} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, poses: Mapping[str, Pose]) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    text = yaml.safe_dump({"poses": {name: dict(poses[name]) for name in sorted(poses)}}, sort_keys=False)
    try:
        fresh.write_text(f"# Poses of the arm, rad. Written by `chefmate arm pose`.\n{text}")
        fresh.replace(path)
    except OSError as error:
        raise PoseError(f"{path} cannot be written: {error.strerror}") from error
