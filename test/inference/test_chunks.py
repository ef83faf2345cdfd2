# SPDX-License-Identifier: Apache-2.0
"""When chunks are asked for, and where they start."""

from __future__ import annotations

import numpy as np
import pytest

from chefmate_policy.inference.backend import BackendError, BackendUnavailableError, Chunk, checked
from chefmate_policy.inference.chunks import ChunkTimeline


def ramp(origin: float, seconds: float = 1.0, start: float = 0.0, done: bool = False) -> Chunk:
    """A chunk of two joints that move at 1 rad/s and -1 rad/s."""
    times = np.linspace(0.0, seconds, 11)
    return Chunk(origin, times, np.stack([start + times, start - times], axis=1), done=done)


def test_first_chunk_is_due_at_once() -> None:
    assert ChunkTimeline(0.5, 0.1).due(100.0)


def test_next_chunk_is_due_a_lead_before_the_execution_horizon_ends() -> None:
    timeline = ChunkTimeline(execution_horizon=0.5, lead=0.1)
    timeline.accept(ramp(100.1), now=100.05)
    assert not timeline.due(100.49)
    assert timeline.due(100.51)
    assert timeline.due(100.46, slack=0.05)


def test_a_chunk_shorter_than_the_horizon_is_followed_before_it_ends() -> None:
    timeline = ChunkTimeline(execution_horizon=5.0, lead=0.1)
    timeline.accept(ramp(100.0, seconds=1.0), now=100.0)
    assert not timeline.due(100.85)
    assert timeline.due(100.95)


def test_chunk_that_arrives_late_is_executed_for_a_whole_horizon() -> None:
    timeline = ChunkTimeline(execution_horizon=0.5, lead=0.1)
    timeline.accept(ramp(100.0), now=100.3)
    assert not timeline.due(100.65)
    assert timeline.due(100.75)


def test_next_chunk_starts_where_the_running_one_will_be() -> None:
    timeline = ChunkTimeline(0.5, 0.1)
    timeline.accept(ramp(100.0, start=2.0), now=100.0)
    start = timeline.start_of_next(100.4)
    assert start == pytest.approx(100.5)
    np.testing.assert_allclose(timeline.position_at(start), [2.5, 1.5], atol=1e-9)


def test_first_chunk_and_the_first_after_a_flush_start_at_once() -> None:
    timeline = ChunkTimeline(0.5, 0.1)
    assert timeline.start_of_next(100.0) == 100.0
    timeline.accept(ramp(100.0), now=100.0)
    timeline.flush()
    assert timeline.start_of_next(100.3) == 100.3


def test_a_chunk_after_the_end_of_the_last_one_starts_at_once() -> None:
    timeline = ChunkTimeline(0.5, 0.1)
    timeline.accept(ramp(100.0), now=100.0)
    assert timeline.start_of_next(101.2) == 101.2


def test_before_the_takeover_the_old_chunk_counts() -> None:
    timeline = ChunkTimeline(0.5, 0.1)
    timeline.accept(ramp(100.0), now=100.0)
    timeline.accept(ramp(100.5, start=9.0), now=100.4)
    np.testing.assert_allclose(timeline.position_at(100.45), [0.45, -0.45], atol=1e-9)
    np.testing.assert_allclose(timeline.position_at(100.5), [9.0, 9.0], atol=1e-9)


def test_after_a_flush_the_measured_pose_counts() -> None:
    timeline = ChunkTimeline(0.5, 0.1)
    timeline.accept(ramp(100.0), now=100.0)
    timeline.flush()
    assert timeline.position_at(100.2) is None
    assert timeline.due(100.2)


def test_last_chunk_is_finished_at_its_end_and_not_before() -> None:
    timeline = ChunkTimeline(0.5, 0.1)
    timeline.accept(ramp(100.0, done=True), now=100.0)
    assert not timeline.due(100.95)
    assert not timeline.finished(100.95)
    assert timeline.finished(101.05)


def test_replacing_a_running_chunk_is_reported() -> None:
    timeline = ChunkTimeline(0.5, 0.1)
    assert not timeline.accept(ramp(100.0), now=100.0)
    assert timeline.accept(ramp(100.5), now=100.4)
    assert not timeline.accept(ramp(110.0), now=109.9)


def broken(**changes: object) -> Chunk:
    fields = {"origin": 100.0, "times": np.array([0.0, 1.0]), "positions": np.zeros((2, 6)), **changes}
    return Chunk(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (broken(positions=np.zeros((2, 5))), r"\(2, 5\)"),
        (broken(times=np.array([0.0, 0.0])), "increase"),
        (broken(times=np.array([-0.1, 0.0])), "increase"),
        (broken(times=np.array([0.0, np.inf])), "finite"),
        (
            broken(positions=np.array([[0.0] * 6, [0.0, 0.0, np.nan, 0.0, 0.0, 0.0]])),
            "nan at point 1, joint 2",
        ),
        (broken(velocities=np.zeros((1, 6))), "velocities have shape"),
        (broken(velocities=np.array([[0.0] * 6, [0.0, np.inf] * 3])), "velocity of inf at point 1, joint 1"),
        (broken(origin=float("nan")), "origin"),
        (broken(times=np.zeros(0), positions=np.zeros((0, 6))), "empty"),
    ],
)
def test_a_chunk_that_must_not_reach_an_arm_is_refused(chunk: Chunk, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        checked(chunk, 6, now=100.0)


def test_a_chunk_that_is_over_before_it_is_ready_is_not_sent() -> None:
    with pytest.raises(BackendUnavailableError, match=r"over 0\.50 s before"):
        checked(broken(), 6, now=101.5)


def test_an_empty_last_chunk_says_that_there_is_nothing_to_do() -> None:
    chunk = broken(times=np.zeros(0), positions=np.zeros((0, 6)), done=True)
    assert checked(chunk, 6, now=100.0) is chunk
