# SPDX-License-Identifier: Apache-2.0
"""The pinhole camera, and the shipped workcell file against the twin's own scene file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_driver.kitchen.layout import slot_pose
from chefmate_policy.perception.projection import Camera, box_corners, cylinder_rims, looking_at, pinhole
from chefmate_policy.perception.settings import load

CONFIG = Path(__file__).parents[2] / "config"


def camera(distortion: tuple[float, ...] = (0.0,) * 5) -> Camera:
    position = np.array([0.6, 0.0, 0.5])
    return Camera(
        pinhole((640, 480), 0.8), np.array(distortion), position, looking_at(position, (0.2, 0.0, 0.0))
    )


def test_the_target_is_in_the_middle_and_up_is_up() -> None:
    middle, higher, left_of_robot = camera().project([(0.2, 0.0, 0.0), (0.2, 0.0, 0.05), (0.2, 0.1, 0.0)])
    assert middle == pytest.approx((320.0, 240.0))
    assert higher[1] < 230.0
    assert left_of_robot[0] > 400.0, "the camera looks back at the robot, so its left is the image's right"


def test_the_vertical_field_of_view_is_met_at_the_border() -> None:
    looking = Camera(pinhole((640, 480), 0.8), np.zeros(5), np.zeros(3), looking_at((0, 0, 0), (1, 0, 0)))
    assert looking.project([(1.0, 0.0, np.tan(0.4))])[0] == pytest.approx((320.0, 0.0), abs=1e-6)


@pytest.mark.parametrize("distortion", [(0.0,) * 5, (-0.2, 0.05, 0.001, 0.0005, 0.0)])
def test_back_projection_undoes_projection(distortion: tuple[float, ...]) -> None:
    eye = camera(distortion)
    for point in ((0.2, 0.15, 0.0), (0.3, -0.1, 0.04)):
        column, row = eye.project([point])[0]
        assert eye.on_height((column, row), point[2]) == pytest.approx(point, abs=1e-4)


def test_a_leaning_slice_looks_outward_and_falls_back() -> None:
    corners = box_corners((0.3, 0.0, 0.04), (0.05, 0.05, 0.01), yaw=0.0, lean=np.pi / 4)
    top = corners[corners[:, 2] > 0.05]
    assert len(corners) == 8 and np.all(top[:, 0] < 0.3), "its top is nearer to the robot"
    assert corners.mean(axis=0) == pytest.approx((0.3, 0.0, 0.04))


def test_cylinder_rims() -> None:
    rims = cylinder_rims((0.1, 0.2, 0.0), 0.08, 0.04)
    assert np.allclose(np.hypot(rims[:, 0] - 0.1, rims[:, 1] - 0.2), 0.08)
    assert set(np.round(rims[:, 2], 6)) == {0.0, 0.04}


def test_the_shipped_zones_are_where_the_twin_has_them() -> None:
    kitchen = KitchenConfig.load(CONFIG / "kitchen_scene.yaml")
    settings = load(CONFIG / "workcell_twin.yaml")
    raw = yaml.safe_load((CONFIG / "workcell_twin.yaml").read_text())
    view, scene = settings.view, kitchen.scene_camera
    assert view is not None
    assert (view.position, view.target, view.fovy) == (
        tuple(scene.position),
        tuple(scene.target or ()),
        scene.fovy,
    )
    plate = raw["plate"]["zone"]["cylinder"]
    assert plate["centre"][:2] == list(kitchen.plate.centre) and plate["radius"] == kitchen.plate.rim_radius
    assert {ingredient.name for ingredient in settings.ingredients} == set(kitchen.ingredients)
    assert len(settings.slots) == kitchen.tray.slots
    length, _, thickness = kitchen.ingredients["bread"].size
    for slot, zone in enumerate(settings.slots):
        foot, axes = slot_pose(kitchen, slot)
        assert zone.centre == pytest.approx(foot + axes @ [length / 2, 0.0, thickness / 2], abs=1e-4)
        box = raw["holder"]["slots"][slot]["box"]
        turn = kitchen.tray.first_angle + slot * kitchen.tray.step
        assert (box["yaw"], box["lean"]) == pytest.approx((turn, kitchen.tray.lean), abs=1e-3)
