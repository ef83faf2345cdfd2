# SPDX-License-Identifier: Apache-2.0
"""Reading LeRobot datasets v2.0, v2.1 and v3.0, from a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.lerobot_layout import (
    ACTION,
    EPISODES_FOLDER,
    EPISODES_JSONL,
    INDEX_FEATURES,
    MODALITY,
    STATE,
    STATS,
    TASKS_JSONL,
    TASKS_PARQUET,
    V3_0,
    DatasetError,
    Info,
    read_json,
    read_json_lines,
)
from chefmate_policy.data.video import Picture, pictures

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Clip", "Dataset", "Episode", "default_modality"]


@dataclass(frozen=True)
class Clip:
    """An episode's part of a video file."""

    file: Path
    start: float  # s in the file, of the episode's first frame
    end: float | None  # s in the file, behind the last frame; None: the file is the episode's alone


@dataclass(frozen=True)
class Episode:
    """One demonstration."""

    index: int
    length: int  # frames
    instructions: tuple[str, ...]
    data: Path
    videos: Mapping[str, Clip] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)  # whatever else the metadata says of it


class Dataset:
    """A dataset, opened. Columns and pictures are read when they are asked for."""

    def __init__(self, root: Path) -> None:
        """Raises DatasetError: not a dataset, damaged metadata."""
        self.root = root
        self.info = Info.read(root)
        try:
            self.tasks = self._tasks()
            self.episodes = tuple(self._episodes())
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{root / 'meta'}: tasks or episodes are damaged: {error!r}") from None
        self._table: tuple[Path, Any] | None = None

    @property
    def stats(self) -> dict[str, Any] | None:
        """meta/stats.json; None where the dataset has none (v2.1 may have statistics per episode only)."""
        return read_json(self.root / STATS) if (self.root / STATS).exists() else None

    @property
    def modality(self) -> dict[str, Any]:
        """meta/modality.json, or what GR00T's would say of this dataset if there is none."""
        file = self.root / MODALITY
        return read_json(file) if file.exists() else default_modality(self.info)

    def columns(self, episode: Episode) -> dict[str, NDArray[Any]]:
        """An episode's columns by feature: [length] or [length, dimensions], sorted as stored.

        Raises DatasetError: file missing or not parquet, a column missing or of ragged rows.
        """
        import pyarrow.compute

        table = self._read(episode.data)
        names = [key for key in self.info.features if self.info.features[key].get("dtype") not in IMAGES]
        missing = [key for key in names if key not in table.column_names]
        if missing:
            raise DatasetError(f"{episode.data} lacks columns {', '.join(missing)} of info.json")
        if self.info.version == V3_0:
            table = table.filter(pyarrow.compute.equal(table["episode_index"], episode.index))
        return {name: _array(table[name], episode, name) for name in names}

    def pictures(
        self, episode: Episode, camera: str, frames: Sequence[int] | None = None
    ) -> Iterator[Picture]:
        """Yields uint8 [height, width, 3] RGB of these ascending frames (default: all) of one camera.

        Raises DatasetError naming the episode.
        """
        clip = episode.videos.get(camera)
        if clip is None:
            raise DatasetError(f"{self.root} has no camera {camera!r}; it has {', '.join(self.info.cameras)}")
        chosen = range(episode.length) if frames is None else frames
        stamps = [clip.start + frame / self.info.fps for frame in chosen]
        try:
            yield from pictures(clip.file, stamps, tolerance=0.45 / self.info.fps)
        except DatasetError as error:
            raise DatasetError(f"episode {episode.index}, {camera}: {error}") from None

    def _read(self, file: Path) -> pyarrow.Table:
        import pyarrow
        import pyarrow.parquet

        if self._table is None or self._table[0] != file:  # a file of v3.0 holds many episodes
            try:
                self._table = file, pyarrow.parquet.read_table(file)
            except FileNotFoundError:
                raise DatasetError(f"{file} is missing") from None
            except (OSError, pyarrow.ArrowException) as error:
                raise DatasetError(f"{file} is not a parquet file: {error}") from None
        return self._table[1]

    def _tasks(self) -> dict[int, str]:
        if self.info.version != V3_0:
            rows = read_json_lines(self.root / TASKS_JSONL)
            return {int(row["task_index"]): str(row["task"]) for row in rows}
        self._table = None
        table = self._read(self.root / TASKS_PARQUET)
        texts = "task" if "task" in table.column_names else "__index_level_0__"  # pandas' name of an index
        pairs = zip(table["task_index"].to_pylist(), table[texts].to_pylist(), strict=True)
        return {int(index): str(text) for index, text in pairs}

    def _episodes(self) -> Iterator[Episode]:
        if self.info.version != V3_0:
            for row in read_json_lines(self.root / EPISODES_JSONL):
                yield self._episode_of_line(row)
            return
        files = sorted((self.root / EPISODES_FOLDER).glob("*/*.parquet"))
        if not files and self.info.episodes:
            raise DatasetError(f"{self.root / EPISODES_FOLDER} holds no parquet file")
        for file in files:
            table = self._read(file)
            table = table.select([name for name in table.column_names if not name.startswith("stats/")])
            for row in table.to_pylist():
                yield self._episode_of_row(row)

    def _episode_of_line(self, row: Mapping[str, Any]) -> Episode:
        index = int(row["episode_index"])
        place = {"episode_chunk": index // self.info.chunks_size, "episode_index": index}
        videos = {
            camera: Clip(self.root / self.info.video_path.format(video_key=camera, **place), 0.0, None)
            for camera in self.info.cameras
        }
        data = self.root / self.info.data_path.format(**place)
        return Episode(index, int(row["length"]), tuple(row["tasks"]), data, videos, _extra(row))

    def _episode_of_row(self, row: Mapping[str, Any]) -> Episode:
        def place(group: str) -> dict[str, int]:
            return {key: int(row[f"{group}/{key}"]) for key in ("chunk_index", "file_index")}

        videos = {}
        for camera in self.info.cameras:
            group = f"videos/{camera}"
            file = self.root / self.info.video_path.format(video_key=camera, **place(group))
            start, end = (float(row[f"{group}/{key}"]) for key in ("from_timestamp", "to_timestamp"))
            videos[camera] = Clip(file, start, end)
        data = self.root / self.info.data_path.format(**place("data"))
        index, length = int(row["episode_index"]), int(row["length"])
        return Episode(index, length, tuple(row["tasks"]), data, videos, _extra(row))


IMAGES = ("video", "image")
ROW_KEYS = frozenset({"episode_index", "length", "tasks", "dataset_from_index", "dataset_to_index"})


def _extra(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is in an episode's row beyond the format's own keys (those with a slash are v3.0's)."""
    return {key: value for key, value in row.items() if key not in ROW_KEYS and "/" not in key}


def default_modality(info: Info) -> dict[str, Any]:
    """GR00T's modality.json: all joints but the last are `single_arm`, the last is `gripper`."""
    parts: dict[str, Any] = {}
    for kind, feature in (("state", STATE), ("action", ACTION)):
        if feature in info.features:
            size = int(info.features[feature]["shape"][0])
            parts[kind] = {
                "single_arm": {"start": 0, "end": size - 1},
                "gripper": {"start": size - 1, "end": size},
            }
    parts["video"] = {camera.rsplit(".", 1)[-1]: {"original_key": camera} for camera in info.cameras}
    parts["annotation"] = {"human.task_description": {"original_key": "task_index"}}
    return parts


def _array(column: Any, episode: Episode, name: str) -> NDArray[Any]:
    rows = column.to_pylist()
    try:
        array = np.array(rows, dtype=np.float64 if name not in INDEX_FEATURES else None)
    except (TypeError, ValueError):
        if all(isinstance(row, str) for row in rows):
            return np.array(rows, dtype=object)
        raise DatasetError(
            f"{episode.data}, episode {episode.index}: rows of {name} differ in length or hold no numbers"
        ) from None
    return array
