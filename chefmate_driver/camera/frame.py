# SPDX-License-Identifier: Apache-2.0
"""What a camera source is: grab a moment, retrieve its pixels."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.errors import DriverError

Image = NDArray[np.uint8]


class CameraError(DriverError):
    """A source cannot be opened, or gave no usable frame. Opening it again may help."""


class CameraEndedError(CameraError):
    """A source has no more frames and will never have: the last image of a folder, the end of a video."""


class CameraSettingsError(DriverError):
    """A parameter of a camera is wrong; trying again does not help."""


@dataclass(frozen=True)
class CameraSettings:
    """What is asked of a source.

    width, height: pixels. rate: Hz. loop: begin again at the end of a video or folder. phase: share of a
    period, 0..1, by which paced sources are shifted on the wall clock, so that two of them do not work at
    the same time. fourcc: pixel format asked of a V4L2 device ("" = the driver's choice). image_rate: Hz,
    frames whose pixels are wanted, at most; 0: all.
    """

    width: int = 640
    height: int = 480
    rate: float = 30.0
    loop: bool = False
    phase: float = 0.0
    fourcc: str = "MJPG"
    image_rate: float = 0.0

    @property
    def picture_period(self) -> float:
        """s from one frame whose pixels are wanted to the next, at least."""
        return 1.0 / (min(self.image_rate, self.rate) or self.rate)


@dataclass(frozen=True)
class Capture:
    """One moment of a camera. stamp: wall time of the capture, ns since 1970. sequence: from 0, one more per
    frame.
    """

    stamp: int
    sequence: int


@dataclass(frozen=True)
class Frame:
    """One image. image: (height, width, 3) uint8, red green blue. stamp, sequence: as in `Capture`."""

    image: Image
    stamp: int
    sequence: int


class FrameSource(ABC):
    """A camera. All methods are called from one thread (a renderer's graphics context belongs to a thread).

    Grabbing and retrieving are apart, as in V4L2, so that a frame that nobody looks at costs no decoding or
    rendering.
    """

    patience = 0.0  # s after the start during which it is no fault that the source is not there yet

    def __init__(self, name: str, settings: CameraSettings) -> None:
        self.name = name
        self.settings = settings

    @abstractmethod
    def open(self) -> None:
        """Opens the device. Raises CameraError when it is not there; may be called again after `close`."""

    @abstractmethod
    def grab(self) -> Capture:
        """Waits for the next frame and returns its stamp. Raises CameraError when none comes,
        CameraEndedError at the end.
        """

    @abstractmethod
    def retrieve(self, out: Image) -> None:
        """Writes the pixels of the grabbed frame into out, (height, width, 3) uint8 rgb. Raises
        CameraError.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees the device. Harmless when it is not open."""

    def field_of_view(self) -> float | None:
        """Vertical field of view in degrees where the source knows it (open sources only), else None."""
        return None

    def read(self) -> Frame:
        """Grabs and retrieves the next frame into a new array."""
        capture = self.grab()
        image = np.empty((self.settings.height, self.settings.width, 3), dtype=np.uint8)
        self.retrieve(image)
        return Frame(image, capture.stamp, capture.sequence)

    def check_size(self, image: Image) -> None:
        """Raises CameraError unless image has the size that the settings promise: nothing is scaled in
        silence.
        """
        height, width = image.shape[:2]
        if (width, height) != (self.settings.width, self.settings.height):
            raise CameraError(
                f"{self.name} gives {width}x{height}, the parameters width and height say "
                f"{self.settings.width}x{self.settings.height}: set them to the camera's size."
            )


class Pace:
    """Waits for the next place on a grid of the wall clock: k / rate + phase / rate. Missed places are left
    out.
    """

    def __init__(self, rate: float, phase: float = 0.0) -> None:
        self._period = 1e9 / rate
        self._offset = phase * self._period
        self._last: int | None = None

    def wait(self) -> int:
        """Sleeps until the next place. Returns the number of places left out since the last call."""
        now = time.time_ns()
        place = int((now - self._offset) // self._period) + 1
        # Woken early: the last place is done. Further back, somebody has set the clock back.
        if self._last is not None and self._last - 1 <= place <= self._last:
            place = self._last + 1
        missed = 0
        if self._last is not None and place > self._last + 1:
            # One place behind: go at once instead of dropping it, the grid catches up by itself.
            place -= 1
            missed = place - self._last - 1
        delay = place * self._period + self._offset - time.time_ns()
        if delay > 0:
            time.sleep(delay * 1e-9)
        self._last = place
        return missed
