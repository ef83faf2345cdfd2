# SPDX-License-Identifier: Apache-2.0
"""Tiny datasets of drawn scenes: coloured squares on a table, and an arm that goes to one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from chefmate_policy.data.writing import DatasetWriter

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
SIDE, SQUARE = 32, 6  # pixels
COLOURS = {"cheese": (240, 210, 40), "bread": (150, 80, 30)}
PLACES = [(2, 2), (2, 21), (21, 2), (21, 21)]  # top left corners, pixels
JITTER = 4  # pixels to the right and down


def places(random: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Top left corners of as many squares that do not touch."""
    corners = random.permutation(PLACES)[:count] + random.integers(JITTER + 1, size=(count, 2))
    return [(int(row), int(column)) for row, column in corners]


def scene(things: Mapping[str, tuple[int, int]], light: int = 0) -> np.ndarray:
    """[SIDE, SIDE, 3] uint8 without the arm."""
    picture = np.full((SIDE, SIDE, 3), 90 + light, np.uint8)
    for name, (row, column) in things.items():
        picture[row : row + SQUARE, column : column + SQUARE] = COLOURS[name]
    return picture


def demonstration(
    things: Mapping[str, tuple[int, int]], target: str, length: int, still: int, light: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """States [length, 6] and pictures: `still` frames of rest, then a white arm on its way to the target."""
    share = np.clip((np.arange(length) - still + 1) / (length - still), 0, 1)
    row, column = things[target]
    states = np.outer(share, [row - 16, column - 16, 3, 2, 1, 10]).astype(np.float32)
    pictures = []
    for part in share:
        picture = scene(things, light)
        at = np.round(np.array([14, 14]) + part * (np.array([row, column]) - 14)).astype(int)
        picture[at[0] : at[0] + 4, at[1] : at[1] + 4] = 255
        pictures.append(picture)
    return states, np.stack(pictures)


def write_dataset(
    root: Path,
    episodes: Sequence[tuple[str, np.ndarray, np.ndarray]],
    extra: Sequence[Mapping[str, object]] | None = None,
    version: str = "v2.1",
) -> Path:
    """(instruction, states, pictures) of each episode; `extra`: more keys of their rows in episodes.jsonl."""
    with DatasetWriter(
        root, fps=10, joints=JOINTS, cameras={"scene": (SIDE, SIDE)}, version=version
    ) as dataset:
        for text, states, pictures in episodes:
            dataset.add_episode(text, states, states + 1, {"scene": pictures})
    if extra is not None:
        file = root / "meta/episodes.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text(
            "".join(json.dumps({**row, **more}) + "\n" for row, more in zip(rows, extra, strict=True))
        )
    return root
