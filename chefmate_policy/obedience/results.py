# SPDX-License-Identifier: Apache-2.0
"""The closed loop's part of the result document: figures, the seeds' tests and matrix, baselines, goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chefmate_policy.obedience import seeds
from chefmate_policy.obedience.goals import goals
from chefmate_policy.obedience.scoring import judged, no_op, rightly, score
from chefmate_policy.obedience.trial import Outcome, Trial

__all__ = ["closed_loop", "paired"]

RESAMPLES = 10_000
COMPARED = ("rightly", "placed_flat")


def closed_loop(
    trials: Sequence[Trial], outcomes: Mapping[int, Outcome], expert: Mapping[int, Outcome] | None = None
) -> dict[str, Any]:
    """For JSON. expert: outcomes of the expert in some of the trials, for comparison."""
    figures = score(trials, outcomes)
    items = judged(trials, outcomes)
    by_id = {row["id"]: row for row in figures["rows"]}
    null = by_id.get("null")
    return {
        **figures,
        "tests": seeds.tests(items),
        "matrix": seeds.matrix(items),
        "baselines": {
            "no_op": no_op([item.trial for item in items]),
            "null": null and {"followed": null["rightly"], "chance": null["targeted"]["chance"]},
            "expert": rightly(judged(trials, expert)) if expert else None,
        },
        "goals": goals(figures["rows"]),
    }


def paired(
    trials: Sequence[Trial], one: Mapping[int, Outcome], other: Mapping[int, Outcome]
) -> dict[str, Any]:
    """The same trials run in two ways: how often each figure held in both, one, the other, neither, and the
    difference (other less one) with its interval of 95 % from resampled pairs."""
    first = {item.trial.number: item for item in judged(trials, one)}
    second = {item.trial.number: item for item in judged(trials, other)}
    both = [(first[number], second[number]) for number in first if number in second]
    found: dict[str, Any] = {"pairs": len(both)}
    for name in COMPARED:
        told = [(bool(getattr(a, name)), bool(getattr(b, name))) for a, b in both]
        gaps = np.array([int(b) - int(a) for a, b in told], dtype=np.float64)
        found[name] = {
            "both": sum(a and b for a, b in told),
            "one": sum(a and not b for a, b in told),
            "other": sum(b and not a for a, b in told),
            "neither": sum(not a and not b for a, b in told),
            "difference": float(gaps.mean()) if both else None,
            "interval_95": _resampled(gaps) if both else None,
        }
    return found


def _resampled(gaps: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    rows = np.random.default_rng(0).integers(len(gaps), size=(RESAMPLES, len(gaps)))
    return [float(value) for value in np.percentile(gaps[rows].mean(axis=1), [2.5, 97.5])]
