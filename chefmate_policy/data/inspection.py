# SPDX-License-Identifier: Apache-2.0
"""What is in a dataset: lengths, instructions, joint ranges, idle heads and tails; text and one picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.dataset import Dataset
from chefmate_policy.data.lerobot_layout import STATE, DatasetError

__all__ = ["IDLE_SHARE", "Summary", "draw", "idle_ends", "summarise"]

IDLE_SHARE = 0.01  # of a joint's range in the dataset; below it an arm counts as still
SHOWN_CAMERAS = 4


@dataclass(frozen=True)
class Summary:
    """Contents of a dataset; lengths and idle ends in frames, ranges in the dataset's units."""

    version: str
    fps: float  # Hz
    robot: str | None
    cameras: dict[str, tuple[int, int]]  # width, height, pixels
    lengths: list[int]
    instructions: dict[str, int]  # episodes of each
    ranges: dict[str, tuple[float, float]]  # lowest and highest state of each joint
    idle_heads: list[int]
    idle_tails: list[int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def idle_ends(states: NDArray[Any], spans: NDArray[Any]) -> tuple[int, int]:
    """Frames at the start and at the end of [frames, joints] in which no joint is more than IDLE_SHARE of its
    span away from its first or last value, beyond that one frame. An episode without motion is all head."""
    near = IDLE_SHARE * spans
    moved = np.flatnonzero((np.abs(states - states[0]) > near).any(axis=1))
    if not len(moved):
        return len(states), 0
    moving = np.flatnonzero((np.abs(states - states[-1]) > near).any(axis=1))
    return int(moved[0]) - 1, len(states) - 2 - int(moving[-1])


def summarise(dataset: Dataset) -> Summary:
    """Reads all columns, no video. Raises DatasetError: a file is damaged, or there are no states."""
    if STATE not in dataset.info.features or not dataset.episodes:
        raise DatasetError(f"{dataset.root} has no {STATE} or no episode")
    states = [dataset.columns(episode)[STATE] for episode in dataset.episodes]
    low, high = (
        np.min([s.min(axis=0) for s in states], axis=0),
        np.max([s.max(axis=0) for s in states], axis=0),
    )
    ends = [idle_ends(part, high - low) for part in states]
    return Summary(
        version=dataset.info.version,
        fps=dataset.info.fps,
        robot=dataset.info.robot,
        cameras={camera: dataset.info.size(camera) for camera in dataset.info.cameras},
        lengths=[len(part) for part in states],
        instructions=dict(Counter(text for episode in dataset.episodes for text in episode.instructions)),
        ranges={
            joint: (float(least), float(most))
            for joint, least, most in zip(dataset.info.names(STATE), low, high, strict=True)
        },
        idle_heads=[head for head, _ in ends],
        idle_tails=[tail for _, tail in ends],
    )


def draw(dataset: Dataset, summary: Summary, file: Path) -> None:
    """Writes one picture of it all. Raises DatasetError: a video is damaged, the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    figure.suptitle(
        f"{dataset.root.name}: {summary.version}, {len(summary.lengths)} episodes, {summary.fps:g} Hz"
    )
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, 2))
    charts, shots = parts
    (lengths, words), (ranges, idle) = charts.subplots(2, 2)
    lengths.hist(np.array(summary.lengths) / summary.fps, bins=20)
    lengths.set(title="lengths", xlabel="s", ylabel="episodes")
    texts = list(summary.instructions)[::-1]
    words.barh([text[:40] for text in texts], [summary.instructions[text] for text in texts])
    words.set(title="instructions", xlabel="episodes")
    joints = list(summary.ranges)
    low, high = np.array(list(summary.ranges.values())).T
    ranges.barh(joints, high - low, left=low)
    ranges.set(title="joint ranges (states)", xlabel="dataset's units")
    index = np.arange(len(summary.lengths))
    idle.bar(index, np.array(summary.idle_heads) / summary.fps, label="head")
    idle.bar(index, -np.array(summary.idle_tails) / summary.fps, label="tail, downwards")
    idle.set(title=f"idle: joints within {IDLE_SHARE:.0%} of their range", xlabel="episode", ylabel="s")
    idle.legend()
    cameras = dataset.info.cameras[:SHOWN_CAMERAS]
    if cameras:
        episode = dataset.episodes[0]
        frames = sorted({0, episode.length // 2, episode.length - 1})
        cells = shots.subplots(len(cameras), len(frames), squeeze=False)
        for row, camera in zip(cells, cameras, strict=True):
            pictures = dataset.pictures(episode, camera, frames)
            for cell, frame, picture in zip(row, frames, pictures, strict=True):
                cell.imshow(picture)
                cell.set_title(
                    f"{camera.rsplit('.', 1)[-1]}, episode {episode.index}, frame {frame}", fontsize=8
                )
                cell.axis("off")
    try:
        figure.savefig(file, dpi=100)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be written: {error}") from None
