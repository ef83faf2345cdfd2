# SPDX-License-Identifier: Apache-2.0
"""Can a label be told from features, on layouts that were not trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Score", "decode", "groups_of_pictures", "shuffled_scores", "wilson"]

Z = 1.96  # of a two-sided interval of 95 %
MAX_FOLDS = 20
REGULARISATION = 0.1  # of the squared length of a row, which is 1 on average
BIAS = 100.0
MARGIN = 0.05  # of outputs that are 1 for the label and 0 for others


@dataclass(frozen=True)
class Score:
    """Share of right answers, all labels counting alike, and its interval of 95 % (Wilson) over layouts."""

    accuracy: float
    low: float
    high: float
    layouts: float  # effective number of them, of Kish: as many of equal weight would say as much


def wilson(share: float, count: float) -> tuple[float, float]:
    """Interval of 95 % for a share of `count` independent trials (E. B. Wilson, 1927)."""
    if count <= 0:
        return 0.0, 1.0
    centre = share + Z * Z / (2 * count)
    half = Z * np.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    low, high = float((centre - half) / scale), float((centre + half) / scale)
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding must not leave the share outside


def decode(features: NDArray[np.float32], labels: NDArray[np.int64], layouts: NDArray[np.int64]) -> Score:
    """features [n, D], labels [n] from 0, layouts [n] -> how well a linear probe tells the label in a
    layout that it was not fitted on (with more than MAX_FOLDS layouts: in a group of them)."""
    return _score(_credits(_scaled(features), labels, layouts), labels, layouts)


def shuffled_scores(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    layouts: NDArray[np.int64],
    times: int,
    seed: int,
) -> list[float]:
    """The same figure with labels permuted over all rows: what chance gives."""
    random = np.random.Generator(np.random.Philox(key=seed))
    scaled, scores = _scaled(features), []
    for _ in range(times):
        mixed = random.permutation(labels)
        scores.append(_score(_credits(scaled, mixed, layouts), mixed, layouts).accuracy)
    return scores


def groups_of_pictures(grids: NDArray[np.float32], tolerance: float) -> NDArray[np.int64]:
    """Numbers [n] of groups: pictures that differ in no cell by more than `tolerance` from the group's first.

    grids: [n, cells], in levels.
    """
    firsts: list[int] = []
    numbers = np.empty(len(grids), dtype=np.int64)
    for index, grid in enumerate(grids):
        away = np.abs(grids[firsts] - grid).max(axis=1) if firsts else np.empty(0)
        near = np.flatnonzero(away <= tolerance)
        numbers[index] = near[0] if len(near) else len(firsts)
        if not len(near):
            firsts.append(index)
    return numbers


def _scaled(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Centred, and rows of length 1 on average. Single dimensions keep their share of that, or noise would
    weigh as much as what is seen."""
    centred = np.asarray(features, dtype=np.float64) - features.mean(axis=0, dtype=np.float64)
    length = np.sqrt((centred**2).sum() / len(centred))
    return centred / length if length > 0 else centred


def _credits(
    features: NDArray[np.float64], labels: NDArray[np.int64], layouts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[n] credit of each row's answer, 0 to 1, by ridge regression onto the labels' indicators, in its dual
    form, with rows weighed so that the labels weigh alike. Labels whose outputs are within MARGIN of the
    highest share the answer: what is left of a video's later frames in its first ones by coding decides
    nothing."""
    kernel = features @ features.T + BIAS  # a constant feature, hardly regularised
    credits = np.zeros(len(labels))
    for held in _folds(layouts):
        fit = np.flatnonzero(~held)
        names, numbers, counts = np.unique(labels[fit], return_inverse=True, return_counts=True)
        if not len(names):
            continue
        penalty = np.diag(REGULARISATION * len(names) * counts[numbers] / len(fit))
        factors = np.linalg.solve(kernel[np.ix_(fit, fit)] + penalty, np.eye(len(names))[numbers])
        outputs = kernel[np.ix_(held, fit)] @ factors
        ahead = outputs >= outputs.max(axis=1, keepdims=True) - MARGIN
        credits[held] = (ahead & (names == labels[held][:, None])).sum(axis=1) / ahead.sum(axis=1)
    return credits


def _folds(layouts: NDArray[np.int64]) -> Sequence[NDArray[np.bool_]]:
    names = np.unique(layouts)
    random = np.random.Generator(np.random.Philox(key=0))
    parts = np.array_split(random.permutation(names), min(len(names), MAX_FOLDS))
    return [np.isin(layouts, part) for part in parts]


def _score(credits: NDArray[np.float64], labels: NDArray[np.int64], layouts: NDArray[np.int64]) -> Score:
    weights = 1.0 / np.bincount(labels)[labels]
    weights /= weights.sum()
    accuracy = min(1.0, float((weights * credits).sum()))
    _, numbers = np.unique(layouts, return_inverse=True)
    by_layout = np.bincount(numbers, weights=weights)
    count = float(1.0 / (by_layout**2).sum())
    return Score(accuracy, *wilson(accuracy, count), count)
