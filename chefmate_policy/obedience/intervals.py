# SPDX-License-Identifier: Apache-2.0
"""Figures over layouts, with intervals of 95 %."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.probe import wilson

__all__ = ["RESAMPLES", "Figure", "ratio", "share"]

RESAMPLES = 10_000
BLOCK = 500  # resamples at a time


@dataclass(frozen=True)
class Figure:
    """A value and its interval; n: layouts that it is of."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def ratio(above: NDArray[np.float64], below: NDArray[np.float64], seed: int = 0) -> Figure:
    """Sum of `above` [n] over sum of `below` [n], each entry of one layout; interval by the bootstrap.

    Layouts are drawn with replacement, above and below together (paired), RESAMPLES times; 2.5 and 97.5
    percentiles (B. Efron, 1979). The same seed draws the same layouts, so figures compare in pairs.
    """
    return _figure(above, below, _resampled(above, below, seed))


def share(right: NDArray[np.float64], asked: NDArray[np.float64], seed: int = 0) -> Figure:
    """Share of right answers: [n] right and asked of each layout.

    The bootstrap's interval, widened to Wilson's, for resampling says nothing about what a few layouts did
    not show. Wilson's count is the effective one, share (1 - share) over the bootstrap's variance, at least
    the layouts and at most the questions (design effect; L. Kish, 1965).
    """
    values = _resampled(right, asked, seed)
    found = _figure(right, asked, values)
    spread, variance = found.value * (1 - found.value), float(values.var())
    most = float(asked.sum())
    count = most if variance * most < spread else max(found.n, spread / variance if variance else 0.0)
    low, high = wilson(found.value, count)
    return Figure(found.value, min(found.low, low), max(found.high, high), found.n)


def _figure(above: NDArray[np.float64], below: NDArray[np.float64], values: NDArray[np.float64]) -> Figure:
    value = float(_over(above.sum(), below.sum()))
    low, high = np.percentile(values, [2.5, 97.5])
    return Figure(value, float(min(low, value)), float(max(high, value)), len(above))


def _resampled(above: NDArray[np.float64], below: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    count = len(above)
    random = np.random.Generator(np.random.Philox(key=seed))
    draws = (random.integers(count, size=(BLOCK, count)) for _ in range(RESAMPLES // BLOCK))
    return np.concatenate([_over(above[rows].sum(axis=1), below[rows].sum(axis=1)) for rows in draws])


def _over(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero over zero is zero."""
    below = np.asarray(below, np.float64)
    return np.asarray(above) / np.where(below == 0.0, np.inf, below)
