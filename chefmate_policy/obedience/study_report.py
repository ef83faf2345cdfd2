# SPDX-License-Identifier: Apache-2.0
"""The study's results as tables in Markdown and as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chefmate_policy.obedience.seeds import matrix_lines
from chefmate_policy.obedience.summary import words

__all__ = ["draw", "page"]

Row = Mapping[str, Any]
HEADER = (
    "data", "trains", "share, here / 3 B", "prompt", "named first", "of first contacts", "placed",
    "changed with the words", "none touched", "action gap",
)  # fmt: skip
BASES = {"base": "the base, on its own", "base-untuned": "the base, on the new two"}
NOTES = {"batch-words": ", one sample's words for the whole batch"}
FOLLOWED, OTHER, GREY = "#0072b2", "#d55e00", "#bbbbbb"  # Okabe and Ito, 2008


def page(results: Row) -> str:
    """Machine, data, the table of cells, what was touched by name, idle rows, the seeds' matrix of each."""
    rows = [row for row in results["rows"] if row["figures"]]
    parts = [_about(results), _table(HEADER, [_cells(row) for row in rows])]
    touched = [_touched(row) for row in rows]
    parts.append(_table(("cell", "named", "touched first"), [line for lines in touched for line in lines]))
    idle = [_idle(row) for row in rows]
    parts.append(
        _table(("cell", "told not to: touched nothing", "banana: touched nothing"), [i for i in idle if i])
    )
    runs = [_run(row, run) for row in results["rows"] for run in row["runs"]]
    parts.append(_table(("run", "steps", "samples", "loss", "named first", "offline"), runs))
    for row in rows:
        if row["figures"]["matrix"]:
            parts.append(f"**{title(row)}**\n\n" + "\n".join(matrix_lines(row["figures"]["matrix"])))
    if results["failures"]:
        parts.append("Not done:\n\n" + "\n".join(f"- {k}: {why}" for k, why in results["failures"].items()))
    if results["missing"]:
        lacking = ", ".join(f"{count} of {name}" for name, count in results["missing"].items())
        parts.append(f"Trials that were not run: {lacking}.")
    return "\n\n".join(parts) + "\n"


def title(row: Row) -> str:
    """A cell in words."""
    if row["cell"] in BASES:
        return BASES[row["cell"]]
    guided = f", guidance {row['guidance']:g}" if row["guidance"] != 1.0 else ""
    return f"{row['data']}, {row['trainable']}, {row['prompt']}{guided}{NOTES.get(row['plant'], '')}"


def draw(results: Row, file: Path) -> None:
    """What is touched first where one of two is named, by cell: the named one, the other one, nothing.

    Raises ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in results["rows"] if row["figures"]]
    figure = Figure(figsize=(8.5, 1.2 + 0.36 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        named = row["figures"]["named"]
        followed, other = named["followed"]["rate"], named["other_first"]["rate"]
        axes.barh(place, followed, color=FOLLOWED, height=0.6, label="the named one" if not place else None)
        axes.barh(
            place, other, left=followed, color=OTHER, height=0.6, label="the other one" if not place else None
        )
        axes.barh(
            place,
            max(0.0, 1.0 - followed - other),
            left=followed + other,
            color=GREY,
            height=0.6,
            label="nothing" if not place else None,
        )
        low, high = named["followed"]["wilson_95"]
        axes.plot([low, high], [place, place], color="black", linewidth=1.5)
    axes.set_yticks(range(len(rows)), [f"{title(row)} ({_count(row)})" for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlim=(0.0, 1.0), xlabel="first touched, share of trials (number); line: Wilson, 95 %")
    if rows:
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    FigureCanvasAgg(figure).print_png(str(file))


def _about(results: Row) -> str:
    made = ", ".join(
        f"{name} {one['episodes']} episodes ({one['frames']} frames)"
        for name, one in results["datasets"].items()
    )
    own, (one, other) = ", ".join(results["own"]), results["pair"]
    return (
        f"`{results['command']}`, {results['made']}, {results['machine']}, {results['seconds']:.0f} s."
        f" The base's own: {own}. {one} and {other} play the parts of the seeds' cheese and bread. LoRA rank"
        f" {results['rank']} here is {results['published_rank']} at the published width.\n\nData: {made}."
    )


def _cells(row: Row) -> list[str]:
    found, named = row["figures"], row["figures"]["named"]
    idle = [item["touched_nothing"] for item in found["idle"].values() if item["touched_nothing"]]
    still = f"{sum(i['successes'] for i in idle)}/{sum(i['n'] for i in idle)}" if idle else "-"
    guided = f", guidance {row['guidance']:g}" if row["guidance"] != 1.0 else ""
    return [
        BASES.get(row["cell"], row["data"] + NOTES.get(row["plant"], "")),
        row["trainable"],
        _share(row["parameters"]),
        row["prompt"] + guided,
        words(named["followed"]),
        words(named["followed_if_contact"]),
        words(named["placed_flat"]),
        words(found["changed"]),
        still,
        _gap(row),
    ]


def _share(parameters: Row | None) -> str:
    if parameters is None:
        return "-"
    shares = [100 * parameters[name]["trained"] / parameters[name]["held"] for name in ("here", "published")]
    return " / ".join(f"{share:.2f} %" for share in shares)


def _gap(row: Row) -> str:
    """Directional agreement and gain on one picture, mean over runs."""
    found = [run["look"]["gap"]["figures"] for run in row["runs"] if run.get("look")]
    found = [item for item in found if item]
    if not found:
        return "-"
    toward, gain = (sum(item[key]["value"] for item in found) / len(found) for key in ("directional", "gain"))
    return f"{100 * toward:.0f} %, gain {gain:.2f}"


def _touched(row: Row) -> list[list[str]]:
    return [
        [title(row), kind, ", ".join(f"{what} {count}" for what, count in counts.items())]
        for kind, counts in row["figures"]["touched"].items()
    ]


def _idle(row: Row) -> list[str]:
    idle = row["figures"]["idle"]
    if not idle:
        return []
    rates = [idle.get(name, {}).get("touched_nothing") for name in ("negated", "absent")]
    return [title(row), *map(words, rates)]


def _run(row: Row, run: Row) -> list[str]:
    if "steps" not in run:
        return [run["name"], run["state"], "-", "-", "-", "-"]
    told = row["figures"].get("followed_by_run", {}).get(run["name"])
    followed = f"{told['followed']}/{told['n']}" if told else "-"
    look = run.get("look") or {}
    checks = "; ".join(f"{name} {check['verdict'] or 'not possible'}" for name, check in look.items())
    loss = "-" if run["loss"] is None else f"{run['loss']:.4f}"
    return [
        run["name"],
        f"{run['steps']} of {run['of']}",
        f"{run['samples']:,}",
        loss,
        followed,
        checks or "-",
    ]


def _count(row: Row) -> int:
    return int(row["figures"]["named"]["followed"]["n"])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
