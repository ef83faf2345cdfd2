# SPDX-License-Identifier: Apache-2.0
"""The benches that run policy_node itself: a change of instruction, and what the graph adds to a chunk."""

from __future__ import annotations

import pytest

from chefmate.bench_change import bench_change
from chefmate.bench_graph import bench_graph

SLOW = 0.25  # s of margin, for a machine that runs other tests too; the bench itself allows 0.05


def test_another_instruction_reaches_a_moving_arm_in_time_and_the_old_result_never_does() -> None:
    lines: list[str] = []
    document = bench_change(5, lines.append, margin=SLOW)
    assert not document["failed"], document
    assert document["kept"] == document["braked"] == document["old_result_discarded"] == 5
    assert document["equal_text_changed_nothing"] == 5 and document["trials"] == 5
    assert document["over_ms"]["p50"] > 0.0 and len(lines) == 1


@pytest.mark.slow
def test_the_time_that_the_graph_adds_to_a_chunk_is_measured_beside_a_bare_subscriber() -> None:
    document = bench_graph(2.0, lambda line: None)
    assert document["all_alive"] and document["chunks"] >= 5
    assert document["recorded_mb"] > 20.0
    assert 0.0 < document["bare_subscriber_ms"]["p50"] < 500.0
    # a request waits for the next frames, so that what it looks at is new: without, up to 33 ms come on top
    assert 0.0 < document["newer_camera_ms"]["p50"] <= document["added_ms"]["p50"] < 500.0
