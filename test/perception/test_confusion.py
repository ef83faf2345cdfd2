# SPDX-License-Identifier: Apache-2.0
"""Pairs of what was there and what was seen, and the tables that are counted from them."""

from __future__ import annotations

from typing import Any

import pytest

from chefmate.bench_perception import as_text, count_runs
from chefmate_policy.perception.confusion import pair, right, zones
from chefmate_policy.perception.workcell import ELSEWHERE, GRIPPER, HOLDER, PLATE, SeenObject, Workcell

BREAD, CHEESE = SeenObject("bread", HOLDER, 0), SeenObject("cheese", HOLDER, 1)
SECOND = SeenObject("bread", HOLDER, 3)
LAID = SeenObject("bread", PLATE, stack_index=0, confidence=0.8)


def test_equal_instances_are_paired_whatever_their_order_and_confidence() -> None:
    found = pair([BREAD, CHEESE, SECOND], [SECOND, SeenObject("cheese", HOLDER, 1, confidence=0.5), BREAD])
    assert all(map(right, found)) and len(found) == 3


def test_a_slice_seen_elsewhere_is_paired_by_its_class_and_another_class_by_its_place() -> None:
    moved, tomato = SeenObject("bread", GRIPPER), SeenObject("tomato", HOLDER, 1)
    assert pair([BREAD, CHEESE], [moved, tomato]) == [(CHEESE, tomato), (BREAD, moved)]


def test_what_is_not_seen_and_what_is_invented_stand_alone() -> None:
    arm = SeenObject("patty", ELSEWHERE)
    assert pair([BREAD, CHEESE], [CHEESE, arm]) == [(CHEESE, CHEESE), (BREAD, None), (None, arm)]
    assert not right((BREAD, None)) and not right((None, arm))


def test_one_of_two_breads_is_not_counted_for_both() -> None:
    assert pair([BREAD, SECOND], [SECOND]) == [(SECOND, SECOND), (BREAD, None)]


def test_a_wrong_layer_is_wrong() -> None:
    assert not right((LAID, SeenObject("bread", PLATE, stack_index=1)))
    assert right((LAID, SeenObject("bread", PLATE, stack_index=0)))


def test_zones_are_slots_then_the_plate_from_the_lowest_up() -> None:
    top = SeenObject("cheese", PLATE, stack_index=1)
    cell = Workcell(0.0, (LAID, top, SECOND, SeenObject("patty", GRIPPER)))
    assert zones(cell, 5) == ((), (), (), ("bread",), (), ("bread", "cheese"))


def state(pairs: list[Any], visible: bool = True, **changes: Any) -> dict[str, Any]:
    zone = ([], [], 0.0)
    values = {"plate_visible": visible, "holder_visible": visible, "settled": True, "pairs": pairs}
    return {**values, "zones": [zone] * 6, "verdicts": [], **changes}


def run(states: list[Any], **changes: Any) -> dict[str, Any]:
    values = {"outcome": "SUCCESS", "stacked": True, "made": True, "attempts": [], "states": states}
    return {**values, **changes}


HELD, GRIPPED = ["bread", "holder", 0, -1], ["bread", "gripper", 255, -1]


def test_rows_tell_what_is_hidden_and_what_the_state_vouches_for() -> None:
    figures = count_runs(
        [
            run(
                [
                    state([(HELD, HELD, 0.0, False)]),
                    state([(HELD, None, 0.5, False)], visible=False),
                    state([(HELD, GRIPPED, 0.5, False)]),
                    state([(None, GRIPPED, None, False)], settled=False),
                ]
            )
        ]
    )
    free, half = figures["slices"]["nothing"], figures["slices"]["25 to 75 %"]
    assert free["right"]["successes"] == free["right"]["n"] == 1
    assert (half["right"]["successes"], half["right"]["n"]) == (0, 2)
    assert (half["vouched"]["successes"], half["vouched_right"]["n"]) == (1, 1)
    whole = figures["whole_states"]
    assert (whole["all"]["successes"], whole["all"]["n"]) == (1, 4)
    assert (whole["visible"]["n"], whole["visible_settled"]["n"]) == (3, 2)
    assert figures["places"] == {
        "(nothing)": {"gripper": 1},
        "holder": {"(nothing)": 1, "gripper": 1, "holder": 1},
    }
    assert "25 to 75 %" in as_text({"expert": figures})


@pytest.mark.parametrize(("stacked", "right_claims"), [(True, 1), (False, 0)])
def test_a_claimed_sandwich_counts_only_where_the_truth_has_it(stacked: bool, right_claims: int) -> None:
    attempt = {"verdict": "SUCCESS", "truth": "SUCCESS" if stacked else "DROP", "flat": stacked}
    figures = count_runs([run([state([])], stacked=stacked, made=stacked, attempts=[attempt])])
    assert figures["sandwiches"]["claim_right"]["successes"] == right_claims
    assert figures["attempts"]["agree"]["successes"] == right_claims
    assert figures["attempts"]["matrix"] == {attempt["truth"]: {"SUCCESS": 1}}
