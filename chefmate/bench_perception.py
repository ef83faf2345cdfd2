# SPDX-License-Identifier: Apache-2.0
"""`chefmate bench perception`: what the scene camera's states are worth against the twin's truth.

Sandwiches made in lockstep (`chefmate.perception_runs`) by the expert and by a learned policy. Counted are
states 0.5 s apart, whatever the arm does; the verdicts of the sequencer beside those that the truth gives
for the same moments; and whole sandwiches. States of one run resemble each other: intervals, which take them
for independent, are too narrow for what a table unlike these would give.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from chefmate.graph import EXPERT, policy_parameters
from chefmate.workers import die_with_parent, one_thread_each
from chefmate_driver.kitchen.render import import_mujoco
from chefmate_policy.intervals import rate

RUNS = 8  # of each policy, unless --runs says otherwise: more than 500 states in all
BANDS = ((0.005, "nothing"), (0.25, "up to 25 %"), (0.75, "25 to 75 %"), (1.01, "more than 75 %"))
COVERED = "under other slices"
NOTHING = "(nothing)"
LATENCY = 0.15  # s of a learned policy's inference and its cameras: runs do not depend on the machine

Say = Callable[[str], None]
Work = tuple[str, str, str, int, list[int]]  # name, backend, checkpoint, seed, numbers


def bench_perception(policy: str, runs: int, seed: int, workers: int | None, say: Say) -> dict[str, Any]:
    """Makes and counts `runs` sandwiches with the expert, and as many with a learned policy.

    policy: as in `up`; expert: the expert alone. Raises ArgumentError, BackendError, KitchenError.
    """
    policies = [(EXPERT, EXPERT, "")]
    if policy != EXPERT:
        found = policy_parameters(policy)
        policies.append((Path(policy).name, found["backend"], found.get("checkpoint", "")))
    import_mujoco()  # chooses the renderer, for the workers too
    one_thread_each()
    count = workers or len(os.sched_getaffinity(0))
    work: list[Work] = []
    for name, backend, checkpoint in policies:
        parts = max(1, min(runs, -(-count // len(policies))))
        work += [(name, backend, checkpoint, seed, list(range(part, runs, parts))) for part in range(parts)]
    made: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(count, len(work)), context, die_with_parent, (signal.SIGKILL,)) as pool:
        for part in pool.map(make_runs, work):
            made += part
            say(f"perception: {len(made)} of {runs * len(policies)} runs")
    made.sort(key=lambda run: ([name for name, _, _ in policies].index(run["policy"]), run["number"]))
    document: dict[str, Any] = {"seed": seed, "runs": runs, "latency_s": LATENCY}
    for name in dict.fromkeys(name for name, _, _ in policies):
        document[name] = count_runs([run for run in made if run["policy"] == name])
    document["all"] = count_runs(made)
    say(as_text(document))
    document["made"] = made
    return document


def make_runs(work: Work) -> list[dict[str, Any]]:
    """Some runs of one policy, in a process of their own."""
    name, backend, checkpoint, seed, numbers = work
    import_mujoco()
    from chefmate.perception_runs import Runner

    runner = Runner(name, backend, checkpoint, None if backend == "expert" else LATENCY)
    try:
        return [runner.run(seed, number).to_dict() for number in numbers]
    finally:
        runner.close()


def count_runs(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of some runs; see `as_text`."""
    states = [state for run in runs for state in run["states"]]
    pairs = [(state, *pairing) for state in states for pairing in state["pairs"]]
    attempts = [attempt for run in runs for attempt in run["attempts"]]
    moments = [state["verdicts"] for state in states if state["verdicts"]]
    return {
        "runs": len(runs),
        "states": len(states),
        "arm_hides": sum(any(share >= BANDS[0][0] for _, _, share in state["zones"]) for state in states),
        "stacks": sum(len(state["zones"][-1][0]) > 1 for state in states),
        "whole_states": _whole(states),
        "slices": _by_band(
            (
                (_band(share, covered), _visible(state, there), there == seen, state["settled"])
                for state, there, seen, share, covered in pairs
                if there is not None
            )
        ),
        "zones": _by_band(
            (
                (
                    _band(share, False),
                    state["plate_visible" if last else "holder_visible"],
                    there == seen,
                    state["settled"],
                )
                for state in states
                for last, there, seen, share in (
                    (number == len(state["zones"]) - 1, *zone) for number, zone in enumerate(state["zones"])
                )
            )
        ),
        "places": _matrix((_place(there), _place(seen)) for _, there, seen, _, _ in pairs),
        "classes": _matrix(
            (there[0], seen[0]) for _, there, seen, _, _ in pairs if there and seen and there[1:] == seen[1:]
        ),
        "moments": _agreement(moments),
        "attempts": _agreement([(attempt["verdict"], attempt["truth"]) for attempt in attempts]),
        "success_flat": _rate(
            attempt["flat"] for attempt in attempts if attempt["verdict"] == attempt["truth"] == "SUCCESS"
        ),
        "sandwiches": {
            "claimed": sum(run["outcome"] == "SUCCESS" for run in runs),
            "stacked": sum(run["stacked"] for run in runs),
            "made": sum(run["made"] for run in runs),
            "claim_right": _rate((run["outcome"] == "SUCCESS") == run["stacked"] for run in runs),
            "outcomes": dict(Counter(run["outcome"] for run in runs)),
        },
    }


