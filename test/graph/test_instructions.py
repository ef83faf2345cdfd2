# SPDX-License-Identifier: Apache-2.0
"""Instructions on the running graph: the named one is taken, forbidden and absent ones are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chefmate_msgs.msg import ActionChunk, PolicyStatus, WorkcellObject
from chefmate_msgs.srv import KitchenReset

pytestmark = [pytest.mark.graph, pytest.mark.timeout(240)]
BREAD = "pick up the bread and put it into the white plate"
CHEESE = "pick up the yellow cheese and put it into the white plate"
LAYOUT = ["bread", "", "cheese", "", "patty"]


def on_plate(graph: Any) -> list[str]:
    """Ingredients that lie on the plate, by the twin's truth."""
    return [
        item.ingredient
        for item in graph.truth[-1].objects
        if item.place == WorkcellObject.PLATE and item.stack_index >= 0
    ]


def in_holder(graph: Any) -> set[str]:
    return {item.ingredient for item in graph.truth[-1].objects if item.place == WorkcellObject.HOLDER}


def reset(graph: Any) -> None:
    """Stops the policy and lays the table anew."""
    graph.say("")
    graph.until(lambda: graph.policy[-1].state == PolicyStatus.IDLE, 10, "an idle policy")
    answer = graph.listener.call("kitchen/reset", KitchenReset, KitchenReset.Request(seed=5, slots=LAYOUT))
    assert answer.success, answer.message
    graph.truth.clear()
    graph.until(
        lambda: graph.truth and in_holder(graph) == {"bread", "cheese", "patty"}, 10, "the new layout"
    )


def test_the_words_decide(start_graph: Callable[..., Any]) -> None:
    graph = start_graph()

    reset(graph)
    graph.say(CHEESE)
    graph.until(lambda: on_plate(graph) == ["cheese"], 40, "the cheese on the plate")
    assert in_holder(graph) == {"bread", "patty"}

    reset(graph)
    graph.say(BREAD)
    graph.until_moving()
    graph.say(CHEESE)  # before anything is reached
    graph.until(lambda: on_plate(graph) == ["cheese"], 60, "the cheese on the plate after a change of mind")
    assert "bread" in in_holder(graph)

    for text in ("do not pick up the cheese", "pick up the banana and put it into the white plate"):
        reset(graph)
        graph.say(text)
        graph.until(
            lambda text=text: (
                graph.policy[-1].instruction == text and graph.policy[-1].state == PolicyStatus.DONE
            ),
            30,
            f"nothing left to do for {text!r}",
        )
        assert in_holder(graph) == {"bread", "cheese", "patty"}
        assert on_plate(graph) == []


def test_shadow_mode_previews_and_does_not_move(start_graph: Callable[..., Any]) -> None:
    graph = start_graph(execute="false")
    chunks = graph.listener.subscribe("policy/chunk", ActionChunk)
    graph.listener.spin(1.0)  # a limp arm comes to rest
    pose = np.array(graph.joints[-1].position)
    graph.say(BREAD)
    graph.until(lambda: len(chunks) >= 20, 20, "chunks of the policy")
    assert graph.policy[-1].state == PolicyStatus.DRIVING
    assert not graph.policy[-1].executing
    assert np.abs(np.array(graph.joints[-1].position) - pose).max() < 0.02
    assert not graph.health[-1].torque
