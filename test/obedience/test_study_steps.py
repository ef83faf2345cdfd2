# SPDX-License-Identifier: Apache-2.0
"""Steps of the study as processes: order, room on the machine, failures, time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chefmate.study_steps import Machine, Step, Steps

LIMIT = 60.0  # s
SMALL = Machine(0, 4)


def shell(name: str, text: str, tmp_path: Path, **more: object) -> Step:
    """Runs `text` with $made, the file that it has to make."""
    made = tmp_path / f"{name}.made"
    return Step(name, ("sh", "-c", f"made={made}; {text}"), made, **more)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Steps, list[str]]]:
    def run(steps: list[Step], machine: Machine = SMALL) -> tuple[Steps, list[str]]:
        said: list[str] = []
        at_work = Steps(steps, machine, tmp_path / "logs", said.append)
        until = time.monotonic() + LIMIT
        while not at_work.ended and time.monotonic() < until:
            at_work.turn()
            time.sleep(0.01)
        assert at_work.ended
        return at_work, said

    return run


def test_a_step_waits_for_what_it_needs(run: Callable[..., tuple[Steps, list[str]]], tmp_path: Path) -> None:
    first = shell("first", "sleep 0.2; echo 1 > $made", tmp_path)
    then = shell("then", f"cat {first.made} > $made", tmp_path, needs=("first",))
    steps, _ = run([then, first])
    assert steps.done("then") and then.made.read_text() == "1\n"


def test_a_step_that_fails_says_why_and_the_others_go_on(
    run: Callable[..., tuple[Steps, list[str]]], tmp_path: Path
) -> None:
    bad = shell("bad", "echo no memory left; exit 3", tmp_path)
    empty = shell("empty", "true", tmp_path)
    after = shell("after", "touch $made", tmp_path, needs=("bad",))
    good = shell("good", "touch $made", tmp_path)
    steps, _ = run([bad, empty, after, good])
    assert [steps.done(name) for name in ("bad", "empty", "after", "good")] == [False, False, False, True]
    assert "exit 3: no memory left" in steps.failures["bad"]
    assert "bad failed" in steps.failures["after"]
    assert not after.made.exists()


def test_what_is_done_is_not_done_again(run: Callable[..., tuple[Steps, list[str]]], tmp_path: Path) -> None:
    step = shell("once", "echo again >> $made", tmp_path)
    run([step])
    _, said = run([step])
    assert (step.made.read_text(), said) == ("again\n", [])


def test_a_step_that_may_try_again_does(run: Callable[..., tuple[Steps, list[str]]], tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    step = shell("twice", f"test -e {flag} && touch $made; touch {flag}; test -e $made", tmp_path, tries=2)
    steps, said = run([step])
    assert steps.done("twice") and steps.failures == {}
    assert [line.partition(" ")[2].partition(",")[0] for line in said[:3]] == ["begun", "once more", "begun"]


def test_trainings_have_places_of_their_own(
    run: Callable[..., tuple[Steps, list[str]]], tmp_path: Path
) -> None:
    """Two GPUs with two places each: four at a time, two on each; one that wants all of them waits."""
    text = "echo $CUDA_VISIBLE_DEVICES > $made; sleep 1"
    ones = [shell(f"one{number}", text, tmp_path, gpus=1) for number in range(4)]
    whole = shell("whole", "echo $CUDA_VISIBLE_DEVICES > $made", tmp_path, gpus=4)
    _, said = run([*ones, whole], Machine(2, 64, 2))
    assert sorted(step.made.read_text().strip() for step in ones) == ["0", "0", "1", "1"]
    assert whole.made.read_text() == "0,1\n"
    assert said[:4] == [f"one{number}: begun" for number in range(4)]
    assert said.index("whole: begun") > max(said.index(line) for line in said if line.startswith("one"))


def test_time_that_is_over_ends_what_runs_but_for_what_may_be_late(tmp_path: Path) -> None:
    slow = shell("slow", "sleep 60; touch $made", tmp_path)
    late = shell("late", "sleep 1; touch $made", tmp_path, late=True)
    waits = shell("waits", "touch $made", tmp_path, needs=("slow",))
    steps = Steps([slow, late, waits], Machine(0, 4), tmp_path / "logs", lambda line: None)
    steps.turn()
    began = time.monotonic()
    while not steps.ended and time.monotonic() < began + LIMIT:
        steps.turn(begin=False)
        steps.stop("the time was over", late=False)
        time.sleep(0.01)
    assert time.monotonic() - began < LIMIT / 2
    assert [steps.state[name] for name in ("slow", "late", "waits")] == ["failed", "done", "failed"]
    assert steps.failures["slow"] == "the time was over"


def test_closing_leaves_no_process_behind(tmp_path: Path) -> None:
    step = shell("slow", "sleep 60 & echo $! > $made; wait", tmp_path)
    steps = Steps([step], Machine(0, 1), tmp_path / "logs", lambda line: None)
    steps.turn()
    until = time.monotonic() + LIMIT
    while not (step.made.exists() and step.made.read_text().strip()) and time.monotonic() < until:
        time.sleep(0.01)
    child = Path("/proc") / step.made.read_text().strip()
    assert child.exists()
    steps.close()
    while child.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not child.exists() and steps.ended
