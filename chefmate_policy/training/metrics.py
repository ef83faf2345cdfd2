# SPDX-License-Identifier: Apache-2.0
"""Where a run's figures go: `metrics.jsonl`, one line per entry, and TensorBoard's event files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from chefmate_policy.training.errors import TrainingError

__all__ = ["METRICS", "Metrics", "read_metrics"]

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run. A last line that a killed process left half written is left out."""
    file, found = folder / METRICS, []
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
    return found


class Metrics:
    """Writes both; a context manager."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """first_step: entries at or behind it, of a session that this one resumes, are taken out.

        Raises TrainingError: the folder cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [entry for entry in read_metrics(folder) if entry["step"] <= first_step]
            partial = folder / f".{METRICS}.partial"
            partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
            os.replace(partial, folder / METRICS)
            self._file = (folder / METRICS).open("a", encoding="utf-8", buffering=1)
            self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise TrainingError(f"{folder} cannot be written: {error}") from error

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()
        self._file.close()

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """One entry. Nested figures are named with slashes on TensorBoard."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in _flat(figures):
            self._board.add_scalar(name, value, step)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
