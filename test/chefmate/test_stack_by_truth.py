# SPDX-License-Identifier: Apache-2.0
"""What counts as on the plate by the twin's truth: slices that are laid, not those that lean there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chefmate.observer import stack
from chefmate_driver.kitchen import truth
from chefmate_driver.kitchen.node import truth_message
from chefmate_driver.kitchen.world import World


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.reset(0)
    for name in ("bread_1", "cheese_1"):
        world.place(name, "plate")
    for _ in range(200):
        world.step()
    return world


@pytest.mark.parametrize(
    ("changes", "cheese"),
    [
        ({}, "cheese"),
        ({"flat": False}, "cheese, not laid"),
        ({"inside": False}, "cheese, not laid"),
        ({"released": False}, "cheese, not laid"),
    ],
)
def test_a_slice_that_is_not_laid_is_in_no_recipe(
    world: World, changes: dict[str, bool], cheese: str
) -> None:
    from chefmate_msgs.msg import WorkcellState

    seen = [
        replace(item, **changes) if item.state.ingredient == "cheese" else item
        for item in truth.observe(world)
    ]
    assert stack(WorkcellState(objects=[truth_message(item) for item in seen])) == ["bread", cheese]
