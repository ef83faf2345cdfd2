# SPDX-License-Identifier: Apache-2.0
"""A learned policy in the graph: a small checkpoint drives the twin's arm in closed loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chefmate_msgs.msg import ActionChunk, PolicyStatus

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference"))
from small_checkpoint import write_small_checkpoint

pytestmark = [pytest.mark.graph, pytest.mark.timeout(240)]
CENTRE = (0.0, -45.0, 45.0, 60.0, 0.0, 30.0)  # degrees and gripper per cent: above the table, folded


def test_a_small_checkpoint_drives_the_arm_and_each_instruction_counts(
    start_graph: Callable[..., Any], tmp_path: Path
) -> None:
    folder = write_small_checkpoint(tmp_path / "small", centre=CENTRE, fps=10.0)
    graph = start_graph(policy=str(folder))
    chunks: list[ActionChunk] = graph.listener.subscribe("policy/chunk", ActionChunk)
    before = np.array(graph.joints[-1].position)
    for number, text in ((1, "pick up the bread"), (3, "pick up the cheese")):
        graph.say(text)
        graph.until(
            lambda number=number: sum(c.instruction_number == number for c in chunks) >= 5,
            60,
            f"five chunks of instruction {number}",
        )
        assert graph.policy[-1].state in (PolicyStatus.DRIVING, PolicyStatus.HOLDING), graph.state()
        assert {c.instruction for c in chunks if c.instruction_number == number} == {text}
        graph.say("")
        graph.until(lambda: graph.policy[-1].state == PolicyStatus.IDLE, 5, "an idle policy")
    assert {chunk.model_id for chunk in chunks} == {"local:small"}
    assert all(len(chunk.trajectory.points) == 16 for chunk in chunks)
    assert np.abs(np.array(graph.joints[-1].position) - before).max() > 0.1
    assert graph.policy[-1].state != PolicyStatus.FAULT
