# SPDX-License-Identifier: Apache-2.0
"""Which frame a training sample starts at, as a function of seed and sample number.

Sample n takes block n of a counter-based generator (Philox, Salmon et al. 2011, whose raw stream NumPy keeps
stable across versions), so a run that is resumed, or split over processes, draws what an uninterrupted one
draws, and nothing has to be stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.lerobot_layout import DatasetError

__all__ = ["Draw", "Run", "Sampler", "Sampling", "run_shares"]

WORDS = 4  # uint64 of one Philox block; two choose the frame, the others are free


@dataclass(frozen=True)
class Sampling:
    """What has equal shares. Switched off, a share is proportional to the number of frames.

    Datasets: equal but for their weights. Trajectories: equal within their group, which is the dataset, or
    the instruction where these are balanced too. Instructions: equal within each dataset where datasets are
    balanced (a dataset's share cannot be kept otherwise), over the whole mixture where they are not.
    """

    balance_datasets: bool = True
    balance_trajectories: bool = True
    balance_instructions: bool = False
    seed: int = 42


@dataclass(frozen=True)
class Run:
    """Frames of one trajectory that have one instruction: rows start..stop-1 of the mixture."""

    dataset: int
    trajectory: int  # number in the mixture
    instruction: int  # number in the mixture
    start: int
    stop: int

    @property
    def frames(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Draw:
    """Samples."""

    rows: NDArray[np.int64]  # [n], frames of the mixture
    words: NDArray[np.uint64]  # [n, 2], random, of the sample alone: for crops, noise and the like


def run_shares(
    runs: Sequence[Run], sampling: Sampling, weights: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Probability of each run. weights: by dataset, from 0 on; they multiply a dataset's share (default 1).

    Raises DatasetError: no run, a weight that is negative or not finite, all weights 0.
    """
    if not runs:
        raise DatasetError("a mixture needs at least one trajectory")
    datasets = np.array([run.dataset for run in runs])
    trajectories = np.array([run.trajectory for run in runs])
    instructions = np.array([run.instruction for run in runs])
    shares = np.array([run.frames for run in runs], dtype=np.float64)
    weight = np.ones(datasets.max() + 1) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(weight) <= datasets.max():
        raise DatasetError(f"{len(weight)} weights for {datasets.max() + 1} datasets")
    if not all(math.isfinite(value) and value >= 0 for value in weight) or not weight[datasets].any():
        raise DatasetError(
            f"weights of datasets are {weight.tolist()}; they must be 0 or above, and one above 0"
        )
    if sampling.balance_trajectories:
        shares /= _totals(trajectories, shares)
    if sampling.balance_datasets:
        if sampling.balance_instructions:
            shares /= _totals(datasets * (instructions.max() + 1) + instructions, shares)
        shares /= _totals(datasets, shares)
        shares *= weight[datasets]
    else:
        shares *= weight[datasets]
        if sampling.balance_instructions:
            totals = _totals(instructions, shares)
            shares = np.divide(shares, totals, out=np.zeros_like(shares), where=totals > 0)
    return shares / shares.sum()


class Sampler:
    """Draws rows of a mixture, with replacement."""

    def __init__(
        self, runs: Sequence[Run], sampling: Sampling, weights: Sequence[float] | None = None
    ) -> None:
        """See `run_shares`."""
        self.runs, self.sampling = tuple(runs), sampling
        self.shares = run_shares(runs, sampling, weights)
        self._ends = np.cumsum(self.shares)
        self._ends /= self._ends[-1]
        self._last = int(np.flatnonzero(self.shares)[-1])
        self._starts = np.array([run.start for run in runs], dtype=np.int64)
        self._frames = np.array([run.frames for run in runs], dtype=np.int64)

    def draw(self, first: int, count: int) -> Draw:
        """Samples number first..first+count-1: the same rows in whatever portions they are asked for."""
        if first < 0 or count < 0:
            raise DatasetError(f"samples {first}..{first + count}: numbers start at 0")
        generator = np.random.Philox(key=self.sampling.seed, counter=first)
        words = generator.random_raw(WORDS * count).reshape(count, WORDS)
        uniform = (words[:, :2] >> np.uint64(11)) * 2.0**-53  # [0, 1)
        chosen = np.minimum(np.searchsorted(self._ends, uniform[:, 0], side="right"), self._last)
        inside = (uniform[:, 1] * self._frames[chosen]).astype(np.int64)
        rows = self._starts[chosen] + np.minimum(inside, self._frames[chosen] - 1)
        return Draw(rows, words[:, 2:])


def _totals(groups: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each run, the sum of the shares in its group."""
    totals: NDArray[np.float64] = np.asarray(np.bincount(groups, weights=shares)[groups], dtype=np.float64)
    return totals
