# SPDX-License-Identifier: Apache-2.0
"""Finds what is wrong with a dataset, and names file, episode and frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.dataset import Dataset, Episode
from chefmate_policy.data.lerobot_layout import ACTION, STATE, STATS, DatasetError
from chefmate_policy.data.video import VideoFacts, probe

__all__ = ["Fault", "validate"]

Columns = dict[str, NDArray[Any]]
Limits = Mapping[str, tuple[float, float]]
STAMP_TOLERANCE = 1e-4  # s, LeRobot's default for frames against i / fps
RATE_TOLERANCE = 1e-3  # relative; containers round 1 / fps to their clock
STATISTICS_TOLERANCE = 1e-3  # of the dimension's span; float32 sums differ by less


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    file: Path
    message: str
    episode: int | None = None
    frame: int | None = None  # in the episode

    def __str__(self) -> str:
        places = [str(self.file)]
        places += [f"episode {self.episode}"] if self.episode is not None else []
        places += [f"frame {self.frame}"] if self.frame is not None else []
        return f"{', '.join(places)}: {self.message}"


def validate(dataset: Dataset, limits: Limits | None = None) -> list[Fault]:
    """All faults, each kind once per episode and file.

    limits: lowest and highest value by name of a dimension of state and action, in the dataset's units;
    names that have none are not checked.
    """
    faults: list[Fault] = []
    info_file = dataset.root / "meta/info.json"
    listed = [episode.index for episode in dataset.episodes]
    if listed != list(range(dataset.info.episodes)):
        faults.append(
            Fault(info_file, f"total_episodes is {dataset.info.episodes}, but the episodes are {listed[:20]}")
        )
    frames = sum(episode.length for episode in dataset.episodes)
    if frames != dataset.info.frames:
        faults.append(
            Fault(info_file, f"total_frames is {dataset.info.frames}, but the episodes have {frames}")
        )
    whole: list[Columns] = []
    probed: dict[Path, VideoFacts | DatasetError] = {}
    for episode in dataset.episodes:
        try:
            columns = dataset.columns(episode)
        except DatasetError as error:
            faults.append(Fault(episode.data, str(error), episode.index))
        else:
            faults += _columns(dataset, episode, columns, limits or {})
            whole.append(columns)
        faults += _videos(dataset, episode, probed)
    if len(whole) == len(dataset.episodes) and whole:
        faults += _statistics(dataset, whole)
    return faults


def _columns(dataset: Dataset, episode: Episode, columns: Columns, limits: Limits) -> Iterator[Fault]:
    def fault(message: str, frame: int | None = None) -> Fault:
        return Fault(episode.data, message, episode.index, frame)

    stamps = np.asarray(columns["timestamp"], dtype=np.float64)
    if len(stamps) != episode.length:
        yield fault(f"{len(stamps)} frames, but the episode's length is {episode.length}")
    back = np.flatnonzero(~(np.diff(stamps) > 0))
    off = np.flatnonzero(np.abs(stamps - np.arange(len(stamps)) / dataset.info.fps) > STAMP_TOLERANCE)
    if len(back):
        frame = int(back[0]) + 1
        yield fault(f"timestamp {stamps[frame]:g} s follows {stamps[frame - 1]:g} s: not ascending", frame)
    elif len(off):
        frame = int(off[0])
        wanted = frame / dataset.info.fps
        yield fault(
            f"timestamp {stamps[frame]:g} s; at {dataset.info.fps:g} Hz it must be {wanted:g} s", frame
        )
    counted = columns["frame_index"]
    wrong = np.flatnonzero(counted != np.arange(len(counted)))
    if len(wrong):
        yield fault(f"frame_index is {counted[wrong[0]]}", int(wrong[0]))
    strange = [int(task) for task in np.unique(columns["task_index"]) if int(task) not in dataset.tasks]
    if strange:
        yield fault(f"task_index {strange[0]} has no instruction")
    for name, values in columns.items():
        if not np.issubdtype(values.dtype, np.floating):
            continue
        rows = values.reshape(len(values), -1)
        for frame, joint in np.argwhere(~np.isfinite(rows))[:1]:
            yield fault(f"{name}[{joint}] is {rows[frame, joint]}", int(frame))
    for name in (STATE, ACTION):
        if name not in columns:
            continue
        for index, joint in enumerate(dataset.info.names(name)):
            low, high = limits.get(joint.removesuffix(".pos"), (-np.inf, np.inf))
            values = columns[name][:, index]
            beyond = np.flatnonzero((values < low) | (values > high))
            if len(beyond):
                value = values[beyond[0]]
                yield fault(f"{name} of {joint} is {value:g}, outside {low:g}..{high:g}", int(beyond[0]))


def _videos(
    dataset: Dataset, episode: Episode, probed: dict[Path, VideoFacts | DatasetError]
) -> Iterator[Fault]:
    for camera, clip in episode.videos.items():
        new = clip.file not in probed
        if new:
            try:
                probed[clip.file] = probe(clip.file)
            except DatasetError as error:
                probed[clip.file] = error
        facts = probed[clip.file]
        if isinstance(facts, DatasetError):
            message = "the video is missing" if not clip.file.exists() else str(facts)
            yield Fault(clip.file, message, episode.index)
            continue
        fps = dataset.info.fps
        if new and abs(facts.fps - fps) > RATE_TOLERANCE * fps:
            yield Fault(clip.file, f"{facts.fps:g} Hz; the dataset has {fps:g} Hz", episode.index)
        if new and (facts.width, facts.height) != dataset.info.size(camera):
            width, height = dataset.info.size(camera)
            yield Fault(
                clip.file, f"{facts.width}x{facts.height}; info.json has {width}x{height}", episode.index
            )
        half = 0.5 / fps
        end = np.inf if clip.end is None else clip.end - half
        count = sum(clip.start - half <= stamp < end for stamp in facts.stamps)
        if count != episode.length:
            frame = min(count, episode.length)
            message = f"{count} pictures for {episode.length} frames"
            yield Fault(clip.file, message, episode.index, frame)


def _statistics(dataset: Dataset, whole: list[Columns]) -> Iterator[Fault]:
    stored = dataset.stats
    for name in (STATE, ACTION):
        if stored is None or name not in whole[0]:
            continue
        if name not in stored:
            yield Fault(dataset.root / STATS, f"no statistics of {name}")
            continue
        values = np.concatenate([columns[name] for columns in whole])
        span = np.maximum(values.max(axis=0) - values.min(axis=0), 1e-6)
        found = {
            "min": values.min(axis=0),
            "max": values.max(axis=0),
            "mean": values.mean(axis=0),
            "std": values.std(axis=0),
        }
        for key, computed in found.items():
            told = np.asarray(stored[name].get(key, []), dtype=np.float64)
            if told.shape != computed.shape:
                yield Fault(
                    dataset.root / STATS, f"{key} of {name} has {told.size} values, not {computed.size}"
                )
                continue
            away = np.flatnonzero(~(np.abs(told - computed) <= STATISTICS_TOLERANCE * span))
            if len(away):
                joint = dataset.info.names(name)[away[0]]
                pair = f"{told[away[0]]:g}, but the frames give {computed[away[0]]:g}"
                yield Fault(dataset.root / STATS, f"{key} of {name}, {joint}, is {pair}")
