# SPDX-License-Identifier: Apache-2.0
"""Camera frames to the vision tower's input, in torch, on whatever device the frames are on.

The reference's pipeline in evaluation: uint8 / 255, centre crop to 0.95 of each side, bilinear resize with
antialiasing to a square (the aspect ratio is lost), truncation to uint8, then (x - 127.5) / 127.5. The
truncation is kept: without it most values move by half a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from chefmate_policy.groot.errors import InputError

__all__ = ["CROP", "crop_size", "frames_to_tensor", "pixel_values", "resized"]

CROP = 0.95  # share of each side that is kept, as the published checkpoints were trained


def frames_to_tensor(frames: Sequence[NDArray[np.uint8]], device: torch.device | str = "cpu") -> Tensor:
    """Frames (H, W, 3) uint8 RGB, one per camera and all of one size -> [V, 3, H, W] uint8 on `device`.

    One copy of each frame, which frames in reversed channel order (views of bgr8) need anyway. Raises
    InputError naming the frame that is no picture or differs in size.
    """
    for index, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise InputError(
                f"frame {index} is {frame.dtype} {frame.shape}, expected uint8 (height, width, 3)"
            )
        if frame.shape != frames[0].shape:
            raise InputError(
                f"frame {index} is {frame.shape[1]}x{frame.shape[0]}, frame 0 is"
                f" {frames[0].shape[1]}x{frames[0].shape[0]}; all cameras need one resolution"
            )
    stacked = torch.from_numpy(np.stack(frames))
    return stacked.to(device).permute(0, 3, 1, 2)


def crop_size(height: int, width: int, crop: float = CROP) -> tuple[int, int]:
    """Rows and columns that remain: 480x640 -> 456x608."""
    return int(height * crop), int(width * crop)


def resized(frames: Tensor, size: int, crop: float = CROP, corner: tuple[int, int] | None = None) -> Tensor:
    """frames [N, 3, H, W] uint8 -> [N, 3, size, size] float32 in [0, 1].

    corner: first row and column of the crop, for training's random crops; None: the centre.
    """
    height, width = frames.shape[-2:]
    rows, columns = crop_size(height, width, crop)
    centre = (round((height - rows) / 2), round((width - columns) / 2))  # half to even, as the reference
    top, left = centre if corner is None else corner
    if not (0 <= top <= height - rows and 0 <= left <= width - columns):
        raise InputError(
            f"a crop of {rows}x{columns} at row {top}, column {left} leaves the {height}x{width} frame"
        )
    cropped = frames[..., top : top + rows, left : left + columns].contiguous().to(torch.float32).div_(255.0)
    if cropped.shape[-2:] == (size, size):
        return cropped
    return F.interpolate(cropped, (size, size), mode="bilinear", antialias=True, align_corners=False)


def pixel_values(images: Tensor) -> Tensor:
    """images [N, 3, S, S] float32 in [0, 1] -> [N, 3, S, S] float32 in [-1, 1], in 255 steps."""
    levels = (images * 255.0).clamp_(0.0, 255.0).to(torch.uint8)
    return (levels.to(torch.float32) - 127.5) / 127.5
