# SPDX-License-Identifier: Apache-2.0
"""Where frames come from: V4L2 devices, video files, folders of images, the kitchen twin."""

from __future__ import annotations

import os
import time
from pathlib import Path

# OpenCV waits 10 s for a silent V4L2 device unless told before it is first imported.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")

import cv2
import numpy as np

from chefmate_driver.camera.frame import (
    CameraEndedError,
    CameraError,
    CameraSettings,
    CameraSettingsError,
    Capture,
    FrameSource,
    Image,
    Pace,
)

BY_ID = Path("/dev/v4l/by-id")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm")
FORMS = "v4l2:DEVICE, file:VIDEO, folder:FOLDER or kitchen:NAME:CAMERA"


def make_source(text: str, settings: CameraSettings) -> FrameSource:
    """The source that text names (not yet open).

    text: `v4l2:/dev/v4l/by-id/...`, `v4l2:PART_OF_A_BY_ID_NAME` or `v4l2:INDEX`; `file:VIDEO`;
    `folder:FOLDER`; `kitchen:SHARED_MEMORY_NAME:CAMERA`. Raises CameraSettingsError for anything else.
    """
    kind, _, rest = text.partition(":")
    if rest:
        if kind == "v4l2":
            return V4l2Source(rest, settings)
        if kind == "file":
            return VideoFileSource(Path(rest).expanduser(), settings)
        if kind == "folder":
            return FolderSource(Path(rest).expanduser(), settings)
        if kind == "kitchen":
            shared_memory, _, camera = rest.rpartition(":")
            if shared_memory and camera:
                # Imported here: a real camera needs no MuJoCo.
                from chefmate_driver.kitchen.render import KitchenSource

                return KitchenSource(shared_memory, camera, settings)
    raise CameraSettingsError(f"camera source {text!r} is not understood: write {FORMS}.")


def v4l2_device(name: str) -> Path:
    """Path of the V4L2 device that name means.

    name: a path, an index (`0` is /dev/video0) or a part of a name in /dev/v4l/by-id, which stays the same
    when cables are plugged in another order. Raises CameraError with the devices that exist when there is
    none, or several.
    """
    if name.startswith("/"):
        path = Path(name)
    elif name.isdigit():
        path = Path(f"/dev/video{name}")
    else:
        found = sorted(BY_ID.glob(f"*{name}*-video-index0"))
        if len(found) > 1:
            raise CameraError(
                f"{name!r} fits several cameras: {', '.join(map(str, found))}. Give one of these paths."
            )
        path = found[0] if found else BY_ID / name
    if not path.exists():
        there = [str(p) for p in sorted(BY_ID.glob("*-video-index0")) or sorted(Path("/dev").glob("video*"))]
        found_text = f"there are {', '.join(there)}" if there else "no camera is plugged in"
        raise CameraError(f"camera {path} does not exist; {found_text}.")
    return path


class OpenCVSource(FrameSource):
    """What reads through a cv2.VideoCapture, once `open` has made it."""

    _capture: cv2.VideoCapture | None = None

    def retrieve(self, out: Image) -> None:
        ok, image = self._capture.retrieve() if self._capture is not None else (False, None)
        if not ok or image is None:
            raise CameraError(f"{self.name} gave a frame that cannot be decoded.")
        self.check_size(image)
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class V4l2Source(OpenCVSource):
    """A USB camera. Its stamps are the driver's capture times."""

    def __init__(self, device: str, settings: CameraSettings) -> None:
        super().__init__(f"v4l2:{device}", settings)
        self._device = device
        self._sequence = -1

    def open(self) -> None:
        path = v4l2_device(self._device)
        capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_V4L2)
        if not capture.isOpened():
            capture.release()
            raise CameraError(
                f"camera {path} cannot be opened: another program may use it (fuser {path}), "
                "or this user may not (add it to the group video)."
            )
        wanted = self.settings
        if wanted.fourcc:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*wanted.fourcc))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, wanted.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, wanted.height)
        capture.set(cv2.CAP_PROP_FPS, wanted.rate)
        # A queue of old images is worth nothing to a policy.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 2)
        self._capture = capture
        self.name = f"v4l2:{path}"

    def grab(self) -> Capture:
        if self._capture is None or not self._capture.grab():
            raise CameraError(f"{self.name} gave no frame for 1 s: check its cable.")
        self._sequence += 1
        now = time.time_ns()
        # The driver stamps buffers with the monotonic clock; OpenCV passes that on in ms.
        age = time.monotonic_ns() - int(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        return Capture(now - age if 0 <= age < 1_000_000_000 else now, self._sequence)


class VideoFileSource(OpenCVSource):
    """A video file, played at the settings' rate (not the file's). Stamps are the moments of playing."""

    def __init__(self, path: Path, settings: CameraSettings) -> None:
        super().__init__(f"file:{path}", settings)
        self._path = path
        self._sequence = -1
        self._pace = Pace(settings.rate, settings.phase)

    def open(self) -> None:
        if not self._path.is_file():
            raise CameraError(f"video file {self._path} does not exist.")
        self._capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self.close()
            raise CameraError(
                f"video file {self._path} cannot be read: OpenCV knows no codec for it, or it is damaged."
            )

    def grab(self) -> Capture:
        if self._capture is None:
            raise CameraError(f"{self.name} is not open.")
        self._pace.wait()
        if not self._path.exists():
            raise CameraError(f"video file {self._path} was deleted.")
        if not self._capture.grab():
            if not self.settings.loop:
                raise CameraEndedError(f"{self.name} has ended (parameter loop is false).")
            self.close()
            self.open()
            if not self._capture.grab():
                raise CameraError(f"{self.name} holds no frame.")
        self._sequence += 1
        return Capture(time.time_ns(), self._sequence)


class FolderSource(FrameSource):
    """The images of a folder in the order of their names, at the settings' rate. Stamps are the moments of
    reading.
    """

    def __init__(self, path: Path, settings: CameraSettings) -> None:
        super().__init__(f"folder:{path}", settings)
        self._path = path
        self._files: list[Path] = []
        self._next = 0
        self._sequence = -1
        self._pace = Pace(settings.rate, settings.phase)

    def open(self) -> None:
        if not self._path.is_dir():
            raise CameraError(f"image folder {self._path} does not exist.")
        self._files = sorted(p for p in self._path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not self._files:
            raise CameraError(f"image folder {self._path} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        self._next = 0

    def grab(self) -> Capture:
        if self._next >= len(self._files):
            if not self.settings.loop:
                raise CameraEndedError(
                    f"{self.name} has ended after {len(self._files)} images (parameter loop is false)."
                )
            self._next = 0
        self._pace.wait()
        path = self._files[self._next]
        if not path.is_file():
            raise CameraError(f"image {path} was deleted.")
        self._next += 1
        self._sequence += 1
        return Capture(time.time_ns(), self._sequence)

    def retrieve(self, out: Image) -> None:
        path = self._files[self._next - 1]
        try:
            image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
        except (OSError, cv2.error) as error:
            raise CameraError(f"image {path} cannot be read: {error}.") from error
        if image is None:
            raise CameraError(f"image {path} is not an image that OpenCV can read.")
        self.check_size(np.asarray(image, dtype=np.uint8))
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)

    def close(self) -> None:
        self._files = []