def _whole(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How often a whole state is right: of all, of those that say that nothing is hidden, of those of them
    whose truth has settled."""
    clear = [state for state in states if state["plate_visible"] and state["holder_visible"]]
    return {
        "all": _rate(map(_right, states)),
        "visible": _rate(map(_right, clear)),
        "visible_settled": _rate(_right(state) for state in clear if state["settled"]),
    }


def _right(state: dict[str, Any]) -> bool:
    return all(there == seen for there, seen, _, _ in state["pairs"])


def _visible(state: dict[str, Any], there: Sequence[Any]) -> bool:
    """Whether the state vouches for the place of a slice."""
    flags = {"holder": state["holder_visible"], "plate": state["plate_visible"]}
    return bool(flags.get(there[1], state["holder_visible"] and state["plate_visible"]))


def _band(share: float, covered: bool) -> str:
    return COVERED if covered else next(name for limit, name in BANDS if share < limit)


def _by_band(items: Iterable[tuple[str, bool, bool, bool]]) -> dict[str, Any]:
    """Rows by what is hidden: how often it is vouched for, and right of all, of what is vouched for, and of
    that where the truth has settled."""
    rows: dict[str, list[tuple[bool, bool, bool]]] = {}
    for band, *item in items:
        rows.setdefault(band, []).append((item[0], item[1], item[2]))
    return {
        band: {
            "right": _rate(right for _, right, _ in rows[band]),
            "vouched": _rate(vouched for vouched, _, _ in rows[band]),
            "vouched_right": _rate(right for vouched, right, _ in rows[band] if vouched),
            "vouched_settled_right": _rate(
                right for vouched, right, settled in rows[band] if vouched and settled
            ),
        }
        for band in (*(name for _, name in BANDS), COVERED)
        if band in rows
    }


def _place(item: Sequence[Any] | None) -> str:
    return NOTHING if item is None else str(item[1])


def _matrix(items: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Counts by what was there and what was seen."""
    counts = Counter(items)
    return {
        there: {seen: counts[there, seen] for _, seen in sorted(counts) if counts[there, seen]}
        for there in sorted({there for there, _ in counts})
    }


def _agreement(items: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {
        "agree": _rate(given == true for given, true in items),
        "matrix": _matrix((true, given) for given, true in items),  # rows: the truth
    }


def _rate(hits: Iterable[bool]) -> dict[str, Any] | None:
    counted = list(hits)
    return rate(sum(counted), len(counted)) if counted else None


def as_text(document: dict[str, Any]) -> str:
    """The tables, for people."""
    lines = []
    for name, part in document.items():
        if isinstance(part, dict) and "states" in part:
            lines += _part_text(name, part)
    return "\n".join(lines)


def _part_text(name: str, part: dict[str, Any]) -> list[str]:
    whole, made = part["whole_states"], part["sandwiches"]
    lines = [
        f"perception, {name}: {part['states']} states of {part['runs']} runs, the arm hides some of a zone in"
        f" {part['arm_hides']}, stacks of two and more in {part['stacks']}",
        f"  whole state right: {_words(whole['all'])}; where it says that nothing is hidden"
        f" {_words(whole['visible'])}; of those, settled for 0.5 s {_words(whole['visible_settled'])}",
    ]
    for what in ("slices", "zones"):
        lines.append(f"  {what} by what the arm hides: right; vouched for; right of these; settled")
        for band, row in part[what].items():
            figures = (row[key] for key in ("right", "vouched", "vouched_right", "vouched_settled_right"))
            lines.append(f"    {band:20s} {'; '.join(_words(figure) for figure in figures)}")
    for what in ("places", "classes"):
        lines += _matrix_text(f"{what}, rows the truth", part[what])
    for what in ("moments", "attempts"):
        lines.append(f"  verdicts of {what}, sight as truth: {_words(part[what]['agree'])}")
        lines += _matrix_text(f"verdicts of {what}, rows the truth", part[what]["matrix"])
    lines.append(
        f"  sandwiches: {made['claimed']} claimed, {made['stacked']} stacked so by the truth, {made['made']}"
        f" of them flat and released; claim right {_words(made['claim_right'])};"
        f" SUCCESS of a step lies flat {_words(part['success_flat'])}"
    )
    return lines


def _matrix_text(title: str, matrix: dict[str, dict[str, int]]) -> list[str]:
    columns = sorted({seen for row in matrix.values() for seen in row})
    width = max([12, *(len(column) + 2 for column in columns)])
    head = f"    {'':14s}" + "".join(f"{column:>{width}s}" for column in columns)
    rows = [
        f"    {there:14s}" + "".join(f"{row.get(column, 0):>{width}d}" for column in columns)
        for there, row in matrix.items()
    ]
    return [f"  {title}:", head, *rows]


def _words(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "-"
    low, high = figure["wilson_95"]
    share = f"{100 * figure['rate']:.1f} % ({100 * low:.1f}..{100 * high:.1f})"
    return f"{figure['successes']}/{figure['n']} = {share}"
