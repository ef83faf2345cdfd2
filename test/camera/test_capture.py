# SPDX-License-Identifier: Apache-2.0
"""The capture thread: opens again, invents nothing, counts what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from chefmate_driver.camera import capture
from chefmate_driver.camera.capture import CaptureState, CaptureThread
from chefmate_driver.camera.frame import (
    CameraEndedError,
    CameraError,
    CameraSettings,
    Capture,
    FrameSource,
    Image,
)


class Script(FrameSource):
    """A source that follows a list: numbers are stamps in periods, exceptions are raised by grab or open."""

    def __init__(self, *runs: list[float | Exception], patience: float = 0.0) -> None:
        super().__init__("script", CameraSettings(width=2, height=2, rate=100.0))
        self.runs, self.opened, self.retrieved = list(runs), 0, 0
        self.patience = patience
        self._now: list[float | Exception] = []
        self._start = time.time_ns()

    def open(self) -> None:
        self.opened += 1
        self._now = self.runs.pop(0) if self.runs else [CameraError("gone for good")]

    def grab(self) -> Capture:
        step = self._now.pop(0) if self._now else CameraError("pulled out")
        if isinstance(step, Exception):
            raise step
        time.sleep(0.002)
        return Capture(self._start + int(step * 1e7), int(step))

    def retrieve(self, out: Image) -> None:
        self.retrieved += 1
        out[:] = 7

    def close(self) -> None:
        self._now = []


class Run:
    """A capture thread and what came out of it."""

    def __init__(self, source: FrameSource, wanted: bool = True) -> None:
        self.frames: list[tuple[Capture, bool]] = []
        self.said: list[tuple[bool, str]] = []
        self.thread = CaptureThread(
            source,
            np.zeros((2, 2, 3), dtype=np.uint8),
            lambda: wanted,
            lambda frame, pixels: self.frames.append((frame, pixels)),
            lambda good, text: self.said.append((good, text)),
        )
        self.thread.start()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5.0
        while not condition():
            assert time.monotonic() < deadline, (self.thread.status(), self.said)
            time.sleep(0.002)
        self.thread.stop()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(capture, "LAST_RETRY", 0.02)
    monkeypatch.setattr(capture, "GRACE_RETRY", 0.01)


def test_a_lost_camera_is_opened_again_and_every_frame_is_the_sources_own() -> None:
    run = Run(Script([0, 1, 2, CameraError("pulled out")], [CameraError("still out")], [10, 11]))
    run.until(lambda: len(run.frames) == 5)
    assert [frame.sequence for frame, _ in run.frames] == [0, 1, 2, 10, 11]
    assert [good for good, _ in run.said[:4]] == [True, False, False, True]
    assert run.said[1][1] == "pulled out" and run.said[2][1] == "still out"
    assert run.thread.status().reconnects >= 1


def test_the_end_of_a_source_is_said_once_and_not_retried() -> None:
    source = Script([0, 1, CameraEndedError("no more")], [5, 6])
    run = Run(source)
    run.until(lambda: run.thread.status().state is CaptureState.ENDED)
    assert len(run.frames) == 2 and source.opened == 1
    assert run.said[-1] == (False, "no more")


def test_missing_frames_are_counted_from_the_stamps() -> None:
    run = Run(Script([0, 1, 2.2, 5, 5.9, 8]))
    run.until(lambda: len(run.frames) == 6)
    assert run.thread.status().lost == 3


def test_pixels_that_nobody_wants_are_not_retrieved() -> None:
    source = Script([0, 1, 2])
    run = Run(source, wanted=False)
    run.until(lambda: len(run.frames) == 3)
    assert source.retrieved == 0
    assert all(not pixels for _, pixels in run.frames)


def test_a_source_that_starts_beside_its_camera_gets_time_before_it_is_a_fault() -> None:
    late: list[list[float | Exception]] = [[CameraError("not yet")] for _ in range(3)]
    run = Run(Script(*late, [0, 1], patience=2.0))
    run.until(lambda: len(run.frames) == 2)
    assert run.said[0] == (True, "")
    assert run.thread.status().reconnects == 0
