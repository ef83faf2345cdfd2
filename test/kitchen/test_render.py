# SPDX-License-Identifier: Apache-2.0
"""The renderer of another process shows what the twin's own model would show."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from chefmate_driver.camera.frame import CameraError, CameraSettings
from chefmate_driver.kitchen.config import KitchenError
from chefmate_driver.kitchen.render import (
    STALE,
    KitchenRenderer,
    KitchenSource,
    import_mujoco,
    model_bytes,
    pack_look,
)
from chefmate_driver.kitchen.shared_state import StateWriter

import_mujoco()
from chefmate_driver.kitchen.world import World  # noqa: E402

SIZE = (320, 240)


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=3)


def picture(world: World, camera: str) -> np.ndarray:
    renderer = KitchenRenderer(world.model, camera, *SIZE)
    image = np.empty((SIZE[1], SIZE[0], 3), dtype=np.uint8)
    renderer.render(world.data.qpos, image)
    renderer.close()
    return image


@pytest.mark.parametrize("camera", ["scene", "wrist"])
def test_a_shared_state_gives_the_same_picture_as_the_world(world: World, camera: str) -> None:
    name = f"render.{os.getpid()}"
    first = World(seed=0)  # the shared model is an older seed's: look and poses come with the state
    writer = StateWriter(name, model_bytes(first.model), world.model.nq, pack_look(first.model))
    source = KitchenSource(name, camera, CameraSettings(*SIZE, rate=30.0))
    source.open()
    stamp = writer.write(world.data.qpos, 0.0, look=pack_look(world.model))
    frame = source.read()
    assert frame.stamp == stamp
    wanted = picture(world, camera)
    assert wanted.std() > 5.0
    np.testing.assert_array_equal(frame.image, wanted)
    assert source.field_of_view() == pytest.approx(world.model.camera(camera).fovy[0])
    source.close()
    writer.close()


def test_a_seed_changes_the_look(world: World) -> None:
    assert np.abs(picture(world, "scene").astype(int) - picture(World(seed=4), "scene")).mean() > 1.0


def test_a_state_that_does_not_change_is_no_new_frame(world: World) -> None:
    name = f"stale.{os.getpid()}"
    writer = StateWriter(name, model_bytes(world.model), world.model.nq, pack_look(world.model))
    source = KitchenSource(name, "scene", CameraSettings(*SIZE, rate=100.0))
    source.open()
    writer.write(world.data.qpos, 0.0)
    source.read()
    begun = time.monotonic()
    with pytest.raises(CameraError, match="hangs"):
        source.read()
    assert STALE <= time.monotonic() - begun < STALE + 0.2
    source.close()
    writer.close()


def test_a_camera_that_draws_slower_than_its_rate_leaves_half_of_its_core_to_the_others(world: World) -> None:
    name = f"slow.{os.getpid()}"
    writer = StateWriter(name, model_bytes(world.model), world.model.nq, pack_look(world.model))
    source = KitchenSource(name, "scene", CameraSettings(1280, 960, rate=240.0))  # no CPU draws that fast
    source.open()
    image = np.empty((960, 1280, 3), dtype=np.uint8)
    begun, drawing, frames = time.monotonic(), 0.0, 0
    while time.monotonic() - begun < 1.5:
        writer.write(world.data.qpos, 0.0)
        source.grab()
        before = time.thread_time()
        source.retrieve(image)
        drawing += time.thread_time() - before
        frames += 1
    assert frames >= 3
    assert drawing < 0.65 * (time.monotonic() - begun)
    source.close()
    writer.close()


def test_an_unknown_camera_names_those_there_are(world: World) -> None:
    with pytest.raises(KitchenError, match="scene, wrist"):
        KitchenRenderer(world.model, "ceiling", *SIZE)
