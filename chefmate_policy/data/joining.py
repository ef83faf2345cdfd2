# SPDX-License-Identifier: Apache-2.0
"""Datasets joined into one run of rows, with what they have to have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.dataset import Dataset, Episode
from chefmate_policy.data.frames import Filmed, Frames
from chefmate_policy.data.lerobot_layout import ACTION, STATE, DatasetError
from chefmate_policy.data.sampling import Run

__all__ = ["Columns", "Trajectory", "fingerprint", "join"]

GENERATED = Path("meta/chefmate.json")  # what `data generate` leaves
INSTRUCTION = "human.task_description"  # GR00T's annotation key
SOURCES = {"state": STATE, "action": ACTION}  # columns, where modality.json names none


@dataclass(frozen=True)
class Trajectory:
    """One episode's place in the mixture."""

    dataset: int
    episode: Episode
    start: int  # rows start..stop-1
    stop: int
    layout: str | None  # of the scene, where the dataset says it


@dataclass(frozen=True)
class Columns:
    """All of a mixture but what is sampled from it."""

    datasets: tuple[Dataset, ...]
    cameras: tuple[str, ...]
    trajectories: tuple[Trajectory, ...]
    instructions: tuple[str, ...]
    keys: dict[str, dict[str, int]]  # state, action: key of modality.json -> dimensions, in vector order
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    stops: NDArray[np.int64]
    instruction_of: NDArray[np.int64]
    frames: Frames


def join(datasets: Sequence[Dataset], cameras: Sequence[str] | None) -> tuple[Columns, list[Run]]:
    """Datasets one after the other, and the stretches of one instruction. cameras: see `Mixture.open`.

    Raises DatasetError: they differ in rate, cameras, sizes or joints, or a column is damaged.
    """
    first = datasets[0]
    names = tuple(cameras) if cameras is not None else tuple(first.modality.get("video", {}))
    if not names:
        raise DatasetError(f"{first.root} has no camera in its modality.json")
    keys, size = _keys(first), _camera_size(first, names)
    texts: dict[str, int] = {}
    trajectories: list[Trajectory] = []
    runs: list[Run] = []
    films: list[Filmed] = []
    columns: dict[str, list[NDArray[Any]]] = {"state": [], "action": [], "stop": [], "instruction": []}
    row = 0
    for number, dataset in enumerate(datasets):
        _check_alike(first, dataset, names, keys, size)
        video = dataset.modality["video"]
        filmed = tuple(str(video[name].get("original_key", f"observation.images.{name}")) for name in names)
        for episode in dataset.episodes:
            stored = dataset.columns(episode)
            length = episode.length
            if len(stored["task_index"]) != length or not length:
                raise DatasetError(
                    f"{episode.data}, episode {episode.index}: {len(stored['task_index'])} frames,"
                    f" but the episode's length is {length}"
                )
            for kind in ("state", "action"):
                values = _vector(dataset, episode, stored, kind)
                columns[kind].append(values)
            numbers = _instructions(dataset, episode, stored, texts)
            cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), length]
            stops = np.empty(length, np.int64)
            for start, stop in pairwise(cuts):
                runs.append(Run(number, len(trajectories), int(numbers[start]), row + start, row + stop))
                stops[start:stop] = row + stop
            columns["stop"].append(stops)
            columns["instruction"].append(numbers)
            trajectories.append(
                Trajectory(number, episode, row, row + length, _layout(number, dataset, episode))
            )
            films.append(Filmed(dataset, episode, row, filmed))
            row += length
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return (
        Columns(
            datasets=tuple(datasets),
            cameras=names,
            trajectories=tuple(trajectories),
            instructions=tuple(texts),
            keys=keys,
            states=joined["state"].astype(np.float32),
            actions=joined["action"].astype(np.float32),
            stops=joined["stop"],
            instruction_of=joined["instruction"],
            frames=Frames(films, size[1], size[0]),
        ),
        runs,
    )


