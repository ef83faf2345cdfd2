# SPDX-License-Identifier: Apache-2.0
"""The thread that takes frames from a source, opens it again when it fails, and keeps the figures."""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from chefmate_driver.camera.frame import CameraEndedError, CameraError, Capture, FrameSource, Image

FIRST_RETRY = 0.5  # s
LAST_RETRY = 5.0  # s, a cable plugged in again is found within this time
GRACE_RETRY = 0.1  # s
RATE_WINDOW = 2.0  # s


class CaptureState(enum.Enum):
    """What the capture thread does."""

    STOPPED = "stopped"
    OPENING = "opening"
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"
    ENDED = "ended"


@dataclass(frozen=True)
class CaptureStatus:
    """Figures of a capture thread.

    rate: Hz over the last 2 s. age: s since the newest stamp, None before the first. frames: since start.
    lost: frames missing between two stamps. rendered: frames whose pixels somebody wanted. reconnects:
    openings after a failure. reason: why there are no frames, empty while there are.
    """

    state: CaptureState
    reason: str
    rate: float
    age: float | None
    frames: int
    rendered: int
    lost: int
    reconnects: int


class CaptureThread:
    """Runs one source until stopped. Never hands out a frame that the source did not give.

    source: not open yet; it is used by this thread alone. buffer: (height, width, 3) uint8, where pixels are
    written. wanted: called before each frame; False: only the stamp is needed. deliver: called with each
    capture and whether buffer holds its pixels. grabbed: called with each capture before its pixels are
    there, which may take a while. say: called with each change for the worse (False) or the
    better (True).
    """

    def __init__(
        self,
        source: FrameSource,
        buffer: Image,
        wanted: Callable[[], bool],
        deliver: Callable[[Capture, bool], None],
        say: Callable[[bool, str], None],
        grabbed: Callable[[Capture], None] = lambda capture: None,
    ) -> None:
        self._source = source
        self._buffer = buffer
        self._wanted = wanted
        self._deliver = deliver
        self._say = say
        self._grabbed = grabbed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._lock = threading.Lock()
        self._state = CaptureState.STOPPED
        self._reason = ""
        self._stamps: deque[int] = deque()
        self._last: int | None = None
        self._frames = self._rendered = self._lost = self._reconnects = 0

    def start(self) -> None:
        """Starts the thread. A thread runs once."""
        self._state = CaptureState.OPENING
        self._thread.start()

    def stop(self, timeout: float = 3.0) -> None:
        """Stops the thread and waits for it, at most timeout (s): a silent V4L2 device blocks for 1 s."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def status(self) -> CaptureStatus:
        """The figures now. May be called from any thread."""
        now = time.time_ns()
        with self._lock:
            while self._stamps and now - self._stamps[0] > RATE_WINDOW * 1e9:
                self._stamps.popleft()
            span = (self._stamps[-1] - self._stamps[0]) * 1e-9 if len(self._stamps) > 1 else 0.0
            return CaptureStatus(
                state=self._state,
                reason=self._reason,
                rate=(len(self._stamps) - 1) / span if span > 0 else 0.0,
                age=None if self._last is None else (now - self._last) * 1e-9,
                frames=self._frames,
                rendered=self._rendered,
                lost=self._lost,
                reconnects=self._reconnects,
            )

    def _run(self) -> None:
        retry = FIRST_RETRY
        patient_until = time.monotonic() + self._source.patience
        while not self._stop.is_set():
            try:
                self._source.open()
                self._stream()
            except CameraEndedError as end:
                self._change(CaptureState.ENDED, str(end))
                break
            except CameraError as error:
                if self._state is CaptureState.OPENING and time.monotonic() < patient_until:
                    self._stop.wait(GRACE_RETRY)
                    continue
                if self._state is CaptureState.STREAMING:
                    retry = FIRST_RETRY
                self._change(CaptureState.RECONNECTING, str(error))
            except Exception as error:
                # A fault of ours, not of the camera: the diagnostics say so, and the trace goes to the log.
                self._change(CaptureState.ENDED, f"{self._source.name} failed: {error!r}")
                raise
            finally:
                self._source.close()
            self._stop.wait(retry)
            retry = min(2.0 * retry, LAST_RETRY)
        if self._state is not CaptureState.ENDED:
            self._state = CaptureState.STOPPED

    def _stream(self) -> None:
        """Frames until the source fails or the thread is stopped."""
        before: int | None = None
        while not self._stop.is_set():
            capture = self._source.grab()
            self._grabbed(capture)
            pixels = self._wanted()
            if pixels:
                self._source.retrieve(self._buffer)
            with self._lock:
                self._frames += 1
                self._rendered += pixels
                self._stamps.append(capture.stamp)
                self._last = capture.stamp
                if before is not None:
                    periods = (capture.stamp - before) * 1e-9 * self._source.settings.rate
                    # Half a period of jitter is no loss; a rate a little below the asked one is none either.
                    self._lost += max(0, round(periods) - 1)
            before = capture.stamp
            if self._state is not CaptureState.STREAMING:
                if self._state is CaptureState.RECONNECTING:
                    self._reconnects += 1
                self._change(CaptureState.STREAMING, "")
            self._deliver(capture, pixels)

    def _change(self, state: CaptureState, reason: str) -> None:
        new = state is not self._state or reason != self._reason
        with self._lock:
            self._state, self._reason = state, reason
        if new:
            self._say(state is CaptureState.STREAMING, reason)
