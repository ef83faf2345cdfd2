# SPDX-License-Identifier: Apache-2.0
"""Statistics of a dataset's columns and pictures, as meta/stats.json has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PictureHistogram", "picture_statistics", "statistics"]

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


class PictureHistogram:
    """Counts of each value of each channel, [3, 256]: all that statistics of pictures need."""

    def __init__(self, counts: NDArray[Any] | None = None) -> None:
        self.counts: NDArray[np.int64] = np.zeros((3, 256), dtype=np.int64)
        if counts is not None:
            self.counts += counts.astype(np.int64)

    def add(self, picture: NDArray[np.uint8]) -> None:
        """One picture [height, width, 3]."""
        for channel in range(3):
            self.counts[channel] += np.bincount(picture[..., channel].ravel(), minlength=256)

    def merge(self, other: PictureHistogram) -> None:
        """Adds what another has counted."""
        self.counts += other.counts

    def statistics(self, pictures: int) -> Statistics:
        """As `picture_statistics` of all that was added; pictures: their number, for `count`."""
        found: dict[str, list[float]] = {key: [] for key in ("min", "max", "mean", "std", "q01", "q99")}
        values = np.arange(256) / 255.0
        for counts in self.counts:
            total, sums = int(counts.sum()), np.cumsum(counts)
            mean = float(counts @ values) / total
            row = {"min": values[counts > 0][0], "max": values[counts > 0][-1], "mean": mean}
            row["std"] = np.sqrt(float(counts @ (values - mean) ** 2) / total)
            for key, share in (("q01", 0.01), ("q99", 0.99)):
                place = share * (total - 1)
                low, high = (values[np.searchsorted(sums, i, side="right")] for i in _around(place))
                row[key] = low + (high - low) * (place - int(place))
            for key, value in row.items():
                found[key].append(float(value))
        shaped: Statistics = {key: [[[value]] for value in row] for key, row in found.items()}
        shaped["count"] = [pictures]
        return shaped


def _around(place: float) -> tuple[int, int]:
    return int(place), int(np.ceil(place))


def picture_statistics(sample: NDArray[np.uint8]) -> Statistics:
    """The same per channel, in [0, 1] and shaped [3][1][1] as LeRobot's, of [pictures, height, width, 3]."""
    found = statistics(sample.reshape(-1, 3) / 255.0)
    shaped: Statistics = {key: [[[value]] for value in row] for key, row in found.items()}
    shaped["count"] = [len(sample)]
    return shaped
