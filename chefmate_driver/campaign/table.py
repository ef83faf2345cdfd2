# SPDX-License-Identifier: Apache-2.0
"""What the campaign's results amount to, for each class of fault."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chefmate_driver.campaign.classes import CLASSES, REACTION, RECOVERY, FaultClass
from chefmate_driver.campaign.run import Result


@dataclass(frozen=True)
class Row:
    """One class of fault. Times in s; None where no run had one."""

    fault: str
    runs: int
    violations: int  # runs with at least one
    hangs: int
    unnamed: int
    problems: int  # runs that did not recover, or could not be judged
    stopped: int  # runs in which the arm braked or went to FAULT
    reaction: tuple[float, float] | None  # p50 and the longest
    reaction_allowed: float
    recovery: tuple[float, float] | None
    late: int  # runs with a reaction or recovery longer than allowed
    failed: tuple[int, ...]  # seeds of the runs that broke a promise


def rows(results: Sequence[Result]) -> list[Row]:
    """A row for each class that has results, in the order of CLASSES."""
    return [
        _row(fault_class, found)
        for fault_class in CLASSES
        if (found := [result for result in results if result.fault == fault_class.kind.value])
    ]


def breaks(result: Result, fault_class: FaultClass) -> list[str]:
    """The promises that a run breaks, in words."""
    return result.failures(max(REACTION, fault_class.argued), RECOVERY)


def class_of(result: Result) -> FaultClass:
    """The class of a result's fault."""
    return next(entry for entry in CLASSES if entry.kind.value == result.fault)


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """For --json: rows, sums, and every run that broke a promise."""
    return {
        "runs": len(results),
        "violations": sum(bool(result.violations) for result in results),
        "hangs": sum(bool(result.hang) for result in results),
        "unnamed": sum(bool(result.unnamed) for result in results),
        "classes": [asdict(row) for row in rows(results)],
        "failed": [
            {**asdict(result), "breaks": broken}
            for result in results
            if (broken := breaks(result, class_of(result)))
        ],
    }


def _row(fault_class: FaultClass, results: list[Result]) -> Row:
    allowed = max(REACTION, fault_class.argued)
    return Row(
        fault=fault_class.kind.value,
        runs=len(results),
        violations=sum(bool(result.violations) for result in results),
        hangs=sum(bool(result.hang) for result in results),
        unnamed=sum(bool(result.unnamed) for result in results),
        problems=sum(bool(result.problem) for result in results),
        stopped=sum(result.outcome in ("braked", "fault") for result in results),
        reaction=_spread(result.reaction for result in results),
        reaction_allowed=allowed,
        recovery=_spread(result.recovery for result in results),
        late=sum(
            (result.reaction or 0.0) > allowed or (result.recovery or 0.0) > RECOVERY for result in results
        ),
        failed=tuple(result.seed for result in results if breaks(result, fault_class)),
    )


def _spread(values: Iterable[float | None]) -> tuple[float, float] | None:
    known = sorted(value for value in values if value is not None)
    return (known[len(known) // 2], known[-1]) if known else None
