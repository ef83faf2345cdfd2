# SPDX-License-Identifier: Apache-2.0
"""Writing LeRobot datasets v2.1 (with GR00T's modality.json) and v3.0.

A dataset grows in a hidden folder beside its place and takes its name when it is whole; its info.json,
without which nothing opens, is written last.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.dataset import default_modality
from chefmate_policy.data.dataset_statistics import PictureHistogram, statistics
from chefmate_policy.data.lerobot_layout import (
    ACTION,
    EPISODE_STATS_JSONL,
    EPISODES_FOLDER,
    EPISODES_JSONL,
    FILES_PER_CHUNK,
    INDEX_FEATURES,
    INFO,
    MODALITY,
    PATHS,
    STATE,
    STATS,
    TASKS_JSONL,
    TASKS_PARQUET,
    V2_1,
    V3_0,
    WRITABLE,
    DatasetError,
    Info,
)
from chefmate_policy.data.video import CODEC, PIXELS, Picture, VideoWriter, probe

__all__ = ["DatasetWriter", "Encoded"]

PICTURES_IN_STATISTICS = 16  # of each episode and camera, evenly spaced
SAMPLED_SIDE = 150  # pixels; longer sides are thinned out for the statistics


@dataclass(frozen=True)
class Encoded:
    """A camera's pictures of an episode: a video of the dataset's rate and size, and their histogram."""

    file: Path
    histogram: PictureHistogram


class DatasetWriter:
    """A new dataset. A context manager: left normally it is finished, left by an exception it is removed."""

    def __init__(
        self,
        root: Path,
        *,
        fps: int,
        joints: Sequence[str],
        cameras: Mapping[str, tuple[int, int]],
        version: str = V2_1,
        robot: str = "so101_follower",
    ) -> None:
        """fps in Hz; joints name the dimensions of state and action; cameras: short name -> (width, height).

        Raises DatasetError: the folder exists, the version cannot be written, fps is not positive.
        """
        if version not in WRITABLE:
            raise DatasetError(f"version {version!r} cannot be written; use {' or '.join(WRITABLE)}")
        if root.exists():
            raise DatasetError(f"{root} exists; name a new folder or remove it")
        if not isinstance(fps, int) or fps <= 0:
            raise DatasetError(f"fps is {fps!r}; it must be a whole number above 0")
        self.root, self.version, self._fps, self._robot = root, version, fps, robot
        self._cameras = {f"observation.images.{name}": size for name, size in cameras.items()}
        self._joints = list(joints)
        root.parent.mkdir(parents=True, exist_ok=True)
        self._part = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".partial", dir=root.parent))
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._stats: list[dict[str, dict[str, list[Any]]]] = []
        self._columns: list[dict[str, NDArray[Any]]] = []
        self._histograms = {key: PictureHistogram() for key in self._cameras}
        self._pictures = dict.fromkeys(self._cameras, 0)
        self._frames = 0

    @property
    def frames(self) -> int:
        """Frames so far."""
        return self._frames

    def add_episode(
        self,
        instruction: str,
        states: NDArray[Any],
        actions: NDArray[Any],
        images: Mapping[str, Iterable[Picture] | Encoded],
        extra: Mapping[str, str | int | float | bool] | None = None,
    ) -> int:
        """One episode: states and actions [frames, joints] in the dataset's units, pictures by camera.

        extra: what else the metadata shall say of it (`Episode.extra`), the same keys for every episode.
        Returns its index. Raises DatasetError, and the episode is not part of the dataset: other shapes,
        values that are not finite, no instruction, other cameras, another number or size of pictures.
        """
        index, length = len(self._rows), len(states)
        where = f"{self.root}, episode {index}"
        self._check(where, instruction, states, actions, images)
        thin: dict[str, tuple[PictureHistogram, int]] = {}
        videos: list[Path] = []
        try:
            for camera in self._cameras:
                file = self._file(1, index, video_key=camera)
                videos.append(file)
                thin[camera] = self._write_video(
                    where, file, camera, images[camera.rsplit(".", 1)[-1]], length
                )
        except BaseException:
            for file in videos:
                file.unlink(missing_ok=True)
            raise
        task = self._tasks.setdefault(instruction, len(self._tasks))
        columns: dict[str, NDArray[Any]] = {
            STATE: np.asarray(states, dtype=np.float32),
            ACTION: np.asarray(actions, dtype=np.float32),
            "timestamp": (np.arange(length) / self._fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": np.arange(self._frames, self._frames + length),
            "task_index": np.full(length, task),
        }
        self._write_table(columns, self._file(0, index))
        stats = {key: statistics(values) for key, values in columns.items()}
        for camera, (histogram, count) in thin.items():
            stats[camera] = histogram.statistics(count)
            self._histograms[camera].merge(histogram)
            self._pictures[camera] += count
        self._columns.append(columns)
        self._stats.append(stats)
        self._rows.append({"episode_index": index, "tasks": [instruction], "length": length, **(extra or {})})
        self._frames += length
        return index

    def finish(self) -> None:
        """Writes the metadata and gives the dataset its name. DatasetError: no episode, the name is taken."""
        if not self._rows:
            raise DatasetError(f"{self.root}: a dataset needs at least one episode")
        stats: dict[str, Any] = {
            key: statistics(np.concatenate([columns[key] for columns in self._columns]))
            for key in self._columns[0]
        }
        for camera, histogram in self._histograms.items():
            stats[camera] = histogram.statistics(self._pictures[camera])
        self._json(STATS, stats)
        if self.version == V2_1:
            self._lines(TASKS_JSONL, [{"task_index": i, "task": text} for text, i in self._tasks.items()])
            self._lines(EPISODES_JSONL, self._rows)
            rows = [{"episode_index": i, "stats": stats} for i, stats in enumerate(self._stats)]
            self._lines(EPISODE_STATS_JSONL, rows)
        else:
            self._write_tasks()
            self._write_episodes()
        info = self._info()
        self._json(MODALITY, default_modality(_as_info(info)))
        self._json(INFO, info)
        for folder, _, names in os.walk(self._part):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                _to_disk(path)
        try:
            self._part.chmod(0o755)
            self._part.rename(self.root)  # fails where something that is not an empty folder stands
        except OSError as error:
            raise DatasetError(f"{self.root} cannot be put in place: {error.strerror}") from None
        _to_disk(str(self.root.parent))

    def note(self, name: str, content: Any) -> None:
        """Puts a JSON file of the caller's into meta/."""
        self._json(Path("meta") / name, content)

    def note_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """The same with one JSON object per line."""
        self._lines(Path("meta") / name, rows)

    def discard(self) -> None:
        """Removes what was written so far."""
        shutil.rmtree(self._part, ignore_errors=True)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.discard()

    def _check(
        self,
        where: str,
        instruction: str,
        states: NDArray[Any],
        actions: NDArray[Any],
        images: Mapping[str, Iterable[Picture] | Encoded],
    ) -> None:
        if not isinstance(instruction, str):
            raise DatasetError(f"{where}: the instruction is {instruction!r}, not text")
        shape = (len(states), len(self._joints))
        for name, values in (("states", states), ("actions", actions)):
            if values.shape != shape or not len(values):
                raise DatasetError(
                    f"{where}: {name} are {list(values.shape)}; both must be [frames, {len(self._joints)}]"
                )
            bad = np.argwhere(~np.isfinite(np.asarray(values, dtype=np.float64)))
            if len(bad):
                frame, joint = bad[0]
                value = values[frame, joint]
                raise DatasetError(f"{where}, frame {frame}: {name} of {self._joints[joint]} is {value}")
        wanted = {camera.rsplit(".", 1)[-1] for camera in self._cameras}
        if set(images) != wanted:
            raise DatasetError(f"{where}: pictures of {sorted(images)}; the dataset has {sorted(wanted)}")

    def _write_video(
        self, where: str, file: Path, camera: str, images: Iterable[Picture] | Encoded, length: int
    ) -> tuple[PictureHistogram, int]:
        """Histogram of some pictures, and their number."""
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(images, Encoded):
            return self._copy_video(where, file, camera, images, length), length
        kept = set(
            np.linspace(0, length - 1, min(length, PICTURES_IN_STATISTICS)).round().astype(int).tolist()
        )
        histogram, count = PictureHistogram(), 0
        width, height = self._cameras[camera]
        step = max(1, max(width, height) // SAMPLED_SIDE)
        with VideoWriter(file, self._fps, width, height) as video:
            for picture in images:
                video.add(picture)
                if count in kept:
                    histogram.add(picture[::step, ::step])
                count += 1
        if count != length:
            raise DatasetError(f"{where}: {count} pictures of {camera} for {length} frames")
        return histogram, len(kept)

    def _copy_video(
        self, where: str, file: Path, camera: str, encoded: Encoded, length: int
    ) -> PictureHistogram:
        facts = probe(encoded.file)
        found, wanted = (facts.width, facts.height, len(facts.stamps)), (*self._cameras[camera], length)
        if found != wanted:
            raise DatasetError(
                f"{where}: {encoded.file} has width, height and frames {found}; the dataset needs {wanted}"
            )
        try:
            os.link(encoded.file, file)
        except OSError:  # another file system
            shutil.copyfile(encoded.file, file)
        return encoded.histogram

    def _file(self, kind: int, index: int, **names: str) -> Path:
        """Of the data (kind 0) or a video (kind 1) of an episode; v3.0 too gets one file per episode."""
        chunk, place = divmod(index, FILES_PER_CHUNK)
        if self.version == V2_1:
            path = PATHS[V2_1][kind].format(episode_chunk=chunk, episode_index=index, **names)
        else:
            path = PATHS[V3_0][kind].format(chunk_index=chunk, file_index=place, **names)
        return self._part / path

    def _write_table(self, columns: Mapping[str, NDArray[Any]], file: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        arrays = {}
        for name, values in columns.items():
            if values.ndim == 2:
                flat = pyarrow.array(values.ravel(), pyarrow.float32())
                arrays[name] = pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
            else:
                arrays[name] = pyarrow.array(values)
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(arrays), file)

    def _write_tasks(self) -> None:
        import pyarrow
        import pyarrow.parquet

        described = [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
            for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ]
        # LeRobot looks tasks up by the data frame's index, which parquet has only by this entry.
        pandas = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": described,
            "pandas_version": "2.2.3",
        }
        table = pyarrow.table({"task_index": list(self._tasks.values()), "task": list(self._tasks)})
        file = self._part / TASKS_PARQUET
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), file)

    def _write_episodes(self) -> None:
        import pyarrow
        import pyarrow.parquet

        rows, start = [], 0
        for row, stats in zip(self._rows, self._stats, strict=True):
            chunk, place = divmod(row["episode_index"], FILES_PER_CHUNK)
            entry = {**row, "data/chunk_index": chunk, "data/file_index": place}
            entry |= {"dataset_from_index": start, "dataset_to_index": start + row["length"]}
            for camera in self._cameras:
                group = f"videos/{camera}"
                entry |= {f"{group}/chunk_index": chunk, f"{group}/file_index": place}
                entry |= {f"{group}/from_timestamp": 0.0, f"{group}/to_timestamp": row["length"] / self._fps}
            entry |= {
                f"stats/{key}/{name}": value for key, found in stats.items() for name, value in found.items()
            }
            entry |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
            rows.append(entry)
            start += row["length"]
        file = self._part / EPISODES_FOLDER / "chunk-000" / "file-000.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)

    def _info(self) -> dict[str, Any]:
        features: dict[str, Any] = {
            key: {"dtype": "float32", "shape": [len(self._joints)], "names": self._joints}
            for key in (STATE, ACTION)
        }
        for camera, (width, height) in self._cameras.items():
            about: dict[str, Any] = {
                "video.fps": self._fps,
                "video.height": height,
                "video.width": width,
                "video.channels": 3,
            }
            about |= {"video.codec": "h264" if CODEC == "libx264" else CODEC, "video.pix_fmt": PIXELS}
            about |= {"video.is_depth_map": False, "has_audio": False}
            entry = {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
            features[camera] = {**entry, "info": about}
        for key, kind in INDEX_FEATURES.items():
            features[key] = {"dtype": kind, "shape": [1], "names": None}
        count = len(self._rows)
        info: dict[str, Any] = {
            "codebase_version": self.version,
            "robot_type": self._robot,
            "total_episodes": count,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "fps": self._fps,
            "splits": {"train": f"0:{count}"},
            "data_path": PATHS[self.version][0],
            "video_path": PATHS[self.version][1] if self._cameras else None,
            "features": features,
        }
        if self.version == V2_1:
            info["total_videos"] = count * len(self._cameras)
            info["total_chunks"] = math.ceil(count / FILES_PER_CHUNK)
        else:
            info |= {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200}  # LeRobot's defaults
        return info

    def _json(self, name: Path, content: Any) -> None:
        file = self._part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=4) + "\n", "utf-8")

    def _lines(self, name: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        file = self._part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _as_info(raw: Mapping[str, Any]) -> Info:
    return Info(
        version=raw["codebase_version"],
        fps=raw["fps"],
        episodes=raw["total_episodes"],
        frames=raw["total_frames"],
        chunks_size=raw["chunks_size"],
        data_path=raw["data_path"],
        video_path=raw["video_path"] or "",
        features=raw["features"],
    )


def _to_disk(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
