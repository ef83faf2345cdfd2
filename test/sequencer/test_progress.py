# SPDX-License-Identifier: Apache-2.0
"""Progress on disk, and whether the plate agrees with it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from chefmate_policy.perception.workcell import HOLDER, PLATE, SeenObject, Workcell
from chefmate_policy.sequencer.outcomes import StepResult
from chefmate_policy.sequencer.own_instructions import EXPIRY, OwnInstructions
from chefmate_policy.sequencer.progress import (
    DamagedProgressError,
    Progress,
    ProgressError,
    ProgressFile,
    agrees,
    default_path,
)

DONE = StepResult(0, "bread", "pick up the bread", "SUCCESS", "it lies there", 9.5, 1)
PROGRESS = Progress("cheese_sandwich", ("a", "b", "c"), 1, ("bread",), {"cheese": 1, "bread": 1}, (DONE,))


def workcell(*plate: str, holder: tuple[str, ...] = ("cheese", "bread"), known: bool = True) -> Workcell:
    layers = [SeenObject(name, PLATE, stack_index=k if known else -1) for k, name in enumerate(plate)]
    return Workcell(0.0, (*layers, *(SeenObject(name, HOLDER, k) for k, name in enumerate(holder))))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path / "deep" / "progress.json")
    assert file.load() is None
    file.save(PROGRESS)
    assert file.load() == PROGRESS
    file.save(replace(PROGRESS, finished=True))
    assert file.load() == replace(PROGRESS, finished=True)
    assert [path.name for path in file.path.parent.iterdir()] == ["progress.json"], (
        "nothing half-written is left"
    )


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"version": 99}', '{"version": 1, "recipe": "a"}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    file = ProgressFile(tmp_path / "progress.json")
    file.path.write_text(text)
    with pytest.raises(DamagedProgressError, match=r"progress\.json cannot be used"):
        file.load()
    assert file.set_aside().read_text() == text
    assert file.load() is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recipe", 3),
        ("recipe", ""),
        ("instructions", "abc"),
        ("instructions", []),
        ("step", 3),
        ("step", -1),
        ("step", "1"),
        ("step", True),
        ("plate", [1]),
        ("plate", None),
        ("holder", {"bread": -1}),
        ("holder", {"bread": "two"}),
        ("holder", []),
        ("finished", "no"),
        ("results", [3]),
        ("results", [{"index": 0}]),
        ("results", [{**asdict(DONE), "index": 7}]),
        ("results", [{**asdict(DONE), "outcome": "FINE"}]),
        ("results", [{**asdict(DONE), "seconds": float("nan")}]),
        ("results", [{**asdict(DONE), "attempts": -2}]),
    ],
)
def test_a_field_that_cannot_be_is_named(tmp_path: Path, field: str, value: object) -> None:
    file = ProgressFile(tmp_path / "progress.json")
    file.save(PROGRESS)
    data = json.loads(file.path.read_text())
    file.path.write_text(json.dumps({**data, field: value}))
    named = field if field != "results" or value == [3] else "(index|ingredient|outcome|seconds|attempts)"
    with pytest.raises(DamagedProgressError, match=rf"cannot be used: .*{named}"):
        file.load()


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgressError, match=r"cannot be read.*Remove"):
        ProgressFile(tmp_path).load()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_reported_and_the_old_progress_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ProgressFile(tmp_path / "progress.json")
    file.save(PROGRESS)
    full = os.open("/dev/full", os.O_WRONLY)  # every write fails with ENOSPC

    def on_a_full_disk(prefix: str, suffix: str, dir: Path) -> tuple[int, str]:
        name = dir / f"{prefix}x{suffix}"
        name.touch()
        return os.dup(full), str(name)

    monkeypatch.setattr("tempfile.mkstemp", on_a_full_disk)
    with pytest.raises(ProgressError, match="No space left on device"):
        file.save(replace(PROGRESS, step=2))
    os.close(full)
    assert file.load() == PROGRESS
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_the_plate_as_it_was_agrees() -> None:
    assert agrees(PROGRESS, workcell("bread"), "cheese")
    assert agrees(PROGRESS, workcell("bread", known=False), "cheese")


def test_the_interrupted_step_may_have_ended_meanwhile() -> None:
    assert agrees(PROGRESS, workcell("bread", "cheese", holder=("bread",)), "cheese")
    assert agrees(PROGRESS, workcell("cheese", holder=("bread",), known=False), "cheese")


def test_another_plate_disagrees() -> None:
    assert not agrees(PROGRESS, workcell(), "cheese")
    assert not agrees(PROGRESS, workcell("cheese", holder=("bread",)), "cheese")
    assert not agrees(PROGRESS, workcell("bread", "patty"), "cheese")
    assert not agrees(PROGRESS, workcell("patty", known=False), "cheese")
    assert not agrees(PROGRESS, workcell("bread", "cheese"), "cheese"), "the holder still has the cheese"


def test_nothing_agrees_unseen_or_finished() -> None:
    assert not agrees(PROGRESS, replace(workcell("bread"), plate_visible=False), "cheese")
    assert not agrees(replace(PROGRESS, finished=True), workcell("bread"), "cheese")


def test_the_state_folder_is_the_users_with_a_file_for_each_domain_and_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path("/", 0) == tmp_path / "chefmate" / "domain_0" / "progress.json"
    assert (
        default_path("/left/arm", 7) == tmp_path / "chefmate" / "domain_7" / "left" / "arm" / "progress.json"
    )
    graphs = [("/", 0), ("/", 1), ("/left/arm", 0), ("/left_arm", 0), ("/left", 0), ("/left", 1)]
    assert len({default_path(*graph) for graph in graphs}) == len(graphs)


def test_each_published_pair_is_own_once() -> None:
    own = OwnInstructions()
    number = own.published("bread", 0.0)
    assert own.is_own("bread", number, 0.1)
    assert not own.is_own("bread", number, 0.2), "the same pair again came from somebody else"


def test_the_same_text_with_another_number_is_somebody_elses() -> None:
    own = OwnInstructions()
    number = own.published("bread", 0.0)
    assert not own.is_own("bread", number + 1, 0.1)
    assert not own.is_own("cheese", number, 0.1)


def test_a_lost_sample_excuses_nobody_for_ever() -> None:
    own = OwnInstructions()
    number = own.published("bread", 0.0)
    assert not own.is_own("bread", number, EXPIRY + 0.1)
