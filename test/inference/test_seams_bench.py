# SPDX-License-Identifier: Apache-2.0
"""The bench of seams: what it calls a jump, and that real-time chunking makes smaller ones."""

from __future__ import annotations

import numpy as np
import pytest

from chefmate.bench_seams import FRAME, TICK, bench_seams, jumps


def test_a_step_of_a_smooth_path_is_the_jump_that_it_is() -> None:
    clock = np.arange(400) * TICK
    smooth = np.stack([0.1 * clock, 0.2 * clock], axis=1)
    assert jumps(smooth, [2.0])["velocity"]["p50"] == pytest.approx(0.0, abs=1e-9)
    stepped = smooth.copy()
    stepped[clock >= 2.0, 1] += 0.05  # rad at once
    found = jumps(stepped, [2.0])
    assert found["borders"] == 1
    assert found["velocity"]["p50"] == pytest.approx(0.05 / FRAME, rel=0.01)
    assert found["acceleration"]["p50"] == pytest.approx(2 * 0.05 / FRAME**2, rel=0.01)
    assert found["inside_velocity"]["p95"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_real_time_chunking_makes_smaller_seams_than_switching() -> None:
    document = bench_seams(4.0, 0, lambda line: None, modes=("switch", "rtc"), added=(0.05,), steps=60)
    switch, rtc = document["rows"]
    assert switch["borders"] > 10 and rtc["borders"] > 10
    assert rtc["velocity"]["p50"] < 0.9 * switch["velocity"]["p50"]
    assert rtc["acceleration"]["p50"] < 0.9 * switch["acceleration"]["p50"]
    assert switch["held"] < 0.1 and rtc["held"] < 0.1
