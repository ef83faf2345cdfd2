# SPDX-License-Identifier: Apache-2.0
"""The layouts of LeRobot datasets v2.0, v2.1 and v3.0: names of files and columns, info.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chefmate_policy.errors import PolicyError

__all__ = ["READABLE", "V2_1", "V3_0", "WRITABLE", "DatasetError", "Info", "read_json", "read_json_lines"]

V2_1, V3_0 = "v2.1", "v3.0"
READABLE, WRITABLE = ("v2.0", V2_1, V3_0), (V2_1, V3_0)
INFO, STATS, MODALITY = Path("meta/info.json"), Path("meta/stats.json"), Path("meta/modality.json")
EPISODES_JSONL, TASKS_JSONL = Path("meta/episodes.jsonl"), Path("meta/tasks.jsonl")
EPISODE_STATS_JSONL = Path("meta/episodes_stats.jsonl")
EPISODES_FOLDER, TASKS_PARQUET = Path("meta/episodes"), Path("meta/tasks.parquet")
STATE, ACTION = "observation.state", "action"
FILES_PER_CHUNK = 1000  # both versions' default
PATHS: Mapping[str, tuple[str, str]] = {  # version -> data_path, video_path of info.json
    V2_1: (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    V3_0: (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
}
INDEX_FEATURES: Mapping[str, str] = {  # the columns that every dataset has, with their types
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


class DatasetError(PolicyError):
    """A dataset cannot be read or written. The message names file and, where there is one, the episode."""


@dataclass(frozen=True)
class Info:
    """meta/info.json."""

    version: str
    fps: float  # Hz
    episodes: int
    frames: int
    chunks_size: int
    data_path: str
    video_path: str
    features: dict[str, dict[str, Any]]
    robot: str | None = None

    @classmethod
    def read(cls, root: Path) -> Info:
        """Raises DatasetError: not a dataset, a version that nobody here reads, a missing or odd entry."""
        file = root / INFO
        raw = read_json(file)
        if not isinstance(raw, dict):
            raise DatasetError(f"{file} holds a {type(raw).__name__}, not an object")
        version = raw.get("codebase_version")
        if version not in READABLE:
            raise DatasetError(
                f"{file}: codebase_version is {version!r}; {', '.join(READABLE)} can be read."
                " LeRobot's own scripts convert older datasets"
            )
        try:
            info = cls(
                version=version,
                fps=float(raw["fps"]),
                episodes=int(raw["total_episodes"]),
                frames=int(raw["total_frames"]),
                chunks_size=int(raw.get("chunks_size", FILES_PER_CHUNK)),
                data_path=str(raw["data_path"]),
                video_path=str(raw.get("video_path") or ""),
                features={str(key): dict(value) for key, value in raw["features"].items()},
                robot=raw.get("robot_type"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{file}: {error!r} in codebase_version {version}") from None
        if not math.isfinite(info.fps) or info.fps <= 0:
            raise DatasetError(f"{file}: fps is {info.fps}, it must be above 0")
        return info

    @property
    def cameras(self) -> tuple[str, ...]:
        """Features that are videos, in the file's order."""
        return tuple(key for key, feature in self.features.items() if feature.get("dtype") == "video")

    def names(self, feature: str) -> tuple[str, ...]:
        """Names of a vector's dimensions; `feature[0]` and so on where the file has none."""
        entry = self.features[feature]
        names = entry.get("names")
        if isinstance(names, Mapping):  # {"motors": [...]} in datasets of older LeRobot versions
            names = [name for part in names.values() for name in part]
        size = int(entry["shape"][0])
        if isinstance(names, list) and len(names) == size:
            return tuple(str(name) for name in names)
        return tuple(f"{feature}[{index}]" for index in range(size))

    def size(self, camera: str) -> tuple[int, int]:
        """Width and height, pixels, of a camera."""
        shape, names = list(self.features[camera]["shape"]), self.features[camera].get("names")
        if isinstance(names, list) and {"height", "width"} <= set(names):
            return int(shape[names.index("width")]), int(shape[names.index("height")])
        return int(shape[1]), int(shape[0])


def read_json(file: Path) -> Any:
    """A JSON file. Raises DatasetError: missing, not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{file} is missing: the folder is not a whole LeRobot dataset") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from None


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """One JSON object per line; blank lines are let through. Raises DatasetError naming the line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{file}:{number} is not a JSON object on one line: {error}") from None
        if not isinstance(row, dict):
            raise DatasetError(f"{file}:{number} is not a JSON object")
        rows.append(row)
    return rows
