# SPDX-License-Identifier: Apache-2.0
"""Statistics of states and actions, and the normalisation that they define.

Formulas of the reference: min_max lets values outside the range through; q99 clips; constant dimensions
become 0 (min_max) or pass unchanged (q99, mean_std) and come back as their constant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from chefmate_policy.groot.errors import ConfigurationError, InputError

__all__ = ["NAMES", "KeyStatistics", "Mode", "Normaliser"]

NAMES = ("max", "min", "mean", "std", "q01", "q99")  # as experiment_cfg/metadata.json has them, all mandatory


class Mode(str, Enum):
    """How a key is normalised."""

    MIN_MAX = "min_max"
    Q99 = "q99"
    MEAN_STD = "mean_std"


@dataclass(frozen=True)
class KeyStatistics:
    """Per dimension, over a whole dataset, in the dataset's units."""

    max: tuple[float, ...]
    min: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], where: str) -> KeyStatistics:
        """From a metadata file. Raises ConfigurationError naming what is missing or of another length."""
        missing = [name for name in NAMES if name not in entry]
        if missing:
            raise ConfigurationError(
                f"statistics of {where} lack {', '.join(missing)}; they need {', '.join(NAMES)}"
            )
        values = {name: tuple(float(value) for value in entry[name]) for name in NAMES}
        lengths = {name: len(row) for name, row in values.items()}
        if len(set(lengths.values())) != 1:
            raise ConfigurationError(f"statistics of {where} differ in length: {lengths}")
        for name, row in values.items():
            if not all(map(math.isfinite, row)):
                raise ConfigurationError(f"statistics of {where}: {name} is {list(row)}, not finite")
        for lower, upper in (("min", "max"), ("q01", "q99")):
            for index, (low, high) in enumerate(zip(values[lower], values[upper], strict=True)):
                if low > high:
                    raise ConfigurationError(
                        f"statistics of {where}[{index}]: {lower} {low} exceeds {upper} {high}"
                    )
        return cls(**values)

    def to_dict(self) -> dict[str, list[float]]:
        """For a metadata file."""
        return {name: list(getattr(self, name)) for name in NAMES}

    def __len__(self) -> int:
        return len(self.max)


class Normaliser:
    """Several keys, one after the other along the last axis, to about [-1, 1] and back."""

    def __init__(self, keys: Sequence[tuple[str, KeyStatistics, Mode]]) -> None:
        """(name, statistics, mode) per key, in the order of the vector."""
        self.names = [f"{name}[{index}]" for name, statistics, _ in keys for index in range(len(statistics))]
        rows = [row for _, statistics, mode in keys for row in _rows(statistics, mode)]
        table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
        self._low, self._span, self._factor, self._shift = table.unbind(-1)
        modes = [mode for _, statistics, mode in keys for _ in range(len(statistics))]
        constant = self._span == 0.0
        self._zeroed = constant & torch.tensor([mode is Mode.MIN_MAX for mode in modes], dtype=torch.bool)
        self._passed = constant & ~self._zeroed
        self._limit = torch.tensor([1.0 if mode is Mode.Q99 else math.inf for mode in modes]).double()

    def __len__(self) -> int:
        return len(self.names)

    def normalise(self, values: Tensor) -> Tensor:
        """values [..., D] in the dataset's units -> [..., D], in the dtype and on the device of `values`.

        Raises InputError for another D or a value that is not finite, which it names.
        """
        self._check(values)
        low, span, factor, shift, limit = self._like(values)
        scaled = factor * ((values - low) / torch.where(span == 0, 1.0, span)) + shift
        scaled = torch.where(self._passed.to(values.device), values, scaled)
        scaled = torch.where(self._zeroed.to(values.device), torch.zeros_like(scaled), scaled)
        return torch.clamp(scaled, -limit, limit)

    def restore(self, values: Tensor) -> Tensor:
        """Inverse of `normalise` but for clipping: [..., D] -> [..., D] in the dataset's units."""
        low, span, factor, shift, _ = self._like(values)
        return (values - shift) / factor * span + low

    def _like(self, values: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            row.to(values) for row in (self._low, self._span, self._factor, self._shift, self._limit)
        )

    def _check(self, values: Tensor) -> None:
        if values.shape[-1] != len(self):
            raise InputError(f"got {values.shape[-1]} values for {len(self)} dimensions: {self.names}")
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            bad = (~finite).reshape(-1, len(self)).any(0).tolist()
            raise InputError(f"not finite: {[n for n, wrong in zip(self.names, bad, strict=True) if wrong]}")


def _rows(statistics: KeyStatistics, mode: Mode) -> list[tuple[float, float, float, float]]:
    """Per dimension (low, span, factor, shift): normalised = factor * (x - low) / span + shift."""
    if mode is Mode.MEAN_STD:
        return [(mean, std, 1.0, 0.0) for mean, std in zip(statistics.mean, statistics.std, strict=True)]
    lows, highs = (
        (statistics.min, statistics.max) if mode is Mode.MIN_MAX else (statistics.q01, statistics.q99)
    )
    return [(low, high - low, 2.0, -1.0) for low, high in zip(lows, highs, strict=True)]
