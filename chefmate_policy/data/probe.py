# SPDX-License-Identifier: Apache-2.0
"""Can a label be told from features, on layouts that were not trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Score", "decode", "groups_of_pictures", "shuffled_scores", "wilson"]

Views = Sequence[NDArray[np.float32]]
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
Z = 1.96  # of a two-sided interval of 95 %
MAX_FOLDS = 20
REGULARISATION = 0.03  # of the squared length of a row, which is 1 on average
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


def decode(views: Views, labels: NDArray[np.int64], layouts: NDArray[np.int64]) -> Score:
    """views: features [n, D] each; labels (from 0), layouts [n] -> how well a linear probe tells the label of
    a layout that it was not fitted on (above MAX_FOLDS layouts: in a group of them), on the best view."""
    return _best([_kernel(view) for view in views], labels, layouts)


def shuffled_scores(
    views: Views,
    labels: NDArray[np.int64],
    layouts: NDArray[np.int64],
    times: int,
    seed: int,
) -> list[float]:
    """The same figure with labels permuted over all rows: what chance gives."""
    random = np.random.Generator(np.random.Philox(key=seed))
    kernels, scores = [_kernel(view) for view in views], []
    for _ in range(times):
        mixed = random.permutation(labels)
        scores.append(_best(kernels, mixed, layouts).accuracy)
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


def _kernel(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n, n] inner products of rows that are centred and of length 1 on average. Single dimensions keep their
    share of that, or noise would weigh as much as what is seen."""
    centred = np.asarray(features, dtype=np.float64) - features.mean(axis=0, dtype=np.float64)
    products = centred @ centred.T
    length = np.trace(products) / len(products)
    return (products / length if length > 0 else products) + BIAS  # a constant feature, hardly regularised


def _best(
    kernels: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], layouts: NDArray[np.int64]
) -> Score:
    folds = _folds(layouts)
    scores = [_score(_credits(kernel, labels, folds), labels, layouts) for kernel in kernels]
    return max(scores, key=lambda score: score.accuracy)


def _credits(kernel: NDArray[np.float64], labels: NDArray[np.int64], folds: Folds) -> NDArray[np.float64]:
    """[n] credit of each row's answer, 0 to 1, by ridge regression onto the labels' indicators, in its dual
    form, with rows weighed so that the labels weigh alike. Labels whose outputs are within MARGIN of the
    highest share the answer: what is left of a video's later frames in its first ones by coding decides
    nothing."""
    indicators = np.eye(labels.max() + 1)[labels]
    credits = np.zeros(len(labels))
    for fit, held in folds:
        counts = indicators[fit].sum(axis=0)
        matrix = kernel[fit[:, None], fit]
        matrix[np.diag_indices(len(fit))] += (
            REGULARISATION * (counts > 0).sum() * counts[labels[fit]] / len(fit)
        )
        outputs = kernel[held[:, None], fit] @ np.linalg.solve(matrix, indicators[fit])
        outputs[:, counts == 0] = -np.inf  # a label that was not fitted on is not answered
        ahead = outputs >= outputs.max(axis=1, keepdims=True) - MARGIN
        credits[held] = (ahead * indicators[held]).sum(axis=1) / ahead.sum(axis=1)
    return credits


def _folds(layouts: NDArray[np.int64]) -> Folds:
    """Rows to fit on and rows to answer."""
    names = np.unique(layouts)
    random = np.random.Generator(np.random.Philox(key=0))
    parts = np.array_split(random.permutation(names), min(len(names), MAX_FOLDS))
    held = [np.isin(layouts, part) for part in parts]
    return [(np.flatnonzero(~rows), np.flatnonzero(rows)) for rows in held]


def _score(credits: NDArray[np.float64], labels: NDArray[np.int64], layouts: NDArray[np.int64]) -> Score:
    weights = 1.0 / np.bincount(labels)[labels]
    weights /= weights.sum()
    accuracy = min(1.0, float((weights * credits).sum()))
    _, numbers = np.unique(layouts, return_inverse=True)
    by_layout = np.bincount(numbers, weights=weights)
    count = float(1.0 / (by_layout**2).sum())
    return Score(accuracy, *wilson(accuracy, count), count)
