# SPDX-License-Identifier: Apache-2.0
"""Generated episodes: the same for the same seed, one scene per layout, whole after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "egl")  # read once, when mujoco is imported first

from chefmate import demonstrations
from chefmate.closed_loop import Driver
from chefmate.data import limits
from chefmate.data_generate import Job, Options, generate, make_layout
from chefmate.demonstrations import Studio
from chefmate.errors import ArgumentError
from chefmate_driver.kitchen import truth
from chefmate_policy.data.dataset import Dataset
from chefmate_policy.data.dataset_statistics import PictureHistogram, picture_statistics
from chefmate_policy.data.fingerprints import dataset_fingerprint, episode_fingerprint
from chefmate_policy.data.lerobot_layout import ACTION, STATE, DatasetError
from chefmate_policy.data.phrasings import Sentence
from chefmate_policy.data.takes import Takes
from chefmate_policy.data.validation import validate
from chefmate_policy.data.variants import STARTS, Scene, Variant, draw_scene, draw_variants

SCENE = {"ingredients": ("bread", "cheese"), "idle": 1, "stacked": 0.0}
COMMAND = (
    "--layouts 1 --workers 1 --ingredients bread cheese --idle 1 --stacked 0 --kicked 0 --no-images".split()
)


def options(folder: Path, **other: Any) -> Options:
    return Options(**{"out": folder, "layouts": 1, "workers": 1, "size": (32, 32), "scene": SCENE, **other})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """One layout with bread and cheese: each named, and one idle episode."""
    folder = tmp_path_factory.mktemp("generated") / "set"
    generate(options(folder))
    return Dataset(folder)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job.of(options(tmp_path_factory.mktemp("job") / "set"))


def test_generated_set_has_no_fault_and_says_what_each_episode_is(made: Dataset) -> None:
    assert validate(made, limits("degrees")) == []
    kinds = [episode.extra["meaning"] for episode in made.episodes]
    assert sorted(kinds) == ["idle", "pick bread", "pick cheese"]
    assert {episode.extra["layout"] for episode in made.episodes} == {100_000}
    assert all(episode.extra["outcome"] == "success" for episode in made.episodes)
    about = json.loads((made.root / "meta" / "chefmate.json").read_text())
    assert about["counts"] == {"kept": 3, "dropped": {}} and "cheese/cheddar" in about["held_out"]
    told = (made.root / "meta" / "privileged.jsonl").read_text().splitlines()
    slots = json.loads(told[0])["slots"]
    assert sorted(slots) == ["", "", "", "bread", "cheese"] or sorted(slots) == [
        "",
        "",
        "bread",
        "bread",
        "cheese",
    ]
    assert not any("slot" in key for key in made.info.features)


def test_fingerprints_are_of_what_the_files_hold(made: Dataset) -> None:
    found = []
    for episode in made.episodes:
        columns = made.columns(episode)
        videos = {key.rsplit(".", 1)[-1]: clip.file for key, clip in episode.videos.items()}
        found.append(episode_fingerprint(episode.instructions[0], columns[STATE], columns[ACTION], videos))
    assert found == [episode.extra["fingerprint"] for episode in made.episodes]
    about = json.loads((made.root / "meta" / "chefmate.json").read_text())
    assert about["fingerprint"] == dataset_fingerprint(found)


def test_action_is_the_target_in_force_at_the_frame(made: Dataset) -> None:
    """The arm follows its target within a few hundredths of a radian: no step apart, as a shift would be."""
    episode = next(episode for episode in made.episodes if episode.extra["kind"] == "pick")
    columns = made.columns(episode)
    body = slice(0, 5)
    here = np.abs(columns[STATE][:, body] - columns[ACTION][:, body]).max()
    shifted = np.abs(columns[STATE][1:, body] - columns[ACTION][:-1, body]).max()
    assert here < 4.0 < shifted  # degrees


def test_interrupted_work_leaves_nothing_that_opens_and_goes_on_to_the_same_numbers(
    tmp_path: Path, made: Dataset
) -> None:
    folder = tmp_path / "set"
    command = [sys.executable, "-m", "chefmate.data_generate", str(folder), *COMMAND]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not list(Takes(folder).folder.glob("0*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr is not None and "the same command goes on" in process.stderr.read()
    assert not folder.exists()
    other = options(folder, images=False, scene={**SCENE, "kicked": 0.5})
    with pytest.raises(DatasetError, match="holds episodes made with scene"):
        generate(other)
    generate(options(folder, images=False))
    again = Dataset(folder)
    assert not Takes(folder).folder.exists()
    for first, second in zip(made.episodes, again.episodes, strict=True):
        assert first.instructions == second.instructions
        for name in (STATE, ACTION):
            assert np.array_equal(made.columns(first)[name], again.columns(second)[name])


def test_all_instructions_of_a_layout_start_from_the_same_picture_and_pose(job: Job, made: Dataset) -> None:
    scene = draw_scene(100_000, 0, job.scene, job.stock, job.phrasings)
    starts = [made.columns(episode)[STATE][0] for episode in made.episodes]
    assert all(np.array_equal(start, starts[0]) for start in starts)
    studio = Studio(size=(32, 32))
    try:
        studio.arrange(scene)
        before = studio.pictures()
        idle = next(v for v in draw_variants(scene, job.scene, job.phrasings) if not v.ingredient)
        demonstration = studio.record(scene, idle)
        studio.world.set_arm((0.5, -0.5, 0.5, 0.5, 0.5, 0.5))
        assert not np.array_equal(studio.pictures()["wrist"], before["wrist"])
        studio.arrange(scene)
        after = studio.pictures()
    finally:
        studio.close()
    for camera in demonstrations.CAMERAS:
        assert np.array_equal(before[camera], after[camera])
        assert np.array_equal(before[camera], demonstration.pictures[camera][0])
        assert np.ptp(before[camera]) > 50  # something is to be seen


def test_failed_demonstrations_are_dropped_and_counted(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demonstrations.PATIENCE, "pick", 0.5)
    monkeypatch.setattr(demonstrations, "IDLE_SECONDS", 0.2)
    Takes(job.options.out).begin(job.about())
    studio = Studio(pictures=False)
    assert make_layout(job, studio, 0, lambda: False) == (1, 2)
    assert Takes(job.options.out).counts() == (1, {"out of time": 2})


def test_time_limit_writes_whole_layouts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstrations, "IDLE_SECONDS", 0.2)
    scene = {**SCENE, "idle": 1, "ingredients": ("bread",)}
    monkeypatch.setitem(demonstrations.PATIENCE, "pick", 0.5)  # all but the idle episode fail
    made = generate(options(tmp_path / "set", layouts=50, images=False, scene=scene, seconds=0.01))
    assert (made.episodes, made.dropped) == (1, {"out of time": 1})
    assert json.loads((tmp_path / "set" / "meta" / "chefmate.json").read_text())["layouts"] == 1


def test_a_slice_that_was_pushed_aside_is_no_success(job: Job) -> None:
    scene = draw_scene(100_000, 0, job.scene, job.stock, job.phrasings)
    idle = next(v for v in draw_variants(scene, job.scene, job.phrasings) if not v.ingredient)
    studio = Studio(pictures=False)
    studio.arrange(scene)
    before = truth.places(studio.world)
    assert studio._judge(idle, before) == ""
    studio.world.place("cheese", "plate")
    assert studio._judge(idle, before) == "moved something"


@pytest.mark.parametrize("breads", [1, 2])
def test_an_episode_rests_at_its_end_unless_another_of_the_kind_could_begin_there(breads: int) -> None:
    studio = Studio(pictures=False)
    slots = ("bread", "", "bread" if breads == 2 else "cheese", "", "")
    made = studio.record(
        Scene(5, slots, (), STARTS["ready"][1], "ready"),
        Variant(0, "pick", "bread", Sentence("pick up the bread")),
    )
    assert made.failure == ""
    rests = np.abs(np.diff(made.actions[-4:], axis=0)).max() < 1e-3
    assert bool(rests) is (breads == 1), made.actions[-5:]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"fps": 30}, "--fps 30"),
        ({"size": (33, 32)}, "--size 33x32"),
        ({"layouts": 0}, "--layouts 0"),
        ({"seconds": 0.0}, "--seconds 0"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        options(tmp_path / "set", **wrong)


def test_histograms_give_the_statistics_of_the_pictures_themselves() -> None:
    sample = np.random.default_rng(0).integers(0, 255, (3, 8, 10, 3), dtype=np.uint8)
    histogram = PictureHistogram()
    for picture in sample:
        histogram.add(picture)
    found, wanted = histogram.statistics(3), picture_statistics(sample)
    assert found.keys() == wanted.keys() and found["count"] == [3]
    for key in wanted:
        assert np.allclose(found[key], wanted[key], atol=1e-12), key


def test_generating_needs_no_ros() -> None:
    blocked = ("rclpy", "chefmate_msgs", "ament_index_python", "std_msgs", "sensor_msgs")
    program = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import chefmate.data_generate, chefmate.demonstrations
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=dict(os.environ))


def test_a_policy_that_drives_before_leaves_the_episode_to_the_expert(job: Job) -> None:
    """The expert itself is the policy here: for 3 s it reaches for the bread, then the recording begins."""
    studio = Studio(pictures=False)
    driver = Driver(studio, "expert", latency=0.05)
    studio.lead = driver.lead
    options = replace(job.scene, idle=0, driven=1.0)
    scene = draw_scene(100_000, 0, options, job.stock, job.phrasings)
    variant = next(v for v in draw_variants(scene, options, job.phrasings) if v.ingredient == "bread")
    whole = studio.record(scene, replace(variant, driven=0.0, kick=None))
    driven = studio.record(scene, replace(variant, driven=3.0, kick=None))
    studio.close()
    driver.close()
    assert whole.failure == driven.failure == ""
    assert np.abs(whole.states[0] - scene.start).max() < 0.05
    assert np.abs(driven.states[0] - scene.start).max() > 0.3


def test_what_is_driven_changes_nothing_else_of_a_layout(job: Job) -> None:
    options = replace(job.scene, kicked=0.5)
    scene = draw_scene(100_000, 0, options, job.stock, job.phrasings)
    plain = draw_variants(scene, options, job.phrasings)
    driven = draw_variants(scene, replace(options, driven=1.0, driven_seconds=4.0), job.phrasings)
    assert [replace(variant, driven=0.0) for variant in driven] == list(plain)
    assert all(0.0 < variant.driven < 4.0 for variant in driven)


def test_a_folder_without_weights_is_no_policy_to_drive(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"no \*\.safetensors"):
        generate(options(tmp_path / "set", policy=tmp_path))
