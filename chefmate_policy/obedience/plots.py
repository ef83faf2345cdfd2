# SPDX-License-Identifier: Apache-2.0
"""Pictures of the report, as SVG that stands in the page itself: no files beside it, sharp in print."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_gap", "draw_rows", "draw_separation", "draw_trainable", "draw_words"]

Figures = Mapping[str, Any]

# colours that differ in lightness too (Okabe and Ito, 2008)
MODEL, NODE, GREY, ACCENT = "#0072b2", "#777777", "#bbbbbb", "#d55e00"
ROW_HEIGHT = 0.3  # inches
WIDTH = 8.5  # inches
PLACES = {
    ("backbone", "image"): "backbone,\nimages",
    ("backbone", "text"): "backbone,\nwords",
    ("self_attention", "image"): "at the head,\nimages",
    ("self_attention", "text"): "at the head,\nwords",
}


def draw_rows(rows: Sequence[Figures]) -> str:
    """Share of right answers by row of the battery, with intervals. rows: those that have a `rightly`."""
    figure, axes = _figure(max(2.0, 1.0 + ROW_HEIGHT * len(rows)))
    for place, row in enumerate(rows):
        rate = row["rightly"]
        low, high = rate["wilson_95"]
        colour = NODE if row["side"] == "node" else MODEL
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([rate["rate"]], [place], "o", color=colour)
    axes.set_yticks(range(len(rows)), [f"{row['words']} ({row['rightly']['n']})" for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(-0.02, 1.02), xlabel="share of trials answered rightly (number of trials)")
    axes.grid(axis="x", color="#e4e4e0")
    return _svg(figure)


def draw_separation(figures: Figures) -> str:
    """Cosines against their baseline, and the probe against shuffled labels, by place."""
    places = [
        (label, figures["stages"][stage][tokens])
        for (stage, tokens), label in PLACES.items()
        if (figures["stages"].get(stage) or {}).get(tokens)
    ]
    figure, (left, right) = _figure(3.2, 2)
    labels, xs = [label for label, _ in places], range(len(places))
    cosines = [found["cosine"] for _, found in places]
    for key, colour, name in (
        ("same_observation", MODEL, "two instructions, one picture"),
        ("random_pairs", GREY, "any two inputs"),
    ):
        left.plot(xs, [one[key] for one in cosines], "o", color=colour, label=name)
    left.axhline(0.95, color=ACCENT, linestyle=":", linewidth=1)
    left.set(title="Cosine of the features", ylim=(min(0.0, *_all(cosines)) - 0.05, 1.05))
    probes = [found["probe_within"] for _, found in places]
    right.errorbar(
        xs,
        [one["value"] for one in probes],
        [[one["value"] - one["low"] for one in probes], [one["high"] - one["value"] for one in probes]],
        fmt="o", color=MODEL, capsize=3, label="which ingredient is named",
    )  # fmt: skip
    right.plot(
        xs, [found["shuffled"]["mean"] for _, found in places], "x", color=GREY, label="shuffled labels"
    )
    right.axhline(places[0][1]["chance"], color=GREY, linestyle="--", linewidth=1)
    right.set(title="Told right by a linear probe", ylim=(-0.05, 1.05))
    for axes in (left, right):
        axes.set_xticks(xs, labels, fontsize=8)
        axes.legend(fontsize=8, loc="lower right")
    return _svg(figure)


def draw_gap(figures: Figures) -> str:
    """Distances of action chunks, and how often the words' direction is taken."""
    figure, (left, right) = _figure(2.8, 2)
    bars = (
        ("other words", figures["between_instructions"], MODEL),
        ("other noise", figures["between_noises"], GREY),
        ("other demonstration", figures["between_demonstrations"], GREY),
    )
    _bars(left, bars)
    left.set(title=f"How far apart actions are ({figures['unit']})")
    shares = [("named ingredient", figures["directional"], MODEL)]
    if figures.get("directional_idle"):
        shares.append(("act or stay still", figures["directional_idle"], MODEL))
    _bars(right, shares)
    right.axvline(figures["directional"]["chance"], color=ACCENT, linestyle="--", linewidth=1)
    right.set(title="Nearer to what was said (dashed: chance)", xlim=(0, 1))
    return _svg(figure)


def draw_words(figures: Figures) -> str:
    """By how much the loss on the training data rises under wrong words and wrong pictures."""
    figure, axes = _figure(1.7)
    _bars(axes, [("another sentence", figures["words"], MODEL), ("another picture", figures["sight"], GREY)])
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set(title="Rise of the error on its own training data")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
    return _svg(figure)


def draw_trainable(components: Sequence[Figures]) -> str:
    """Share of each component's parameters that differ from the base."""
    shown = [one for one in components if one["parameters"]]
    figure, axes = _figure(1.0 + 0.26 * len(shown))
    shares = [one["parameters_changed"] / one["parameters"] for one in shown]
    axes.barh(range(len(shown)), shares, color=MODEL, height=0.6)
    axes.set_yticks(
        range(len(shown)), [f"{one['name']} ({one['parameters']:,})" for one in shown], fontsize=8
    )
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.02), xlabel="share of its parameters that differ from the base")
    return _svg(figure)


def _bars(axes: Axes, bars: Sequence[tuple[str, Figures, str]]) -> None:
    for place, (_, found, colour) in enumerate(bars):
        spread = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
        axes.barh(place, found["value"], xerr=spread, color=colour, height=0.6, capsize=3)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars], fontsize=9)
    axes.invert_yaxis()


def _all(cosines: Sequence[Figures]) -> list[float]:
    return [float(value) for one in cosines for value in (one["same_observation"], one["random_pairs"])]


def _figure(height: float, columns: int = 1) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure as New

    figure = New(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _svg(figure: Figure) -> str:
    """The picture without what changes from run to run (date, ids)."""
    from matplotlib import rc_context

    target = io.StringIO()
    with rc_context({"svg.hashsalt": "chefmate", "svg.fonttype": "none"}):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    return text[text.index("<svg") :]
