# SPDX-License-Identifier: Apache-2.0
"""The page about a policy's obedience, for people: one HTML file without anything from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chefmate_policy.errors import PolicyError
from chefmate_policy.obedience import plots
from chefmate_policy.obedience.verdicts import judge

__all__ = ["ReportError", "write"]

Figures = Mapping[str, Any]

TEMPLATE = "report.html"
COLOURS = {"obeys": "#2e7d32", "fumbles": "#9e9d24", "in-part": "#ef8f00", "disobeys": "#c62828"}
UNKNOWN = "#757575"
WANTED = {"named": "what is named", "nothing": "nothing", "mixed": "either"}
SIDES = {"model": "the model", "node": "the node", "null": "no words at all"}
NONE = "-"
HOW = (
    ("command", "command"), ("machine", "machine"), ("made", "when"), ("seconds", "seconds it took"),
)  # fmt: skip
CHECKS = {
    "trainable": (
        "What was trained",
        "The policy's weights against those of the base that it was trained from: a part that is equal to the"
        " base has learned nothing.",
    ),
    "separation": (
        "Can the words be told apart where the actions are made?",
        "Features of one picture under several instructions. Their cosine is high for any two inputs (grey),"
        " so a high cosine (dotted: 0.95) does not mean that the words are lost; a simple classifier, tried"
        " on scenes that it was not fitted on, says whether they are.",
    ),
    "gap": (
        "Do the words change the actions?",
        "The same picture and the same random numbers, only the words differ: how far do the actions part,"
        " and do they part towards what was said?",
    ),
}


class ReportError(PolicyError):
    """The report cannot be written."""


def write(result: Figures, folder: Path) -> Path:
    """Writes index.html into `folder` and returns it. result: the document of `chefmate obey`; every part of
    it may be missing. Raises ReportError: the folder cannot be written, or a picture cannot be read."""
    from jinja2 import Environment, PackageLoader

    closed, offline = result.get("closed_loop") or {}, result.get("offline") or {}
    verdict = result.get("verdicts") or judge(result).to_dict()
    rows = [row for row in closed.get("rows", ()) if row.get("rightly")]
    cells = any(row.get("rightly") for row in closed.get("matrix", ()))
    environment = Environment(
        loader=PackageLoader("chefmate_policy", "obedience"), autoescape=True, trim_blocks=True
    )
    page = environment.get_template(TEMPLATE).render(
        policy=result.get("policy") or "this policy",
        made=_made(result),
        verdict=verdict,
        colour=COLOURS.get(verdict["overall"], UNKNOWN),
        goals=[_goal(goal) for goal in closed.get("goals", ())],
        matrix=[_situation(row) for row in closed.get("matrix", ())] if cells else [],
        tests=[_test(row) for row in closed.get("tests", ())] if cells else [],
        rows=[_row(row) for row in rows],
        graph=_graph(result.get("graph") or {}),
        pairs=_pairs(closed.get("pairs") or {}),
        baselines=_baselines(closed.get("baselines") or {}),
        plots={"rows": plots.draw_rows(rows) if rows else ""},
        pictures=[_strip(picture, folder) for picture in result.get("pictures") or ()],
        checks=[*_checks(offline), *_teaching(result.get("teaching") or {})],
        how=_how(result, closed, offline),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "index.html"
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{folder} cannot be written: {error}") from error
    return file


def _made(result: Figures) -> str:
    parts = [str(result[key]) for key in ("made", "machine") if result.get(key)]
    return ", ".join(parts)


def _goal(goal: Figures) -> dict[str, str]:
    met = goal.get("met")
    said = "not measured" if met is None else "met" if met else "missed"
    if met is not None and not goal.get("enough", True):
        said += ", few trials"
    return {
        "words": str(goal["words"]),
        "wanted": _share(goal["wanted"]),
        "point": _share(goal.get("point")),
        "lower": _share(goal.get("lower")),
        "n": str(goal.get("n", 0)),
        "kind": "open" if met is None else "good" if met else "poor",
        "said": said,
    }


def _situation(row: Figures) -> dict[str, Any]:
    """A scene of the nine, with what was done by what was named."""
    seeds = [str(row[key]) for key in ("seeds_action", "seeds_effect") if row.get(key)]
    did = [{"told": f"{name} named", "counts": _counts(seen)} for name, seen in row["did"].items() if seen]
    return {
        **{key: row[key] for key in ("scenario", "cheese", "bread", "effect")},
        "seeds": ": ".join(seeds) or "not tried",
        "did": did or [{"told": NONE, "counts": NONE}],
        "kind": _kind(row.get("rightly")),
    }


def _test(row: Figures) -> dict[str, str]:
    names = ("test", "setup", "instruction", "expected", "seeds")
    return {
        **{name: str(row.get(name) or NONE) for name in names},
        "did": _counts(row.get("did") or {}),
        "passed": _rate(row.get("passed")),
        "kind": _kind(row.get("passed")),
    }


def _row(row: Figures) -> dict[str, str]:
    targeted, idle = row.get("targeted") or {}, row.get("idle") or {}
    low, high = row["rightly"]["wilson_95"]
    return {
        "words": str(row["words"]),
        "side": SIDES.get(row.get("side", ""), str(row.get("side"))),
        "wanted": WANTED.get(row["wanted"], str(row["wanted"])),
        "right": _rate(row["rightly"]),
        "interval": f"{low:.0%} to {high:.0%}",
        "followed": _short(targeted.get("followed")),
        "grasped": _short(targeted.get("grasped_named")),
        "placed": _short(targeted.get("placed_flat") or targeted.get("placed")),
        "none": _short(targeted.get("no_contact") or idle.get("touched_nothing")),
    }


def _pairs(pairs: Figures) -> dict[str, str] | None:
    if not pairs.get("rightly"):
        return None
    return {name: _rate(pairs.get(name)) for name in ("rightly", "changed", "stayed")}


def _graph(graph: Figures) -> dict[str, Any] | None:
    """Trials of the running graph, and how they differ from the same ones in lockstep."""
    if not graph.get("rows"):
        return None
    against, lines = graph.get("against_lockstep") or {}, []
    for name, words in (("rightly", "answered rightly"), ("placed_flat", "laid flat on the plate")):
        found = against.get(name) or {}
        if found.get("difference") is not None:
            low, high = found["interval_95"]
            lines.append(
                f"{words}: {100 * found['difference']:+.0f} points against lockstep"
                f" (95 %: {100 * low:+.0f} to {100 * high:+.0f}) in {against['pairs']} pairs of trials;"
                f" both {found['both']}, lockstep alone {found['one']}, graph alone {found['other']},"
                f" neither {found['neither']}"
            )
    return {"rows": [_row(row) for row in graph["rows"] if row.get("rightly")], "against": lines}


def _baselines(found: Figures) -> list[str]:
    """For comparison: what doing nothing, the demonstrator and the policy without words get."""
    lines = []
    for name, words in (("no_op", "An arm that never moves"), ("expert", "The demonstrator")):
        rate = (found.get(name) or {}).get("rightly")
        if rate:
            lines.append(f"{words} is right in {_rate(rate)}.")
    null = found.get("null") or {}
    if null.get("followed"):
        lines.append(
            f"Without words (null prompt) the ingredient that would have been named is touched first in"
            f" {_rate(null['followed'])}; chance is {_share(null.get('chance'))}."
        )
    return lines


def _checks(offline: Figures) -> list[dict[str, str]]:
    found = []
    for row in offline.get("checks", ()):
        title, about = CHECKS.get(row["check"], (row["check"], ""))
        figures = row.get("figures") or {}
        note = ""
        plot = ""
        if row.get("possible") and row["check"] == "trainable" and figures.get("components"):
            plot = plots.draw_trainable(figures["components"])
        elif row.get("possible") and row["check"] == "separation":
            plot, note = plots.draw_separation(figures), str(figures.get("seeds_reading") or "")
        elif row.get("possible") and row["check"] == "gap":
            plot = plots.draw_gap(figures)
        found.append({"title": title, "about": about, "line": row["line"], "plot": plot, "note": note})
    return found


def _teaching(teaching: Figures) -> list[dict[str, str]]:
    if not teaching:
        return []
    data, words = teaching["data"], teaching.get("words")
    about = (
        "The episodes that it was trained on: can the sentence be guessed from the picture before the arm"
        " moves? And does the policy predict what was done there worse, when it is told something else?"
    )
    line = f"{str(data['verdict']).replace('_', ' ').lower()}: {data['reason']}"
    plot = plots.draw_words(words) if words else ""
    title = "What its training data teaches"
    return [{"title": title, "about": about, "line": line, "plot": plot, "note": str(teaching["dataset"])}]


def _how(result: Figures, closed: Figures, offline: Figures) -> list[tuple[str, str]]:
    lines = [(words, str(result[key])) for key, words in HOW if result.get(key) is not None]
    if closed:
        lines.append(("trials", f"{closed.get('done')} of {closed.get('planned')} planned, without help"))
        lines.append(("seed", str(closed.get("seed"))))
        if faults := closed.get("faults"):
            lines.append(("trials that do not count", f"{len(faults)} (their fault is in result.json)"))
        latency = closed.get("latency") or {}
        if latency.get("s") is not None:
            lines.append(("time that the model took to answer", f"{latency['s']:.3f} s ({latency['mode']})"))
    if seen := offline.get("observations"):
        where = f"{seen['layouts']} scenes of the {seen['source']}, {seen['instructions']} instructions"
        lines.append(("looked inside with", where))
    return lines


def _strip(picture: Figures, folder: Path) -> dict[str, Any]:
    frames = [_inline(frame, folder) for frame in picture["frames"]]
    return {"title": picture["title"], "caption": picture.get("caption", ""), "frames": frames}


def _inline(frame: Any, folder: Path) -> str:
    """A picture in the page itself, of an array [height, width, 3] RGB or a file (relative to the folder)."""
    if isinstance(frame, np.ndarray):
        import cv2

        _, coded = cv2.imencode(".jpg", np.ascontiguousarray(frame[..., ::-1]))
        return f"data:image/jpeg;base64,{base64.b64encode(coded.tobytes()).decode()}"
    file = folder / str(frame)
    kind = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}.get(file.suffix.lower())
    if kind is None:
        raise ReportError(f"{file} is no picture of the report: use .png or .jpg")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ReportError(f"picture {file} cannot be read: {error}") from error
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _kind(rate: Figures | None) -> str:
    """Colour of a share: its interval above or below nine and five of ten."""
    if not rate:
        return "open"
    low, high = rate["wilson_95"]
    return "good" if rate["rate"] >= 0.9 and low > 0.5 else "poor" if high < 0.9 else "open"


def _counts(seen: Figures) -> str:
    ordered = sorted(seen.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{what} {count}" for what, count in ordered if count) or NONE


def _rate(rate: Figures | None) -> str:
    return f"{rate['successes']} of {rate['n']} ({rate['rate']:.0%})" if rate else NONE


def _short(rate: Figures | None) -> str:
    return f"{rate['rate']:.0%}" if rate else NONE


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.0%}"
