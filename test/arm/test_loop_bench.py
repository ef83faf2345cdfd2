# SPDX-License-Identifier: Apache-2.0
"""The measurement of the control loop's punctuality."""

from __future__ import annotations

import pytest

from chefmate_driver.arm.bench import Lateness, LoopFigures, measure_loop


def test_lateness_is_counted_from_the_grid_and_missed_places_are_found() -> None:
    phase, period = 1000.003, 0.01
    late = [0.0001, 0.0002, 0.0003, 0.0, 0.002, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001]
    stamps = [phase + (50 + k) * period + late[k] for k in range(10) if k != 3]
    begin = phase + 50 * period - 0.001
    found = Lateness.of(stamps, phase, period, begin, begin + 0.102)
    assert (found.cycles, found.missed) == (9, 1)
    assert found.worst == pytest.approx(2.0, abs=1e-6)
    assert found.p50 == pytest.approx(0.1, abs=1e-6)


def test_a_cycle_that_is_later_than_a_period_leaves_its_place_empty() -> None:
    found = Lateness.of([0.0001, 0.0332, 0.0401], 0.0, 0.01, -0.001, 0.0501)
    assert (found.cycles, found.missed) == (3, 2)  # nothing at 0.01 and 0.02


def test_one_missed_cycle_more_than_the_bare_loop_is_allowed() -> None:
    good = Lateness(0.1, 0.5, 1.0, 6000, 1)
    bare = Lateness(0.05, 0.1, 0.3, 6000, 0)
    assert LoopFigures(100.0, "idle", 60.0, "", good, bare).met
    assert not LoopFigures(100.0, "idle", 60.0, "", Lateness(0.1, 0.5, 1.0, 6000, 2), bare).met
    assert not LoopFigures(100.0, "idle", 60.0, "", Lateness(0.1, 1.1, 3.0, 6000, 0), bare).met


@pytest.mark.timeout(300)
def test_the_node_is_measured_at_the_pty() -> None:
    figures = measure_loop(100.0, 2.0, busy=True)
    assert figures.driver.cycles + figures.driver.missed == pytest.approx(200, abs=1)
    assert figures.bare.cycles + figures.bare.missed == pytest.approx(200, abs=1)
    assert figures.written is not None and 0.0 < figures.written.p50 < figures.driver.p50 < 10.0
