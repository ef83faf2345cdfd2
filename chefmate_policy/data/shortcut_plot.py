# SPDX-License-Identifier: Apache-2.0
"""Decodability of the instruction over episode time, drawn."""

from __future__ import annotations

from pathlib import Path

from chefmate_policy.data.lerobot_layout import DatasetError
from chefmate_policy.data.shortcut_report import LIMIT, ShortcutReport

__all__ = ["draw"]


def draw(report: ShortcutReport, file: Path) -> None:
    """Writes one picture. Raises DatasetError: the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(
        title=f"{report.verdict.value}: {report.episodes} episodes, {report.layouts} layouts",
        xlabel="share of the episode",
        ylabel="instructions told right",
        ylim=(0, 1.02),
    )
    if report.curve:
        times = [point.time for point in report.curve]
        scores = [point.score for point in report.curve]
        (line,) = axes.plot(times, [score.accuracy for score in scores], label="frames at that time")
        axes.fill_between(
            times,
            [score.low for score in scores],
            [score.high for score in scores],
            color=line.get_color(),
            alpha=0.2,
        )
    if report.before is not None:
        score = report.before
        axes.errorbar(
            [0],
            [score.accuracy],
            [[score.accuracy - score.low], [score.high - score.accuracy]],
            marker="o",
            capsize=5,
            color="black",
            label=f"before a joint moved by {report.moved:.0%} of its range; this decides",
        )
    if report.chance is not None:
        axes.axhspan(0, report.chance[1], alpha=0.15, color="gray", label="shuffled labels, at most")
    axes.axhline(LIMIT, linestyle="--", color="red", label=f"limit {LIMIT:.0%}")
    axes.legend(loc="lower right")
    try:
        figure.savefig(file, dpi=100)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be written: {error}") from None
