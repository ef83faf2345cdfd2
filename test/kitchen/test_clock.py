# SPDX-License-Identifier: Apache-2.0
"""Real time without bursts."""

from __future__ import annotations

import pytest

from chefmate_driver.kitchen.clock import RealTimeClock


def test_steps_follow_the_clock_without_drift() -> None:
    clock = RealTimeClock(0.002, 240.0)
    start = clock._woke
    steps = sum(clock.due(start + k / 240.0) for k in range(1, 241))
    assert steps == pytest.approx(500, abs=1)
    assert clock.dropped == 0.0 and clock.factor == pytest.approx(1.0, abs=0.01)


def test_a_stall_drops_time_and_is_reported() -> None:
    clock = RealTimeClock(0.002, 240.0, most_behind=0.05)
    start = clock._woke
    assert clock.due(start + 1.0) == 25
    assert clock.dropped == pytest.approx(0.95)
    assert clock.factor < 0.1
    assert clock.due(start + 1.004) == 2


def test_it_wakes_before_the_places_of_a_30_hz_camera() -> None:
    import time

    clock = RealTimeClock(0.002, 240.0, lead=0.0015)
    phases = []
    for _ in range(10):
        clock.wait()
        phases.append((time.time_ns() * 1e-9 + 0.0015) % (1.0 / 240.0))
    assert sorted(phases)[5] < 0.002
