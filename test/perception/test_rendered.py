# SPDX-License-Identifier: Apache-2.0
"""Perception on the twin's rendered images, against the twin's own bookkeeping."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")  # before MuJoCo is imported: there is no screen

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from chefmate_driver.kitchen.layout import slot_pose
from chefmate_driver.kitchen.truth import observe
from chefmate_driver.kitchen.world import World
from chefmate_policy.perception.drawing import draw_zones
from chefmate_policy.perception.segmentation import Eye
from chefmate_policy.perception.settings import load
from chefmate_policy.perception.tracking import Tracker
from chefmate_policy.perception.workcell import HOLDER, PLATE

SETTINGS = load(Path(__file__).parents[2] / "config" / "workcell_twin.yaml")
SEEDS = range(20)
LAYERS = ("bread_1", "cheese_1", "bread_2")
Entry = tuple[str, str, int, int]


class Table:
    """The twin, its scene camera and a fresh eye."""

    def __init__(self) -> None:
        self.world = World(seed=0)
        self.renderer = mujoco.Renderer(self.world.model, 480, 640)
        self.eye = Eye(SETTINGS, (640, 480))
        self.forget()

    def forget(self) -> None:
        self.world.set_arm((0.0, -1.72, 1.66, 0.9, 0.0, 0.0))  # parked
        self.tracker = Tracker(len(SETTINGS.slots), SETTINGS.frames, SETTINGS.plate_moved)

    def image(self) -> NDArray[np.uint8]:
        self.renderer.update_scene(self.world.data, camera="scene")
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        image: NDArray[np.uint8] = self.renderer.render()
        return image

    def look(self) -> None:
        sight = self.eye.look(self.image())
        for _ in range(SETTINGS.frames):
            self.state = self.tracker.see(sight, 0.0)

    def seen(self) -> list[Entry]:
        return sorted((o.ingredient, o.place, o.slot, o.stack_index) for o in self.state.objects)

    def truth(self) -> list[Entry]:
        return sorted((o.state.ingredient, o.place, o.slot, o.stack_index) for o in observe(self.world))


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    table.renderer.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_layout_and_stack_is_seen_right(table: Table, seed: int) -> None:
    table.world.reset(seed)
    table.forget()
    table.world.step(100)
    table.look()
    assert table.seen() == table.truth() and table.state.visible
    for name in LAYERS:
        table.world.place(name, "plate")
        table.world.step(150)
        table.look()
        assert table.seen() == table.truth() and table.state.visible, name
        assert all(seen.confidence > 0.9 for seen in table.state.at(PLATE))


def test_other_ingredients_by_configuration(table: Table) -> None:
    table.world.reset(5, ["lettuce", "tomato", "", "patty", "bread"])
    table.forget()
    table.look()
    assert table.seen() == table.truth()


def test_positions_are_within_two_and_a_half_centimetres(table: Table) -> None:
    table.world.reset(7)
    table.forget()
    table.look()
    table.world.place("cheese_1", "plate")
    table.world.step(150)
    table.look()
    for seen in table.state.objects:
        true = min(
            (o.state.position for o in observe(table.world) if o.state.ingredient == seen.ingredient),
            key=lambda position: np.linalg.norm(position - seen.position),
        )
        assert np.linalg.norm(true[:2] - seen.position[:2]) < 0.025, seen


def test_what_is_hidden_is_said_and_what_is_visible_is_right(table: Table) -> None:
    """Random poses of the arm: each zone that is reported visible holds what the twin says."""
    random = np.random.default_rng(0)
    hidden = 0
    for seed in range(10):
        table.world.reset(seed)
        table.forget()
        table.look()
        for name in LAYERS[:2]:
            table.world.place(name, "plate")
            table.world.step(150)
            table.look()
        for _ in range(8):
            pan, lift, elbow, wrist = random.uniform((-1.0, -0.4, -0.4, 0.0), (1.0, 0.6, 0.8, 1.4))
            table.world.set_arm(
                (pan, lift, elbow, wrist, random.uniform(-1.5, 1.5), random.uniform(0.0, 0.8))
            )
            table.look()
            truth = table.truth()
            hidden += not table.state.visible
            if table.state.holder_visible:
                assert [e for e in table.seen() if e[1] == HOLDER] == [e for e in truth if e[1] == HOLDER]
            if table.state.plate_visible:
                assert [e for e in table.seen() if e[1] == PLATE] == [e for e in truth if e[1] == PLATE]
    assert 10 < hidden < 80, "the poses hide zones, but not always"


def test_a_slice_on_the_table_is_elsewhere(table: Table) -> None:
    table.world.reset(3)
    table.forget()
    table.look()
    cheese = table.world.object("cheese_1")
    address = int(table.world.model.joint("cheese_1").qposadr[0])
    table.world.data.qpos[address : address + 7] = [0.30, 0.20, 0.006, 1.0, 0.0, 0.0, 0.0]
    table.world.step(100)
    table.look()
    assert cheese.ingredient == "cheese" and ("cheese", "elsewhere", 255, -1) in table.seen()
    assert table.seen() == table.truth()


@pytest.mark.parametrize("offset", [0.088, 0.095])
def test_a_slice_half_on_the_plate_has_little_confidence(table: Table, offset: float) -> None:
    table.world.reset(3)
    table.forget()
    table.look()
    centre, _ = table.world.plate_pose()
    address = int(table.world.model.joint("cheese_1").qposadr[0])
    rim = (centre[0] + offset, centre[1], 0.016)
    table.world.data.qpos[address : address + 7] = [*rim, 1.0, 0.0, 0.0, 0.0]
    mujoco.mj_forward(table.world.model, table.world.data)
    table.look()
    cheese = [seen for seen in table.state.objects if seen.ingredient == "cheese"]
    assert len(cheese) == 1, "one slice, though part of it lies outside the plate"
    assert cheese[0].place == PLATE and cheese[0].confidence < 0.7


def test_the_picture_of_zones_shows_image_and_classes_side_by_side(table: Table) -> None:
    table.world.reset(0)
    image = table.image()
    picture = draw_zones(image, SETTINGS)
    assert picture.shape == (480, 1280, 3)
    changed = np.any(picture[:, :640] != image, axis=2).mean()
    assert 0.005 < changed < 0.2, "outlines and labels, and the image under them"
    assert np.any(np.all(picture[:, 640:] == (255, 220, 0), axis=2)), "the cheese is painted in its colour"


def test_a_slice_that_stands_askew_in_its_slot_is_still_there(table: Table) -> None:
    """Upright instead of leaning, it shows its crust and a sliver of its face."""
    table.world.reset(8)
    table.forget()
    for name in ("bread_1", "bread_2", "cheese_1", "patty_1"):
        slot = table.world.slot_of(name)
        assert slot is not None
        foot, axes = slot_pose(table.world.config, slot)
        address = int(table.world.model.joint(name).qposadr[0])
        upright = np.column_stack([[0.0, 0.0, 1.0], axes[:, 1], np.cross([0.0, 0.0, 1.0], axes[:, 1])])
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, upright.ravel())
        before = table.world.data.qpos[address : address + 7].copy()
        table.world.data.qpos[address : address + 7] = [*np.add(foot, (0.0, 0.0, 0.03)), *quaternion]
        mujoco.mj_forward(table.world.model, table.world.data)
        table.look()
        seen = [(o.ingredient, o.slot) for o in table.state.at(HOLDER) if o.slot == slot]
        assert seen == [(name.split("_")[0], slot)] and table.state.holder_visible, name
        table.world.data.qpos[address : address + 7] = before
