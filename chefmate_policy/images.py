# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image as numpy arrays.

rgb8, bgr8 and mono8 are views of our own; other encodings go through cv_bridge where a ROS 2 install has it
(it is missing from PyPI).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError

CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}


class ImageError(PolicyError):
    """An image message cannot be read."""


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image that are read."""

    height: int
    width: int
    encoding: str
    step: int
    data: bytes


def pixels(image: ImageMessage) -> NDArray[np.uint8]:
    """View of the pixels in their own encoding, without a copy.

    Returns:
        (height, width, 3) uint8 for rgb8 and bgr8, (height, width) for mono8. Rows may be padded (`step`).

    Raises:
        ImageError: another encoding, or sizes that contradict each other.
    """
    channels = CHANNELS.get(image.encoding)
    if channels is None:
        raise ImageError(
            f"image encoding {image.encoding!r} is not read; let the camera publish {', '.join(CHANNELS)}."
        )
    row = image.width * channels
    data = np.frombuffer(image.data, dtype=np.uint8)
    if image.step < row or data.size < image.step * image.height:
        raise ImageError(
            f"image of {image.width}x{image.height} {image.encoding} has step {image.step} and "
            f"{data.size} bytes; it needs a step of at least {row} and as many bytes as rows times step."
        )
    rows = data[: image.step * image.height].reshape(image.height, image.step)[:, :row]
    return rows if channels == 1 else rows.reshape(image.height, image.width, channels)


def image_to_rgb(image: ImageMessage) -> NDArray[np.uint8]:
    """Pixels as (height, width, 3) uint8 red, green, blue; a view where the message already is rgb8.

    Raises:
        ImageError: see `pixels`; for other encodings, that cv_bridge is missing or cannot convert them.
    """
    if image.encoding not in CHANNELS:
        return _converted(image)
    view = pixels(image)
    if image.encoding == "bgr8":
        return view[:, :, ::-1]
    if image.encoding == "mono8":
        return np.repeat(view[:, :, None], 3, axis=2)
    return view


def _converted(image: ImageMessage) -> NDArray[np.uint8]:
    """Pixels as RGB by cv_bridge, for encodings that have no view here (bayer, yuv, 16 bit)."""
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as missing:
        raise ImageError(
            f"image encoding {image.encoding!r} needs cv_bridge, which cannot be imported "
            f"({missing}); let the camera publish {', '.join(CHANNELS)}."
        ) from None
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(image, desired_encoding="rgb8"), dtype=np.uint8)
    except CvBridgeError as error:
        raise ImageError(f"image encoding {image.encoding!r} cannot be converted: {error}.") from None
