# SPDX-License-Identifier: Apache-2.0
"""Frozen features of pictures for the shortcut probe: colour grids, or a checkpoint's vision tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRID", "Features", "colour_grid", "colour_histogram", "pixel_features", "tower_features"]

GRID = 12  # cells along each side of a picture; 96 pixels make cells of 8
SHADES = 4  # of each colour in a histogram
WEIGHT = 4.0  # of the histogram, which makes a thing of 5 % of a picture count as much there as in the grid
TOWER_GRID = 4  # cells along each side of the tower's tokens
TOWER_PREFIX = "backbone.eagle_model.vision_model.vision_model."
TOWER_BATCH = 16  # pictures at a time


@dataclass(frozen=True)
class Features:
    """A function of pictures."""

    name: str
    of: Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # [n, cameras, height, width, 3] -> [n, D]


def colour_grid(images: NDArray[np.uint8], cells: int = GRID) -> NDArray[np.float32]:
    """[n, cameras, height, width, 3] -> [n, cameras * cells * cells * 3], mean levels 0..255 of each cell."""
    height, width = images.shape[2:4]
    rows, columns = (np.linspace(0, side, min(cells, side) + 1).astype(int) for side in (height, width))
    sums = np.add.reduceat(images.astype(np.float32), rows[:-1], axis=2)
    sums = np.add.reduceat(sums, columns[:-1], axis=3)
    areas = np.outer(np.diff(rows), np.diff(columns)).astype(np.float32)
    grid = (sums / areas[..., None]).reshape(len(images), -1).astype(np.float32)
    return grid


def colour_histogram(images: NDArray[np.uint8], shades: int = SHADES) -> NDArray[np.float32]:
    """[n, cameras, height, width, 3] -> [n, cameras * shades^3], root of each colour's share of pixels."""
    levels = images.astype(np.int64) * shades // 256
    colours = (levels[..., 0] * shades + levels[..., 1]) * shades + levels[..., 2]
    pixels = images.shape[2] * images.shape[3]
    counts = [np.bincount(view.ravel(), minlength=shades**3) for sample in colours for view in sample]
    roots: NDArray[np.float32] = np.sqrt(np.array(counts, np.float32) / pixels).reshape(len(images), -1)
    return roots


def pixel_features() -> Features:
    """Where which colours are, and how much of each. They need no checkpoint, and know no things."""

    def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.hstack((colour_grid(images) / np.float32(255), WEIGHT * colour_histogram(images)))

    name = f"pixels: colours of a {GRID}x{GRID} grid and a histogram of {SHADES}^3 colours, of each camera"
    return Features(name, features)


def tower_features(name: str | Path, device: str = "cpu") -> Features:
    """Tokens of a GR00T checkpoint's vision tower, averaged over a grid. name: folder or hub id.

    Raises GrootError: no checkpoint there, or a damaged one.
    """
    import torch

    from chefmate_policy.groot.backbone import SiglipTower
    from chefmate_policy.groot.checkpoint import open_checkpoint
    from chefmate_policy.groot.images import frames_to_tensor, pixel_values, resized

    checkpoint = open_checkpoint(name)
    vision = checkpoint.config.vision
    with torch.device("meta"):
        tower = SiglipTower(vision, pooling_head=False)
    state = {key: checkpoint.read(TOWER_PREFIX + key, device, torch.float32) for key in tower.state_dict()}
    tower.load_state_dict(state, assign=True)
    tower.eval()

    @torch.inference_mode()
    def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        side = vision.image_size // vision.patch_size
        found = []
        flat = images.reshape(-1, *images.shape[2:])
        for first in range(0, len(flat), TOWER_BATCH):
            frames = frames_to_tensor(list(flat[first : first + TOWER_BATCH]), device)
            tokens = tower(pixel_values(resized(frames, vision.image_size)))
            maps = tokens.transpose(1, 2).unflatten(2, (side, side))
            pooled = torch.nn.functional.adaptive_avg_pool2d(maps, min(TOWER_GRID, side))
            found.append(pooled.flatten(1).float().cpu().numpy())
        joined: NDArray[np.float32] = np.concatenate(found).reshape(len(images), -1)
        return joined

    return Features(
        f"vision tower of {name}, tokens averaged over a {TOWER_GRID}x{TOWER_GRID} grid", features
    )
