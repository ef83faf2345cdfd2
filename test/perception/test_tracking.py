# SPDX-License-Identifier: Apache-2.0
"""Memory: changes must last, layers are remembered, one slice is not counted twice."""

from __future__ import annotations

import pytest

from chefmate_policy.perception.segmentation import LooseSight, PlateSight, Sight, SlotSight
from chefmate_policy.perception.tracking import Tracker
from chefmate_policy.perception.workcell import HOLDER, Workcell

AT = (0.0, 0.0, 0.0)
FRAMES = 3


def sight(
    slots: str = "bcb",
    top: str | None = None,
    row: float = 100.0,
    hidden: bool = False,
    hidden_slot: int = -1,
    gripper: str = "",
) -> Sight:
    """Slots as letters ('.' is empty), the plate's top and the row of its face in the image."""
    names = {"b": "bread", "c": "cheese", ".": None}
    return Sight(
        slots=tuple(SlotSight(names[letter], 1.0, k == hidden_slot, AT) for k, letter in enumerate(slots)),
        plate=PlateSight(top, 1.0, (300.0, row), 2000.0 if top else 0.0, hidden, AT),
        loose=(LooseSight(gripper, "gripper", 1.0, AT),) if gripper else (),
    )


class Watched:
    def __init__(self) -> None:
        self.tracker = Tracker(3, FRAMES, moved=4.0)
        self.state = Workcell(0.0)

    def see(self, seen: Sight, times: int = FRAMES) -> Workcell:
        for _ in range(times):
            self.state = self.tracker.see(seen, 0.0)
        return self.state

    def layers(self) -> list[tuple[str, int]]:
        return [(seen.ingredient, seen.stack_index) for seen in self.state.at("plate")]


@pytest.fixture
def watched() -> Watched:
    watched = Watched()
    watched.see(sight())
    return watched


def test_nothing_counts_as_visible_before_it_was_seen() -> None:
    watched = Watched()
    state = watched.see(sight(), FRAMES - 1)
    assert not state.plate_visible and not state.holder_visible and not state.objects
    assert watched.see(sight(), 1).visible


def test_two_breads_are_two_instances(watched: Watched) -> None:
    assert [(seen.ingredient, seen.slot) for seen in watched.state.at(HOLDER)] == [
        ("bread", 0),
        ("cheese", 1),
        ("bread", 2),
    ]


def test_a_change_must_last(watched: Watched) -> None:
    watched.see(sight(".cb"), FRAMES - 1)
    assert len(watched.see(sight(), 1).at(HOLDER)) == 3
    watched.see(sight(".cb"), FRAMES)
    assert len(watched.state.at(HOLDER)) == 2


def test_layers_are_remembered_in_order(watched: Watched) -> None:
    watched.see(sight(".cb", "bread"))
    watched.see(sight("..b", "cheese"))
    watched.see(sight("...", "bread", row=80.0))
    assert watched.layers() == [("bread", 0), ("cheese", 1), ("bread", 2)]


def test_bread_on_bread_is_seen_by_its_face(watched: Watched) -> None:
    watched.see(sight(".cb", "bread"))
    watched.see(sight(".c.", "bread", gripper="bread"))
    assert watched.layers() == [("bread", 0)]
    watched.see(sight(".c.", "bread", row=91.0))
    assert watched.layers() == [("bread", 0), ("bread", 1)]


def test_a_stack_that_slips_while_bread_is_carried_does_not_grow(watched: Watched) -> None:
    watched.see(sight(".cb", "bread"))
    watched.see(sight(".c.", "bread", row=91.0, gripper="bread"), 10)
    assert watched.layers() == [("bread", 0)]


def test_a_slice_in_the_gripper_and_in_a_hidden_slots_memory_counts_once(watched: Watched) -> None:
    watched.see(sight("bcb", gripper="bread", hidden_slot=0), 5)
    watched.see(sight(".cb", gripper="bread"), 5)
    watched.see(sight(".cb", "bread", row=100.0))
    watched.see(sight(".cb", "bread", row=92.0), 10)
    assert watched.layers() == [("bread", 0)]


def test_a_hidden_plate_is_remembered_with_half_the_confidence(watched: Watched) -> None:
    watched.see(sight(".cb", "bread"))
    state = watched.see(sight(".cb", None, hidden=True))
    assert not state.plate_visible and state.holder_visible
    assert [(seen.ingredient, seen.confidence) for seen in state.at("plate")] == [("bread", 0.5)]


def test_a_hidden_slot_is_remembered(watched: Watched) -> None:
    state = watched.see(sight("b.b", hidden_slot=1))
    assert not state.holder_visible and state.plate_visible
    assert [seen.ingredient for seen in state.at(HOLDER)] == ["bread", "cheese", "bread"]


def test_one_hidden_image_already_counts_as_hidden(watched: Watched) -> None:
    assert not watched.see(sight(hidden=True), 1).plate_visible
    assert not watched.see(sight(hidden_slot=2), 1).holder_visible


def test_joined_midway_the_layers_are_unknown_until_the_plate_is_seen_empty() -> None:
    watched = Watched()
    watched.see(sight("..b", "cheese"))
    assert watched.layers() == [("cheese", -1)]
    watched.see(sight("...", "bread"))
    assert watched.layers() == [("cheese", -1), ("bread", -1)]
    watched.see(sight("..."))
    assert watched.layers() == []
    watched.see(sight("...", "cheese"))
    assert watched.layers() == [("cheese", 0)]


def test_a_layer_taken_away_is_forgotten(watched: Watched) -> None:
    watched.see(sight(".cb", "bread"))
    watched.see(sight("..b", "cheese"))
    watched.see(sight(".cb", "bread"))
    assert watched.layers() == [("bread", 0)]
