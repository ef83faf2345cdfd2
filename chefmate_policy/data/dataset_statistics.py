# SPDX-License-Identifier: Apache-2.0
"""Statistics of a dataset's columns and pictures, as meta/stats.json has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["picture_statistics", "statistics"]

Statistics = dict[str, list[Any]]


def statistics(values: NDArray[Any]) -> Statistics:
    """min, max, mean, std, q01, q99 per dimension, and count, of [frames] or [frames, dimensions]."""
    rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    low, high = np.quantile(rows, (0.01, 0.99), axis=0)
    return {
        "min": rows.min(axis=0).tolist(),
        "max": rows.max(axis=0).tolist(),
        "mean": rows.mean(axis=0).tolist(),
        "std": rows.std(axis=0).tolist(),
        "q01": low.tolist(),
        "q99": high.tolist(),
        "count": [len(rows)],
    }


def picture_statistics(sample: NDArray[np.uint8]) -> Statistics:
    """The same per channel, in [0, 1] and shaped [3][1][1] as LeRobot's, of [pictures, height, width, 3]."""
    found = statistics(sample.reshape(-1, 3) / 255.0)
    shaped: Statistics = {key: [[[value]] for value in row] for key, row in found.items()}
    shaped["count"] = [len(sample)]
    return shaped
