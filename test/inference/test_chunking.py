# SPDX-License-Identifier: Apache-2.0
"""How one chunk follows another: modes, measured lead, and what a backend is told of the running chunk."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chefmate_policy.inference.backend import (
    BackendError,
    BackendSettings,
    CameraFrame,
    Chunk,
    Observation,
    Planned,
    create_backend,
)
from chefmate_policy.inference.chunking import Chunking, Mode, mode_of
from chefmate_policy.inference.chunks import ChunkTimeline

sys.path.insert(0, str(Path(__file__).resolve().parent))
from small_checkpoint import JOINTS, write_small_checkpoint

ABLE, PLAIN = SimpleNamespace(goes_on=True), SimpleNamespace()
TIMES = np.linspace(0.0, 1.0, 11)


def ramp(origin: float, slope: float = 1.0, start: float = 0.0) -> Chunk:
    """One joint from `start` at `slope` rad/s, for 1 s."""
    return Chunk(origin, TIMES, (start + slope * TIMES)[:, None], velocities=np.full((11, 1), slope))


def moving(waits: bool = False) -> ChunkTimeline:
    timeline = ChunkTimeline(0.5, 0.1, waits=waits)
    timeline.accept(ramp(100.0), now=100.0)
    return timeline


def test_auto_leads_a_backend_that_can_and_switches_for_others() -> None:
    assert mode_of("auto", ABLE) is Mode.RTC and mode_of("auto", PLAIN) is Mode.SWITCH
    assert mode_of("rtc_hard", ABLE) is Mode.RTC_HARD and mode_of("sync", PLAIN) is Mode.SYNC
    with pytest.raises(BackendError, match="chunking is rtc, which this backend cannot do"):
        mode_of("rtc", PLAIN)
    with pytest.raises(BackendError, match="chunking is 'rtx'; use one of auto, switch, sync"):
        mode_of("rtx", ABLE)


def test_the_lead_is_the_slowest_recent_inference_and_the_margin_but_no_less_than_the_parameter() -> None:
    timeline = ChunkTimeline(0.5, lead=0.1, refill_margin=0.03, remembered=3)
    assert timeline.lead == 0.1
    for delay in (0.05, 0.2, 0.06, 0.02):
        timeline.measured(delay)
    assert timeline.delay == 0.2 and timeline.lead == pytest.approx(0.23)
    timeline.measured(0.02)
    assert timeline.lead == pytest.approx(0.1)


def test_a_blended_chunk_goes_from_the_old_one_to_the_new_one() -> None:
    timeline = moving()
    chunk = Chunking(Mode.BLEND, 0.4).joined(ramp(100.2, slope=-1.0, start=1.0), timeline, now=100.4)
    old, new = (100.2 + TIMES) - 100.0, 1.0 - TIMES
    np.testing.assert_allclose(chunk.positions[:3, 0], old[:3])  # due before the takeover at 100.4
    np.testing.assert_allclose(chunk.positions[4, 0], 0.5 * (old[4] + new[4]))
    np.testing.assert_allclose(chunk.positions[6:, 0], new[6:])
    assert chunk.velocities is None
    assert Chunking(Mode.SWITCH, 0.4).joined(chunk, timeline, now=100.4) is chunk


def test_nothing_is_blended_while_nothing_runs() -> None:
    chunk = ramp(105.0)
    assert Chunking(Mode.BLEND, 0.4).joined(chunk, moving(), now=105.0) is chunk


def test_a_synchronous_chunk_starts_on_arrival_ends_with_the_horizon_and_is_awaited_at_rest() -> None:
    timeline = moving(waits=True)
    chunk = Chunking(Mode.SYNC).joined(ramp(99.0), timeline, now=101.3)
    assert chunk.origin == 101.3 and chunk.times[-1] == pytest.approx(0.5)
    timeline.accept(chunk, 101.3)
    assert not timeline.due(101.79, slack=0.05) and timeline.due(101.81)


def test_a_backend_is_told_what_the_arm_goes_on_to_do() -> None:
    timeline = moving()
    timeline.accept(ramp(100.5, slope=-1.0, start=0.5), now=100.45)
    planned = Chunking(Mode.RTC).planned(timeline, since=100.3, start=100.7)
    assert planned is not None and planned.frozen_until == 100.7 and not planned.hard
    at = planned.positions_at(np.array([100.3, 100.45, 100.6, 101.5]))[:, 0]
    np.testing.assert_allclose(at, [0.3, 0.45, 0.4, -0.5], atol=1e-9)
    assert Chunking(Mode.RTC_HARD).planned(timeline, 100.3, 100.7).hard  # type: ignore[union-attr]
    assert Chunking(Mode.BLEND).planned(timeline, 100.3, 100.7) is None
    timeline.flush()
    assert Chunking(Mode.RTC).planned(timeline, 100.3, 100.7) is None


def test_a_checkpoint_goes_on_from_what_is_planned(tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "small")
    backend = create_backend(
        "local", BackendSettings(JOINTS, ("scene", "wrist"), str(folder), options={"seed": 1})
    )
    backend.load()
    picture = np.zeros((480, 640, 3), np.uint8)
    still = np.zeros(6)

    def observation(planned: Planned | None) -> Observation:
        frames = {name: CameraFrame(50.0, lambda: picture) for name in ("scene", "wrist")}
        return Observation(
            "go", 1, 50.0, {"scene": 50.0}, 50.02, 50.12, still, still, still, frames, planned=planned
        )

    times = 50.0 + np.arange(10) / 30.0
    wanted = 0.05 * np.sin(np.arange(60.0).reshape(10, 6))
    plain = backend.infer(observation(None)).positions
    soft = backend.infer(observation(Planned(times, wanted, 50.12))).positions
    hard = backend.infer(observation(Planned(times, wanted, 50.12, hard=True))).positions
    # due before 50.12: the first four; the gripper's -0.05 rad and the like are inside every range
    np.testing.assert_allclose(hard[:4], wanted[:4], atol=1e-5)
    assert np.abs(soft[:4] - wanted[:4]).max() < 0.3 * np.abs(plain[:4] - wanted[:4]).max()
    assert np.abs(soft[12:] - plain[12:]).max() < np.abs(soft[:4] - plain[:4]).max()