def fingerprint(root: Path) -> str:
    """SHA-256 over names and contents of metadata and columns, names and sizes of videos."""
    digest = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode())
        if file.suffix in (".json", ".jsonl", ".parquet"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _keys(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Dimensions of each key of state and action."""
    return {
        kind: {key: int(part["end"]) - int(part["start"]) for key, part in _parts(dataset, kind).items()}
        for kind in SOURCES
    }


def _parts(dataset: Dataset, kind: str) -> Mapping[str, Mapping[str, Any]]:
    parts: Any = dataset.modality.get(kind)
    if not isinstance(parts, Mapping) or not parts:
        raise DatasetError(f"{dataset.root}: modality.json has no {kind}")
    for key, part in parts.items():
        if not isinstance(part, Mapping) or not {"start", "end"} <= set(part) or part["end"] <= part["start"]:
            raise DatasetError(f"{dataset.root}: {kind}.{key} of modality.json needs start < end: {part}")
    return parts


def _camera_size(dataset: Dataset, names: Sequence[str]) -> tuple[int, int]:
    """Width and height, pixels, that all cameras have."""
    video = dataset.modality.get("video", {})
    sizes = {}
    for name in names:
        feature = str(video.get(name, {}).get("original_key", f"observation.images.{name}"))
        if name not in video or feature not in dataset.info.cameras:
            raise DatasetError(f"{dataset.root} has no camera {name!r}; it has {', '.join(video) or 'none'}")
        sizes[name] = dataset.info.size(feature)
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{name} {width}x{height}" for name, (width, height) in sizes.items())
        raise DatasetError(f"{dataset.root}: cameras differ in size ({listed}); the model needs one size")
    return next(iter(sizes.values()))


def _check_alike(
    first: Dataset,
    dataset: Dataset,
    cameras: Sequence[str],
    keys: Mapping[str, Mapping[str, int]],
    size: tuple[int, int],
) -> None:
    if dataset.info.fps != first.info.fps:
        raise DatasetError(
            f"{dataset.root} has {dataset.info.fps:g} Hz, {first.root} {first.info.fps:g} Hz:"
            " convert one of them to the other's rate"
        )
    own = _camera_size(dataset, cameras)
    if own != size:
        raise DatasetError(
            f"{dataset.root} has pictures of {own[0]}x{own[1]}, {first.root} of {size[0]}x{size[1]}"
        )
    found = _keys(dataset)
    for kind in SOURCES:
        if list(found[kind].items()) != list(keys[kind].items()):
            raise DatasetError(
                f"{dataset.root} has {kind} {found[kind]}, {first.root} {dict(keys[kind])}:"
                " a mixture needs the same keys in the same order"
            )
        joints, others = (_names(one, SOURCES[kind]) for one in (first, dataset))
        if joints != others:
            raise DatasetError(
                f"{dataset.root} has the dimensions {', '.join(others)} in {kind}, "
                f" {first.root} {', '.join(joints)}"
            )


def _names(dataset: Dataset, feature: str) -> tuple[str, ...]:
    return dataset.info.names(feature) if feature in dataset.info.features else ()


def _vector(
    dataset: Dataset, episode: Episode, stored: Mapping[str, NDArray[Any]], kind: str
) -> NDArray[Any]:
    """[length, D] in the order of modality.json's keys."""
    parts = []
    for key, part in _parts(dataset, kind).items():
        source = str(part.get("original_key", SOURCES[kind]))
        if source not in stored:
            raise DatasetError(f"{dataset.root}: {kind}.{key} is of column {source!r}, which does not exist")
        column = stored[source].reshape(len(stored[source]), -1)
        if part["end"] > column.shape[1]:
            raise DatasetError(
                f"{dataset.root}: {kind}.{key} ends at {part['end']}, {source} has"
                f" {column.shape[1]} dimensions"
            )
        parts.append(column[:, part["start"] : part["end"]])
    values = np.concatenate(parts, axis=1)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        frame, dimension = bad[0].tolist()
        raise DatasetError(
            f"{episode.data}, episode {episode.index}, frame {frame}: {kind}[{dimension}] is"
            f" {values[frame, dimension]}"
        )
    return values


def _instructions(
    dataset: Dataset, episode: Episode, stored: Mapping[str, NDArray[Any]], texts: dict[str, int]
) -> NDArray[np.int64]:
    """[length] numbers into `texts`, which grows."""
    annotation = dataset.modality.get("annotation", {}).get(INSTRUCTION, {})
    source = str(annotation.get("original_key", "task_index"))
    if source not in stored:
        raise DatasetError(f"{dataset.root}: {INSTRUCTION} is of column {source!r}, which does not exist")
    tasks = stored[source].astype(np.int64)
    unknown = [int(task) for task in np.unique(tasks) if int(task) not in dataset.tasks]
    if unknown:
        raise DatasetError(f"{episode.data}, episode {episode.index}: task {unknown[0]} has no instruction")
    known = {int(task): texts.setdefault(dataset.tasks[int(task)], len(texts)) for task in np.unique(tasks)}
    return np.array([known[int(task)] for task in tasks], dtype=np.int64)


def _layout(number: int, dataset: Dataset, episode: Episode) -> str | None:
    """A scene's name in the mixture; our generator numbers scenes for all its datasets alike."""
    layout = getattr(episode, "extra", {}).get("layout")
    if layout is None:
        return None
    return str(layout) if (dataset.root / GENERATED).exists() else f"{number}/{layout}"
