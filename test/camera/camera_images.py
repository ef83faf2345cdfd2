# SPDX-License-Identifier: Apache-2.0
"""Small inputs for camera tests."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 64, 48


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """An rgb image whose red says which one it is; its left half is green too."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = number
    image[:, : width // 2, 1] = 200
    return image


def write_folder(folder: Path, count: int) -> Path:
    """A folder with pictures 0, 10, 20, ..."""
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03d}.png"), cv2.cvtColor(picture(10 * number), cv2.COLOR_RGB2BGR))
    return folder


def write_video(path: Path, count: int) -> Path:
    """A lossless video of the same pictures."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 30.0, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for number in range(count):
        writer.write(cv2.cvtColor(picture(10 * number), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def many_frames(folder: Path, count: int, width: int = 640, height: int = 480) -> Path:
    """A folder of `count` names for one image: as many frames, no disk space."""
    folder.mkdir()
    first = folder / "0000.bmp"
    cv2.imwrite(str(first), picture(99, width, height))
    for number in range(1, count):
        os.link(first, folder / f"{number:04d}.bmp")
    return folder
