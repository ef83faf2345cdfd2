# SPDX-License-Identifier: Apache-2.0
"""Trials through the real graph, and what the policy that comes along makes of instructions there."""

from __future__ import annotations

import warnings

import pytest

from chefmate import graph
from chefmate.bench_instruct import bench_instruct
from chefmate.obey_graph import graph_trials
from chefmate_policy.data.variants import STARTS, Scene
from chefmate_policy.obedience.trial import Ask, Moved, Trial

pytestmark = [pytest.mark.graph, pytest.mark.slow, pytest.mark.timeout(400)]


def test_trials_run_one_after_another_and_are_judged_by_the_twins_truth() -> None:
    scene = Scene(770_000_000, ("cheese", "", "patty", "", "bread"), ("bread",), STARTS["ready"][1], "ready")
    picks, empty = Ask("pick up the patty", "named", "patty", named="patty"), Ask("", "empty", "")
    changed = (
        (0.0, Ask("pick up the cheese", "named", "cheese")),
        (0.6, Ask("don't take the cheese", "change", "")),
    )
    trials = [
        Trial(number, "", scene, asks, number)
        for number, asks in enumerate((((0.0, picks),), ((0.0, empty),), changed))
    ]
    placed, unheard, left_alone = list(graph_trials(trials, "expert"))
    assert (placed.fault, placed.touched, placed.moved) == ("", "patty", (Moved("patty", "plate", True),))
    assert placed.chunks > 20 and 1.0 < placed.seconds < 20.0 and placed.more["real_time_factor"] > 0.5
    assert unheard.fault == "the node cannot give 'empty' to a model"
    assert (left_alone.fault, left_alone.contacts, left_alone.moved) == ("", (), ())


@pytest.mark.skipif(graph.shipped_policy(graph.KITCHEN) is None, reason="no policies/kitchen")
def test_the_policy_that_comes_along_drives_and_its_rate_is_told() -> None:
    """Its rate is no gate: `chefmate obey` measures it on enough trials."""
    found = bench_instruct(range(2), graph.KITCHEN, lambda line: None)
    assert len(found["trials"]) == 4
    taken = sum(trial["taken"] == trial["named"] for trial in found["trials"])
    placed = sum(trial["placed"] for trial in found["trials"])
    warnings.warn(
        f"policy:=kitchen in the graph: named taken {taken} of 4, placed {placed} of 4", stacklevel=1
    )
