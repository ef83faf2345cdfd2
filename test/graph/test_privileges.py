# SPDX-License-Identifier: Apache-2.0
"""Who may see what only a simulation knows: the expert its poses, the scorer the truth, nobody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.graph, pytest.mark.timeout(180)]


def subscribers(graph: Any, topic: str) -> list[str]:
    """Names of the nodes that subscribe to a topic."""
    return sorted(end.node_name for end in graph.listener.node.get_subscriptions_info_by_topic(topic))


@pytest.mark.parametrize("recorded", [pytest.param(False, marks=pytest.mark.slow), True])
def test_only_the_expert_sees_privileged_poses_and_only_the_scorer_the_truth(
    start_graph: Callable[..., Any], tmp_path: Path, recorded: bool
) -> None:
    graph = start_graph(**({"record": str(tmp_path / "bag")} if recorded else {}))
    expected = {"arm", "kitchen", "perception", "policy", "sequencer"} | ({"recorder"} if recorded else set())
    graph.until(
        lambda: expected <= set(graph.listener.node.get_node_names()) and graph.policy and graph.truth,
        20,
        f"all of {sorted(expected)}",
    )
    if recorded:  # its subscriptions are there, so that one to the truth would be, too
        graph.until(lambda: "recorder" in subscribers(graph, "workcell/state"), 20, "a recorder that listens")
    publishers = graph.listener.node.get_publishers_info_by_topic("kitchen/expert_state")
    assert [end.node_name for end in publishers] == ["kitchen"]
    graph.until(lambda: subscribers(graph, "kitchen/expert_state"), 20, "the expert listening")
    assert subscribers(graph, "kitchen/expert_state") == ["policy"]
    assert graph.policy[-1].model_id.startswith("expert"), graph.policy[-1].model_id
    assert subscribers(graph, "kitchen/truth") == [graph.listener.node.get_name()]
