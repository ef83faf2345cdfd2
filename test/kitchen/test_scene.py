# SPDX-License-Identifier: Apache-2.0
"""The twin's model: what is in it, that every process builds the same, that its pictures can be read."""

import os
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import cv2
import mujoco
import numpy as np
import pytest
import yaml

from chefmate_driver.kitchen.config import KitchenConfig, KitchenError
from chefmate_driver.kitchen.layout import draw_appearance, draw_layout
from chefmate_driver.kitchen.scene import JOINTS, apply_appearance, build_model
from chefmate_driver.kitchen.world import World

SCENE = Path(__file__).resolve().parents[2] / "config" / "kitchen_scene.yaml"


@pytest.fixture(scope="module")
def config() -> KitchenConfig:
    return KitchenConfig.load()


@pytest.fixture(scope="module")
def world(config: KitchenConfig) -> World:
    return World(config)


def picture(model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> np.ndarray:
    renderer = mujoco.Renderer(model, 480, 640)
    try:
        renderer.update_scene(data, camera)
        return renderer.render().copy()
    finally:
        renderer.close()


def test_nothing_but_contact_can_hold_a_slice(world):
    assert world.model.neq == 0
    assert world.model.nmocap == 0
    assert {world.model.actuator(i).name for i in range(world.model.nu)} == set(JOINTS)


def test_arm_meshes_are_coarse_and_never_collide(world):
    model = world.model
    meshes = model.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    assert np.all(model.geom_contype[meshes] == 0) and np.all(model.geom_conaffinity[meshes] == 0)
    drawn = sum(int(model.mesh_facenum[model.geom_dataid[geom]]) for geom in np.flatnonzero(meshes))
    assert 5_000 < drawn < 20_000


def test_every_process_builds_the_same_model(config):
    first, second = build_model(config), build_model(config)
    for field in ("body_pos", "geom_pos", "geom_size", "mesh_vert", "mat_rgba", "cam_pos", "jnt_qposadr"):
        assert np.array_equal(getattr(first, field), getattr(second, field)), field


def test_qpos_and_appearance_reproduce_the_picture(config, world):
    world.reset(7)
    world.step(100)
    other = build_model(config)
    apply_appearance(other, config, draw_appearance(config, 3))  # leaves nothing behind
    apply_appearance(other, config, draw_appearance(config, 7))
    data = mujoco.MjData(other)
    data.qpos[:] = world.data.qpos
    mujoco.mj_forward(other, data)
    mujoco.mj_forward(world.model, world.data)
    for camera in ("scene", "wrist"):
        assert np.array_equal(picture(world.model, world.data, camera), picture(other, data, camera)), camera


def test_seeds_differ_in_layout_and_looks(config):
    layouts = [draw_layout(config, seed) for seed in range(20)]
    assert len({layout.slots for layout in layouts}) > 10
    assert draw_layout(config, 5) == layouts[5]
    assert layouts[1].appearance != layouts[2].appearance


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ingredients_differ_by_hue_from_each_other_and_from_arm_and_table(config, world, seed):
    world.reset(seed, ["bread", "cheese", "patty", "lettuce", "tomato"])
    world.step(50)
    hsv = cv2.cvtColor(picture(world.model, world.data, "scene"), cv2.COLOR_RGB2HSV).astype(int)
    seen = {}
    for state in world.objects():
        column, row = project(world, state.position)
        patch = hsv[row - 4 : row + 5, column - 4 : column + 5].reshape(-1, 3)
        seen[state.ingredient] = np.median(patch, axis=0)
    hues = {kind: value[0] for kind, value in seen.items()}
    assert all(value[1] > 80 for value in seen.values()), seen  # the table's saturation is below 60
    assert 8 <= hues["bread"] < hues["cheese"] < hues["lettuce"], hues
    assert hues["cheese"] - hues["bread"] >= 5 and hues["lettuce"] - hues["cheese"] >= 15, hues
    assert seen["patty"][2] < 0.6 * seen["tomato"][2], seen  # both red: the patty is the dark one
    table = hsv[470, 320]
    assert table[1] < 75 and 95 < table[0] < 125


def project(world: World, point: np.ndarray) -> tuple[int, int]:
    """Pixel (column, row) of a point in the scene camera."""
    camera = world.data.camera("scene")
    local = camera.xmat.reshape(3, 3).T @ (point - camera.xpos)
    focal = 240 / np.tan(np.radians(world.model.camera("scene").fovy[0]) / 2)
    return round(320 + focal * local[0] / -local[2]), round(240 - focal * local[1] / -local[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["tray"].update(slots=3), "3 slots"),
        (lambda raw: raw["tray"].update(colour_of=1), "unknown keys"),
        (lambda raw: raw.update(default=["banana"]), "banana"),
        (lambda raw: raw["ingredients"]["bread"].update(size=[0.05, 0.05, 0.03]), "does not fit"),
        (lambda raw: raw.pop("plate"), "plate"),
    ],
)
def test_faulty_scene_files_are_refused_by_name(tmp_path, change, message):
    raw = yaml.safe_load(SCENE.read_text(encoding="utf-8"))
    change(raw)
    file = tmp_path / "scene.yaml"
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(KitchenError, match=message) as failure:
        KitchenConfig.load(file)
    assert str(file) in str(failure.value)
