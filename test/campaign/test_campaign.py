# SPDX-License-Identifier: Apache-2.0
"""The fault campaign on the real control stack: promises are kept, and a broken one is seen."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chefmate_driver.arm.controller import ArmController
from chefmate_driver.arm.safety import Limits
from chefmate_driver.campaign import pool
from chefmate_driver.campaign import run as run_module
from chefmate_driver.campaign.classes import CLASSES, Duty
from chefmate_driver.campaign.monitor import RULES
from chefmate_driver.campaign.plan import Kind, plan
from chefmate_driver.campaign.pool import carry_out
from chefmate_driver.campaign.run import Result, Run
from chefmate_driver.campaign.servos import EmulatedServos
from chefmate_driver.campaign.table import as_json, breaks, class_of, rows
from chefmate_driver.feetech.faults import FaultKind

ROOT = Path(__file__).resolve().parents[2]
TWIN, PARAMETERS = ROOT / "config" / "calibration" / "twin.json", ROOT / "config" / "arm.yaml"
RUNS = 50
# s to wait before a failed run is repeated, alone: others' work on this machine does not fail it thrice
AGAIN = (0.0, 2.0, 5.0)
# Rules that no lateness of the machine makes a driver break: one breach is one too many.
TIMELESS = {
    "position", "table", "torque value", "torque limit", "eeprom", "unlock", "register", "broadcast",
    "stranger", "partial goal", "instruction", "layout",
}  # fmt: skip


@pytest.fixture(scope="module")
def servos() -> Iterator[EmulatedServos]:
    emulated = EmulatedServos()
    yield emulated
    emulated.close()


@pytest.fixture
def carry(servos: EmulatedServos, tmp_path: Path) -> Callable[[int], Result]:
    return lambda seed: Run(plan(seed), servos, tmp_path, TWIN, PARAMETERS).carry_out()


def seed_of(kind: FaultKind, motion: Kind) -> int:
    """The first seed with this fault and motion."""
    return next(seed for seed in range(1000) if plan(seed).fault.kind is kind and plan(seed).motion is motion)


@pytest.mark.timeout(300)
def test_no_fault_during_motion_breaks_a_promise() -> None:
    """No goal outside the limits, no hang, no unnamed fault, stopped in time, moving again in time."""
    results = list(carry_out(range(RUNS)))
    assert len(results) == RUNS
    assert set(Counter(result.fault for result in results)) == {entry.kind.value for entry in CLASSES}
    never = [text for result in results for text in result.violations if text.split(":")[0] in TIMELESS]
    assert set(RULES) > TIMELESS and not never
    failed = [result for result in results if breaks(result, class_of(result))]
    for pause in AGAIN:
        time.sleep(pause if failed else 0.0)
        failed = [
            result
            for result in carry_out([result.seed for result in failed], workers=1)
            if breaks(result, class_of(result))
        ]
    assert not failed, as_json(failed)["failed"]


def test_a_seed_decides_everything_about_a_run() -> None:
    assert plan(4711) == plan(4711)
    assert plan(4711) != plan(4711 + len(CLASSES))


def test_a_thousand_seeds_give_every_class_fifty_runs() -> None:
    counts = Counter(plan(seed).fault.kind for seed in range(1000))
    assert set(counts) == set(FaultKind)
    assert min(counts.values()) >= 50


# A driver that breaks its promises


def test_a_filter_with_wrong_limits_is_found_out(
    carry: Callable[[int], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = run_module.safety_filter

    def hasty(value: object, units: object) -> object:
        safety = genuine(value, units)  # type: ignore[arg-type]
        limits: Limits = safety.limits
        safety.limits = replace(
            limits, velocity=3.0 * limits.velocity, acceleration=np.full(6, 200.0), lower=limits.lower - 1.0
        )
        return safety

    monkeypatch.setattr(run_module, "safety_filter", hasty)
    result = carry(seed_of(FaultKind.RETURN_DELAY, Kind.ONE_SHOT))
    assert any(text.startswith("acceleration") for text in result.violations)


def test_a_driver_that_overlooks_a_silent_servo_is_found_out(
    carry: Callable[[int], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArmController, "brake", lambda self, reason: None)
    monkeypatch.setattr(ArmController, "lose", lambda self, reason: None)
    monkeypatch.setattr(ArmController, "listen", lambda self, *_: None, raising=False)
    seed = next(
        seed
        for seed in range(1000)
        if plan(seed).fault.kind is FaultKind.LOST_REPLIES
        and plan(seed).motion is Kind.ONE_SHOT
        and plan(seed).fault.duration > 0.5
    )
    result = carry(seed)
    assert result.unnamed
    assert any(text.startswith("blind") for text in result.violations)


def test_a_run_that_never_ends_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LONGEST_RUN", 0.1)
    monkeypatch.setattr(pool, "START_UP", 0.0)
    (result,) = carry_out([0], workers=1)
    assert result.hang == "the run took more than 0.1 s"
    assert breaks(result, class_of(result)) == ["hang: the run took more than 0.1 s"]


# The table


def test_the_table_counts_runs_and_spreads_times() -> None:
    kind = next(entry.kind.value for entry in CLASSES if entry.duty is Duty.STOP)
    results = [
        Result(1, kind, "chunks", outcome="braked", reaction=0.05, recovery=0.2),
        Result(2, kind, "chunks", outcome="fault", reaction=0.07, recovery=0.4),
        Result(3, kind, "chunks", outcome="fault", reaction=0.5, recovery=0.3, violations=["speed: pan"]),
        Result(4, kind, "chunks", hang="no control cycle for 2.00 s"),
        Result(5, kind, "chunks", unnamed="something happened"),
    ]
    (row,) = rows(results)
    assert (row.runs, row.violations, row.hangs, row.unnamed, row.stopped, row.late) == (5, 1, 1, 1, 3, 1)
    assert row.reaction == (0.07, 0.5)
    assert row.failed == (3, 4, 5)
    assert [run["seed"] for run in as_json(results)["failed"]] == [3, 4, 5]
