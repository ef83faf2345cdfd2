# SPDX-License-Identifier: Apache-2.0
"""Runs of a tiny model: they resume exactly, survive what ends a process, and leave policies that drive."""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from chefmate_policy.groot.checkpoint import load_model, open_checkpoint
from chefmate_policy.groot.metadata import read_metadata, write_metadata
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.inference.backend import BackendSettings, CameraFrame, Observation, create_backend
from chefmate_policy.training.checkpoints import RUN, STATE
from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.metrics import read_metrics

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tiny_run import PLAIN, SIDE, TEXTS, go, one_of_two, write_dataset

QUICK = {"holdout": 0.0, "save_steps": 1000}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "drawn")


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of six steps."""
    out = tmp_path_factory.mktemp("whole") / "out"
    go(dataset, out)
    return out


@pytest.fixture(scope="module")
def fresh() -> Any:
    """Makes processes without what this one holds (threads of other tests), and imports only once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chefmate_policy.training.run", "torch.utils.tensorboard"])
    return context


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(out) if "loss" in entry]


def weights(checkpoint: Path) -> Groot:
    return load_model(open_checkpoint(checkpoint), Parts.used(0))


def test_a_resumed_run_is_the_uninterrupted_one(dataset: Path, whole: Path, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    stopped = go(dataset, tmp_path, stop=lambda: next(asked))
    assert (stopped.reason, stopped.step, stopped.folder.name) == ("interrupted", 3, "checkpoint-3")
    resumed = go(dataset, tmp_path, resume=True)
    assert (resumed.reason, resumed.step) == ("done", 6)
    assert losses(tmp_path) == losses(whole)
    for name in ("model.safetensors", str(STATE)):
        ours, theirs = (load_file(out / "checkpoint-6" / name) for out in (tmp_path, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_a_changed_run_is_not_resumed(dataset: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(TrainingError, match=r"learning_rate: 0\.001 -> 0\.002"):
        go(dataset, tmp_path / "out", resume=True, learning_rate=0.002)
    with pytest.raises(TrainingError, match="--resume"):
        go(dataset, tmp_path / "out")
    other = write_dataset(tmp_path / "other", length=21)
    with pytest.raises(TrainingError, match="fingerprints differ"):
        go(other, tmp_path / "out", resume=True)


def test_a_checkpoint_says_what_it_is_made_of(dataset: Path, whole: Path) -> None:
    report = json.loads((whole / "checkpoint-6" / RUN).read_text())
    assert report["step"] == 6 and report["base"]["name"] == "tiny"
    assert set(report["data"]) == {str(dataset)} and len(report["data"][str(dataset)]) == 64
    (made_of,) = report["made_of"]["datasets"]
    assert (made_of["fingerprint"], made_of["episodes"]) == (report["data"][str(dataset)], 8)
    assert made_of["instructions"] == sorted(TEXTS) and report["made_of"]["base"] is None
    assert report["options"]["learning_rate"] == 1e-3 and "torch" in report["software"]
    assert set(report["figures"]["held_out"]["by_instruction"]) <= set(TEXTS)
    assert report["figures"]["held_out"]["action_gap"] >= 0.0


def test_a_checkpoint_drives(whole: Path) -> None:
    cameras = ("scene", "wrist")
    backend = create_backend(
        "local", BackendSettings(PLAIN, cameras, str(whole / "checkpoint-6"), options={})
    )
    backend.load()
    picture = np.full((SIDE, SIDE, 3), 80, np.uint8)
    seen = Observation(
        instruction=TEXTS[0],
        instruction_number=1,
        stamp=5.0,
        stamps=dict.fromkeys(cameras, 5.0),
        now=5.0,
        start=5.0,
        start_positions=np.zeros(6),
        joint_positions=np.zeros(6),
        joint_velocities=np.zeros(6),
        images={name: CameraFrame(5.0, lambda: picture) for name in cameras},
    )
    chunk = backend.infer(seen)
    assert chunk.positions.shape == (16, 6) and np.isfinite(chunk.positions).all()
    np.testing.assert_allclose(np.diff(chunk.times), 0.1)


def test_training_learns(dataset: Path, tmp_path: Path) -> None:
    go(dataset, tmp_path, max_steps=40, batch_size=8, learning_rate=4e-3, **QUICK)
    found = losses(tmp_path)
    assert np.mean(found[-10:]) < 0.6 * np.mean(found[:5])


def test_time_given_is_kept_and_a_checkpoint_written(dataset: Path, tmp_path: Path) -> None:
    result = go(dataset, tmp_path, max_steps=100_000, hours=0.5 / 3600, **QUICK)
    assert result.reason == "hours" and result.step < 100_000
    weights(result.folder)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: a disk that is full for what is big."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_costs_no_earlier_checkpoint(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "checkpoint-3", tmp_path / "checkpoint-3")
    before = (tmp_path / "checkpoint-3" / "model.safetensors").read_bytes()
    said: list[str] = []
    with (
        largest_file(200_000),
        pytest.raises(TrainingError, match=r"checkpoint-6 cannot be written") as error,
    ):
        go(dataset, tmp_path, say=said.append, resume=True, save_steps=4, holdout=0.25)
    assert "GB are needed" in str(error.value) and "checkpoint-3" in str(error.value)
    assert any("no checkpoint of step 4; training goes on" in line for line in said)
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == ["checkpoint-3"]
    assert (tmp_path / "checkpoint-3" / "model.safetensors").read_bytes() == before
    go(dataset, tmp_path, resume=True)
    assert losses(tmp_path)[-1] == losses(whole)[-1]


def test_a_run_killed_while_it_writes_leaves_whole_checkpoints(
    dataset: Path, fresh: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given: dict[str, Any] = {
        "save_steps": 1,
        "max_steps": 2000,
        "batch_size": 1,
        "holdout": 0.0,
        "save_total_limit": 2,
    }
    process = fresh.Process(target=go, args=(dataset, out), kwargs=given)
    process.start()
    try:
        deadline = time.monotonic() + 60
        while not (list(out.glob("checkpoint-*")) and list(out.glob(".*partial"))):
            assert process.is_alive(), f"the run ended by itself with {process.exitcode}"
            assert time.monotonic() < deadline, "no checkpoint was seen half written within 60 s"
    finally:
        process.kill()
        process.join()
    found = sorted(out.glob("checkpoint-*"))
    assert found
    for folder in found:
        weights(folder)
    newest = max(int(folder.name.split("-")[1]) for folder in found)
    asked = iter([False, True])
    result = go(dataset, out, stop=lambda: next(asked), resume=True, **given)
    assert result.step == newest + 2
    assert not list(out.glob(".*partial"))


@pytest.fixture(scope="module")
def adapted(dataset: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run on the first run's result; base and run lie side by side."""
    place = tmp_path_factory.mktemp("adapted")
    shutil.copytree(whole / "checkpoint-6", place / "base")
    go(
        dataset,
        place / "out",
        base_model_path=str(place / "base"),
        lora_rank=4,
        max_steps=3,
        merge=True,
        **QUICK,
    )
    return place


def test_an_adapter_moves_with_its_base_and_merges_to_the_same_weights(adapted: Path, tmp_path: Path) -> None:
    shutil.copytree(adapted, tmp_path / "elsewhere")
    adapter = open_checkpoint(tmp_path / "elsewhere/out/checkpoint-3")
    assert adapter.base == (tmp_path / "elsewhere/base").resolve()
    joined, plain = load_model(adapter, Parts.used(0)), weights(tmp_path / "elsewhere/out/merged")
    assert (tmp_path / "elsewhere/out/merged" / RUN).is_file()
    base = weights(tmp_path / "elsewhere/base").state_dict()
    changed = 0
    for key, tensor in joined.state_dict().items():
        merged = plain.state_dict()[key]
        assert merged.dtype is torch.bfloat16
        assert torch.equal(merged, tensor.to(torch.bfloat16)), key
        changed += not torch.equal(tensor, base[key])
    assert changed > 10


def test_a_run_on_other_data_keeps_its_bases_statistics_when_told(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    other = write_dataset(tmp_path_factory.mktemp("data") / "other", episodes=4, length=12)
    base = whole / "checkpoint-6"
    known = read_metadata(base, "new_embodiment")
    for statistics, alike in (("data", False), ("base", True)):
        out = tmp_path / statistics
        go(other, out, base_model_path=str(base), statistics=statistics, max_steps=1, **QUICK)
        found = read_metadata(out / "checkpoint-1", "new_embodiment")
        assert (found.action == known.action and found.state == known.state) is alike
        assert found.video == known.video


def test_statistics_that_do_not_fit_are_refused(dataset: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="random weights"):
        go(dataset, tmp_path / "none", statistics="base")
    shutil.copytree(whole / "checkpoint-6", tmp_path / "base")
    known = read_metadata(tmp_path / "base", "new_embodiment")
    one = {"gripper": known.action["gripper"]}
    described = {**known.modalities, "action": {"gripper": known.modalities["action"]["gripper"]}}
    write_metadata(tmp_path / "base", replace(known, action=one, modalities=described))
    with pytest.raises(TrainingError, match="knows action as"):
        go(dataset, tmp_path / "out", base_model_path=str(tmp_path / "base"), statistics="base")


def test_another_base_under_the_same_name_is_refused(dataset: Path, adapted: Path, tmp_path: Path) -> None:
    shutil.copytree(adapted, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved/base")
    shutil.copytree(adapted / "out/merged", tmp_path / "moved/base")
    with pytest.raises(TrainingError, match="the base"):
        go(
            dataset, tmp_path / "moved/out", base_model_path=str(tmp_path / "moved/base"), lora_rank=4,
            max_steps=3, merge=True, resume=True, **QUICK,
        )  # fmt: skip


def test_two_processes_train_one_model(dataset: Path, fresh: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = (port, dataset, tmp_path / "out")
    processes = [fresh.Process(target=one_of_two, args=(rank, *place)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive and [process.exitcode for process in processes] == [0, 0]
    one, two = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert one == two  # they saw other samples and took the same steps
    assert len(losses(tmp_path / "out")) == 3
    weights(tmp_path / "out/checkpoint-3")


def test_random_weights_are_not_frozen(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="tune_llm"):
        go(dataset, tmp_path, tune_llm=False)
