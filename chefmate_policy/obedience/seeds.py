# SPDX-License-Identifier: Apache-2.0
"""The seeds' Tests 1 to 3 and their behaviour matrix, in their own form.

Source: their documents multitask_training_analysis.md ("Test Cases", "Detailed Behavior Matrix") and
project_log_language_conditioning.md; what their robot did is quoted from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chefmate_policy.obedience.cells import BREAD, CELLS, CHEESE
from chefmate_policy.obedience.scoring import Judged, share

__all__ = ["matrix", "matrix_lines", "test_lines", "tests"]

HEADER = ("Scenario", "Cheese Location", "Bread Location", "Robot Action", "Language Instruction Effect")
LOCATIONS = {"holder": "Holder", "plate": "Plate", "nowhere": "None"}
FOLLOWS, STAYS, IGNORES = "Follows instruction", "Leaves all alone, as is right", "Ignores instruction"
# Robot Action by scenario; the effect was "Ignores instruction" in all of them.
SEEDS_ACTIONS = {
    1: "Randomly picks one",
    2: "Picks cheese",
    3: "Picks bread",
    4: "Stops",
    5: "Stops",
    6: "Stops",
    7: "Random search",
    8: "Stops",
}


@dataclass(frozen=True)
class SeedsTest:
    """One of their tests. cell, named, negated: which trials; passed: whether what they expected came."""

    name: str
    setup: str
    instruction: str
    expected: str
    did: str  # their robot
    cell: str
    named: str
    negated: bool
    passed: Callable[[Judged], bool]


def _picks(kind: str) -> Callable[[Judged], bool]:
    return lambda item: item.first == kind


CHEESE_SENTENCE = "pick up the yellow cheese and put it into the white plate"
BREAD_SENTENCE = "pick up the bread and put it into the white plate"
BOTH, MOVED = "cheese and bread in the holder", "cheese on the plate by hand, bread in the holder"
TESTS = (
    SeedsTest(
        "1, cheese",
        BOTH,
        CHEESE_SENTENCE,
        "picks up cheese",
        "picks up cheese",
        "holder-holder",
        CHEESE,
        False,
        _picks(CHEESE),
    ),
    SeedsTest(
        "1, bread",
        BOTH,
        BREAD_SENTENCE,
        "picks up bread",
        "picks up cheese",
        "holder-holder",
        BREAD,
        False,
        _picks(BREAD),
    ),
    SeedsTest(
        "2",
        BOTH,
        "do not pick up the cheese",
        "does nothing or picks up bread",
        "picks up cheese",
        "holder-holder",
        CHEESE,
        True,
        lambda item: CHEESE not in item.touched,
    ),
    SeedsTest(
        "3", MOVED, BREAD_SENTENCE, "picks up bread", "stops", "plate-holder", BREAD, False, _picks(BREAD)
    ),
)


def tests(items: Iterable[Judged]) -> list[dict[str, Any]]:
    """Their tests, with what was expected and how often it came."""
    items = list(items)
    found = []
    for test in TESTS:
        rows = ("cell_negated",) if test.negated else ("correct", "swapped")
        mine = [i for i in items if i.trial.cell == test.cell and _about(i, rows, test.named)]
        found.append(
            {
                "test": test.name,
                "setup": test.setup,
                "instruction": test.instruction,
                "expected": test.expected,
                "seeds": test.did,
                "passed": share(mine, test.passed),
                "did": dict(Counter(item.did for item in mine).most_common()),
            }
        )
    return found


def matrix(items: Iterable[Judged]) -> list[dict[str, Any]]:
    """Their matrix, and the ninth cell that is not in it."""
    items = list(items)
    found = []
    for cell in CELLS:
        mine = [i for i in items if i.trial.cell == cell.name and i.row.id in ("correct", "swapped")]
        did = {
            kind: dict(Counter(i.did for i in mine if i.trial.last.named == kind).most_common())
            for kind in (CHEESE, BREAD)
        }
        rightly = share(mine, lambda item: item.rightly)
        found.append(
            {
                "scenario": cell.scenario,
                "cheese": LOCATIONS[cell.cheese],
                "bread": LOCATIONS[cell.bread],
                "action": _action(did),
                "effect": _effect(mine),
                "seeds_action": SEEDS_ACTIONS.get(cell.scenario),
                "seeds_effect": IGNORES if cell.scenario in SEEDS_ACTIONS else None,
                "did": did,
                "rightly": rightly,
            }
        )
    return found


def matrix_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Their table, in Markdown."""
    lines = [f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    for entry in entries:
        cells = (entry["scenario"], entry["cheese"], entry["bread"], entry["action"], entry["effect"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def test_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Their tests, in their words."""
    lines = []
    for entry in entries:
        passed = entry["passed"]
        count = f"{passed['successes']} of {passed['n']}" if passed else "not run"
        lines += [
            f"Test {entry['test']} ({entry['setup']}; the seeds' robot: {entry['seeds']})",
            f'  Instruction: "{entry["instruction"]}"',
            f"  Expected: robot {entry['expected']}",
            f"  Actual: {_counts(entry['did']) or 'not run'}; as expected {count}",
        ]
    return lines


def _about(item: Judged, rows: Sequence[str], named: str) -> bool:
    return item.row.id in rows and item.trial.last.named == named


def _action(did: Mapping[str, Mapping[str, int]]) -> str:
    parts = [f"{kind} named: {_counts(counts)}" for kind, counts in did.items() if counts]
    return "; ".join(parts) or "not run"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{words} {count}x" for words, count in counts.items())


def _effect(items: Sequence[Judged]) -> str:
    if not items:
        return "not run"
    rightly = sum(item.rightly for item in items)
    follows = FOLLOWS if any(item.target for item in items) else STAYS
    return f"{follows if 2 * rightly > len(items) else IGNORES} ({rightly} of {len(items)} right)"
