# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as a backend, without ROS: observation in, chunk on the observation's clock out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chefmate_policy.inference.backend import (
    BackendError,
    BackendSettings,
    CameraFrame,
    Observation,
    checked,
    create_backend,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))
from small_checkpoint import JOINTS, REACH, forget, write_small_checkpoint

STAMP = 1000.0
CENTRE = (5.0, -10.0, 15.0, 20.0, -25.0, 40.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", centre=CENTRE)


@cache
def loaded(folder: Path, joints: tuple[str, ...], cameras: tuple[str, ...], **options: Any) -> Any:
    settings = BackendSettings(joints, cameras, str(folder), options=options)
    backend = create_backend("local", settings)
    backend.load()
    return backend


@pytest.fixture
def load() -> Callable[..., Any]:
    def make(
        folder: Path, joints: tuple[str, ...] = JOINTS, cameras: Any = ("scene", "wrist"), **options: Any
    ) -> Any:
        return loaded(folder, joints, tuple(cameras), **options)

    return make


def observation(
    instruction: str = "pick up the bread",
    positions: tuple[float, ...] = (0.0,) * 6,
    size: tuple[int, int] = (480, 640),
    cameras: tuple[str, ...] = ("scene", "wrist"),
) -> Observation:
    random = np.random.default_rng(3)
    images = {
        name: CameraFrame(STAMP, lambda: random.integers(0, 255, (*size, 3), dtype=np.uint8))
        for name in cameras
    }
    return Observation(
        instruction=instruction,
        instruction_number=1,
        stamp=STAMP,
        stamps=dict.fromkeys(cameras, STAMP),
        now=STAMP + 0.01,
        start=STAMP + 0.1,
        start_positions=np.array(positions),
        joint_positions=np.array(positions),
        joint_velocities=np.zeros(6),
        images=images,
    )


def test_chunk_is_on_the_observations_clock_and_near_the_arms_angles(
    checkpoint: Path, load: Callable[..., Any]
) -> None:
    chunk = load(checkpoint).infer(observation())
    assert checked(chunk, 6, STAMP + 0.1) is chunk
    assert chunk.origin == STAMP and not chunk.done
    np.testing.assert_allclose(chunk.times, np.arange(16) / 30.0)
    degrees = np.degrees(chunk.positions[:, :5])
    assert np.abs(degrees - CENTRE[:5]).max() < 6 * REACH
    assert np.abs(degrees - CENTRE[:5]).max() > 0.1
    assert (chunk.positions[:, 5] >= -0.1746).all() and (chunk.positions[:, 5] <= 1.7454).all()
    assert chunk.latency_model > 0.0 and chunk.latency_preprocess > 0.0


def test_the_nodes_joint_order_does_not_change_what_a_joint_does(
    checkpoint: Path, load: Callable[..., Any]
) -> None:
    turned = tuple(reversed(JOINTS))
    angles = (0.1, -0.2, 0.3, 0.4, -0.5, 0.6)
    plain = load(checkpoint, seed=4).infer(observation(positions=angles))
    other = load(checkpoint, turned, seed=4).infer(observation(positions=angles[::-1]))
    np.testing.assert_allclose(other.positions, plain.positions[:, ::-1], atol=1e-5)


def test_words_and_state_decide_and_a_seed_repeats(checkpoint: Path, load: Callable[..., Any]) -> None:
    backend = load(checkpoint, seed=4)
    first, again = (backend.infer(observation()).positions for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(backend.infer(observation("pick up the cheese")).positions - first).max() > 1e-6
    moved = observation(positions=(math.radians(9.0),) * 6)
    assert np.abs(backend.infer(moved).positions - first).max() > 1e-6
    free = load(checkpoint)
    assert np.abs(free.infer(observation()).positions - free.infer(observation()).positions).max() > 1e-6


def test_cameras_of_other_names_are_mapped_and_never_guessed(
    tmp_path: Path, load: Callable[..., Any]
) -> None:
    folder = write_small_checkpoint(tmp_path / "dual", cameras=("front", "wrist"))
    with pytest.raises(BackendError, match=r"model.cameras, for example \[front=scene\]"):
        load(folder)
    with pytest.raises(BackendError, match="'top=scene' must be"):
        load_with(folder, ["top=scene"])
    backend = load_with(folder, ["front=scene"])
    assert backend.infer(observation()).positions.shape == (16, 6)


def load_with(folder: Path, cameras: list[str]) -> Any:
    settings = BackendSettings(JOINTS, ("scene", "wrist"), str(folder), options={"cameras": cameras})
    backend = create_backend("local", settings)
    backend.load()
    return backend


def test_camera_of_another_size_is_refused_by_name(checkpoint: Path, load: Callable[..., Any]) -> None:
    with pytest.raises(Exception, match="camera scene gives 320x240; the checkpoint was trained on 640x480"):
        load(checkpoint).infer(observation(size=(240, 320)))


def test_units_that_are_not_recorded_must_be_said(tmp_path: Path, load: Callable[..., Any]) -> None:
    folder = write_small_checkpoint(tmp_path / "unsaid", centre=CENTRE)
    recorded = load(folder, seed=1).infer(observation()).positions
    forget(folder, "joints")
    with pytest.raises(BackendError, match=r"model.units to degrees or -100..100"):
        load(folder)
    np.testing.assert_allclose(
        load(folder, seed=1, units="degrees").infer(observation()).positions, recorded, atol=1e-9
    )
    with pytest.raises(BackendError, match="calibration"):
        load(folder, units="-100..100")
    with pytest.raises(BackendError, match="that is not in rad"):
        load(folder, units="rad")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stpes": 4}, "model.stpes is unknown"),
        ({"denoising_steps": "many"}, "model.denoising_steps is 'many', expected int"),
        ({"dtype": "int4"}, "model.dtype is 'int4'"),
        ({"prompt": "loud"}, "prompt 'loud'"),
        ({"embodiment": "gr1"}, "no embodiment 'gr1'"),
        ({"units": "-100..100", "calibration": "/nowhere.json"}, "/nowhere.json cannot be read"),
    ],
)
def test_wrong_parameters_are_refused_by_name(
    checkpoint: Path, load: Callable[..., Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BackendError) as caught:
        load(checkpoint, **options)
    assert words in str(caught.value)


def test_an_arm_of_other_joints_is_refused_by_name(checkpoint: Path, load: Callable[..., Any]) -> None:
    with pytest.raises(BackendError, match="the arm lacks wrist_roll, gripper; the model does not know jaw"):
        load(checkpoint, (*JOINTS[:4], "jaw"))


def test_no_or_a_missing_checkpoint_is_said(load: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no checkpoint is given"):
        create_backend("local", BackendSettings(JOINTS, ())).load()
    with pytest.raises(BackendError, match="does not exist"):
        load(tmp_path / "nowhere")


def test_guidance_and_steps_change_the_chunk(checkpoint: Path, load: Callable[..., Any]) -> None:
    plain = load(checkpoint, seed=2).infer(observation()).positions
    for options in ({"guidance": 2.0}, {"denoising_steps": 8}):
        assert np.abs(load(checkpoint, seed=2, **options).infer(observation()).positions - plain).max() > 1e-6
