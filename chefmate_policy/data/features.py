# SPDX-License-Identifier: Apache-2.0
"""Frozen features of pictures for the shortcut probe: colour grids, or a checkpoint's vision tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GRID",
    "Features",
    "colour_grid",
    "colour_histogram",
    "hue_histogram",
    "pixel_features",
    "tower_features",
]

GRID = 12  # cells along each side of a picture; 96 pixels make cells of 8
SHADES, HUES = 6, 24  # of each primary colour and of the colour wheel, in histograms
COLOURED = 0.3  # of full scale between highest and lowest primary, above which a pixel has a hue
TOWER_GRID = 4  # cells along each side of the tower's tokens
TOWER_PREFIX = "backbone.eagle_model.vision_model.vision_model."
TOWER_BATCH = 16  # pictures at a time


@dataclass(frozen=True)
class Features:
    """Views of pictures: arrays [n, D], each of which the probe tries by itself."""

    name: str
    of: Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]  # of [n, cameras, height, width, 3]


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
    return _root_shares(colours, shades**3)


def hue_histogram(images: NDArray[np.uint8], hues: int = HUES) -> NDArray[np.float32]:
    """[n, cameras, height, width, 3] -> [n, cameras * (hues + 1)], the same of hues, and of no hue."""
    red, green, blue = np.moveaxis(images.astype(np.float32), -1, 0)
    highest, spread = images.max(axis=-1), np.ptp(images, axis=-1).astype(np.float32)
    safe = np.maximum(spread, 1)
    sixths = np.select(
        [highest == red, highest == green],
        [((green - blue) / safe) % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    places = np.minimum((sixths / 6 * hues).astype(np.int64), hues - 1)
    return _root_shares(np.where(spread > COLOURED * 255, places, hues), hues + 1)


def _root_shares(places: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """[n, cameras, height, width] of 0..count-1 -> [n, cameras * count], roots of their shares of the pixels:
    distances between these (Hellinger's) do not drown small things in large ones."""
    counts = [np.bincount(view.ravel(), minlength=count) for sample in places for view in sample]
    shares = np.array(counts, np.float32) / np.float32(places[0, 0].size)
    return np.sqrt(shares).reshape(len(places), -1).astype(np.float32)


def pixel_features() -> Features:
    """Where which colours are, and how much of each. They need no checkpoint, and know no things."""

    def features(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [colour_grid(images), np.hstack((colour_histogram(images), hue_histogram(images)))]

    return Features(
        f"pixels of each camera: colours of a {GRID}x{GRID} grid; histograms of {SHADES}^3 colours and"
        f" {HUES} hues",
        features,
    )


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
    def features(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        side = vision.image_size // vision.patch_size
        found = []
        flat = images.reshape(-1, *images.shape[2:])
        for first in range(0, len(flat), TOWER_BATCH):
            frames = frames_to_tensor(list(flat[first : first + TOWER_BATCH]), device)
            tokens = tower(pixel_values(resized(frames, vision.image_size)))
            maps = tokens.transpose(1, 2).unflatten(2, (side, side))
            pooled = torch.nn.functional.adaptive_avg_pool2d(maps, min(TOWER_GRID, side))
            found.append(pooled.flatten(1).float().cpu().numpy())
        return [np.concatenate(found).reshape(len(images), -1)]

    return Features(
        f"vision tower of {name}, tokens averaged over a {TOWER_GRID}x{TOWER_GRID} grid", features
    )
