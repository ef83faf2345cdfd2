# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image as arrays."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import pytest

from chefmate_policy.images import ImageError, image_to_rgb, pixels


@dataclass
class Message:
    height: int
    width: int
    encoding: str
    step: int
    data: bytes


COLOURS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def test_rgb8_is_a_view_and_bgr8_is_turned() -> None:
    message = Message(2, 3, "rgb8", 9, COLOURS.tobytes())
    assert np.array_equal(image_to_rgb(message), COLOURS)
    assert not pixels(message).flags.owndata
    turned = Message(2, 3, "bgr8", 9, COLOURS[:, :, ::-1].tobytes())
    assert np.array_equal(image_to_rgb(turned), COLOURS)


def test_mono8_becomes_grey() -> None:
    grey = COLOURS[:, :, 0]
    message = Message(2, 3, "mono8", 3, grey.tobytes())
    assert np.array_equal(pixels(message), grey)
    assert np.array_equal(image_to_rgb(message), np.stack([grey] * 3, axis=2))


def test_padded_rows_are_honoured() -> None:
    padded = np.full((2, 12), 255, dtype=np.uint8)
    padded[:, :9] = COLOURS.reshape(2, 9)
    assert np.array_equal(image_to_rgb(Message(2, 3, "rgb8", 12, padded.tobytes())), COLOURS)


@pytest.mark.parametrize("encoding", ["16UC1", "yuv422", "bayer_rggb8", ""])
def test_other_encodings_are_refused_by_name(encoding: str) -> None:
    with pytest.raises(ImageError, match=f"'{encoding}'.*rgb8, bgr8, mono8"):
        pixels(Message(2, 3, encoding, 9, COLOURS.tobytes()))


@pytest.mark.parametrize(("step", "size"), [(8, 18), (9, 17), (12, 18)])
def test_contradicting_sizes_are_refused(step: int, size: int) -> None:
    with pytest.raises(ImageError, match="has step"):
        pixels(Message(2, 3, "rgb8", step, bytes(size)))


def test_other_encodings_name_cv_bridge_where_it_is_missing() -> None:
    if importlib.util.find_spec("cv_bridge"):
        pytest.skip("cv_bridge is installed, so these encodings are read")
    with pytest.raises(ImageError, match=r"bayer_rggb8.*cv_bridge"):
        image_to_rgb(Message(2, 3, "bayer_rggb8", 3, bytes(6)))
