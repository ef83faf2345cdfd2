# SPDX-License-Identifier: Apache-2.0
"""Videos of datasets through PyAV. Pictures are uint8 arrays [height, width, 3] in RGB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.lerobot_layout import DatasetError

__all__ = ["VideoFacts", "VideoWriter", "pictures", "probe"]

Picture = NDArray[np.uint8]
SMALL = 320 * 240  # pixels; up to here threads of a decoder cost more than they give
CODEC, PIXELS = "libx264", "yuv420p"  # what every decoder of datasets reads
# A key frame every second frame: cheap random access. One thread: the same pictures give the same file on
# machines with any number of cores.
OPTIONS = {"g": "2", "crf": "18", "preset": "veryfast", "threads": "1"}


@dataclass(frozen=True)
class VideoFacts:
    """What a file says about itself."""

    width: int  # pixels
    height: int  # pixels
    fps: float  # Hz
    stamps: tuple[float, ...]  # s, of every frame, ascending


class VideoWriter:
    """One file, frame by frame. A context manager; leaving it ends the file."""

    def __init__(self, file: Path, fps: float, width: int, height: int) -> None:
        """fps in Hz, size in pixels. Raises DatasetError: the size is odd, which the codec cannot hold."""
        import av

        if width % 2 or height % 2:
            raise DatasetError(f"{file}: pictures of {width}x{height}; width and height must be even")
        self._file, self._shape = file, (height, width, 3)
        self._frame = av.VideoFrame
        self._container: Any = av.open(str(file), "w")
        stream: Any = self._container.add_stream(CODEC, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS
        stream.options = dict(OPTIONS)
        self._stream = stream

    def add(self, picture: Picture) -> None:
        """Raises DatasetError: another size or type than the video's."""
        if picture.shape != self._shape or picture.dtype != np.uint8:
            raise DatasetError(
                f"{self._file}: a picture is {picture.dtype}{list(picture.shape)},"
                f" not uint8{list(self._shape)}"
            )
        frame = self._frame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Ends the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def probe(file: Path) -> VideoFacts:
    """Size, rate and stamps, without decoding. Raises DatasetError: missing, not a video."""
    import av

    try:
        with av.open(str(file)) as container:
            stream: Any = container.streams.video[0]
            base = float(stream.time_base or 0)
            stamps = sorted(
                float(packet.pts) * base for packet in container.demux(stream) if packet.pts is not None
            )
            size = stream.codec_context.width, stream.codec_context.height
            rate = float(stream.average_rate or 0)
    except FileNotFoundError:
        raise DatasetError(f"{file} is missing") from None
    except (OSError, ValueError, IndexError) as error:  # av's errors derive from OSError and ValueError
        raise DatasetError(f"{file} is not a video: {error}") from None
    return VideoFacts(*size, rate, tuple(stamps))


def pictures(file: Path, stamps: Sequence[float], tolerance: float) -> Iterator[Picture]:
    """Yields the pictures nearest to these ascending stamps (s in the file), in order, decoding forward.

    Raises DatasetError: missing, not a video, or no frame within `tolerance` s of a stamp, which it names.
    """
    import av
    from av.video.reformatter import VideoReformatter

    if not stamps:
        return
    try:
        with av.open(str(file)) as container:
            stream: Any = container.streams.video[0]
            base = float(stream.time_base or 0)
            if stream.codec_context.width * stream.codec_context.height > SMALL:
                stream.thread_type = "AUTO"
            else:
                stream.codec_context.thread_count = 1
            convert = VideoReformatter()  # made anew for each frame, it takes longer than the decoding
            container.seek(max(0, int((stamps[0] - tolerance) / base)), stream=stream)
            wanted = 0
            for frame in container.decode(stream):
                at = float(frame.pts or 0) * base
                picture: Any = None
                while wanted < len(stamps) and abs(at - stamps[wanted]) <= tolerance:
                    if picture is None:
                        picture = convert.reformat(frame, format="rgb24").to_ndarray()
                    yield picture
                    wanted += 1
                if wanted == len(stamps):
                    return
                if at > stamps[wanted] + tolerance:
                    break
    except FileNotFoundError:
        raise DatasetError(f"{file} is missing") from None
    except (OSError, ValueError, IndexError) as error:
        raise DatasetError(f"{file} cannot be decoded: {error}") from None
    raise DatasetError(f"{file} has no frame within {tolerance:g} s of {stamps[wanted]:.4f} s")
