# SPDX-License-Identifier: Apache-2.0
"""The closed loop's figures for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chefmate_policy.obedience import seeds

__all__ = ["lines"]

SIDES = {"model": "", "node": " (the node)", "null": " (nobody says anything)"}
MET = {True: "met", False: "not met", None: "not measured"}
WIDTH = 40  # of a row's words


def lines(result: Mapping[str, Any]) -> list[str]:
    """Rows, pairs, the seeds' tests and matrix, baselines, goals; nothing where no trial ran."""
    loop = result.get("closed_loop")
    if not loop:
        return []
    text = [f"{loop['done']} of {loop['planned']} trials, {len(loop['faults'])} faults", ""]
    text += [
        "row                                      right            placed flat      contact: none / other"
    ]
    text += [_row(row) for row in loop["rows"]]
    pairs = loop["pairs"]
    text += [
        "",
        f"pairs of cell and instruction answered rightly: {words(pairs['rightly'])}",
        f"changed when it should: {words(pairs['changed'])}",
        f"stayed when it should: {words(pairs['stayed'])}",
        "",
        *_seeds(loop),
        *_baselines(loop["baselines"]),
        "",
        *(_goal(goal) for goal in loop["goals"]),
    ]
    return text + _graph(result.get("graph"))


def _seeds(loop: Mapping[str, Any]) -> list[str]:
    """Their tests and matrix; nothing where none of their cells was tried."""
    if not any(entry["rightly"] for entry in loop["matrix"]):
        return []
    return [*seeds.test_lines(loop["tests"]), "", *seeds.matrix_lines(loop["matrix"]), ""]


def words(rate: Mapping[str, Any] | None) -> str:
    """`19/20 95 % [76, 99]`; a dash of none."""
    if not rate:
        return "-"
    low, high = rate["wilson_95"]
    count = f"{rate['successes']}/{rate['n']}"
    return f"{count} {100 * rate['rate']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _row(row: Mapping[str, Any]) -> str:
    aimed = row["targeted"]
    name = f"{row['id']}: {row['words']}{SIDES[row['side']]}"
    line = f"{name:{WIDTH}.{WIDTH}} {words(row['rightly']):24}"
    if aimed:
        none, other = aimed["no_contact"]["rate"], aimed["other_first"]["rate"]
        line += f" {words(aimed['placed_flat']):24} {100 * none:.0f} % / {100 * other:.0f} %"
    return line.rstrip()


def _baselines(found: Mapping[str, Any]) -> list[str]:
    text = [f"an arm that never moves answers rightly: {words(found['no_op']['rightly'])}"]
    if null := found["null"]:
        text.append(
            f"with the null prompt the ingredient that would have been named comes first:"
            f" {words(null['followed'])}; by chance {100 * null['chance']:.0f} %"
        )
    if expert := found["expert"]:
        text.append(f"the expert answers rightly: {words(expert['rightly'])}")
    return text


def _goal(goal: Mapping[str, Any]) -> str:
    if goal["met"] is None:
        return f"goal {goal['words']}: not measured"
    few = "" if goal["enough"] else f" (of {goal['n']} trials alone)"
    return (
        f"goal {goal['words']} >= {100 * goal['wanted']:.0f} %: {100 * goal['point']:.1f} %,"
        f" lower bound {100 * goal['lower']:.1f} %: {MET[goal['met']]}{few}"
    )


def _graph(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    text = ["", "through the real graph:", *(_row(row) for row in found["rows"])]
    against = found["against_lockstep"]
    for name in ("rightly", "placed_flat"):
        gap = against[name]
        if gap["difference"] is None:
            continue
        low, high = gap["interval_95"]
        text.append(
            f"{name}: graph less lockstep {100 * gap['difference']:+.0f} points [{100 * low:+.0f},"
            f" {100 * high:+.0f}] over {against['pairs']} pairs: both {gap['both']},"
            f" lockstep alone {gap['one']}, graph alone {gap['other']}, neither {gap['neither']}"
        )
    return text
