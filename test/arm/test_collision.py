# SPDX-License-Identifier: Apache-2.0
"""The filter's boxes and distances against the arm's real shape, placed by MuJoCo."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from so101_meshes import ArmMeshes

from chefmate_driver.arm.collision import BOXES, LEVERS, PAIRS, heights, separations
from chefmate_driver.arm.model import LINK_NAMES, LOWER, UPPER, link_frames
from chefmate_driver.arm.parameters import HOME_POSE, PARK_POSE

SPACING = 0.003  # m, of the points on the meshes
POSES = np.random.default_rng(3).uniform(LOWER, UPPER, (300, 6))
LINKS = [(LINK_NAMES.index(first), LINK_NAMES.index(second)) for first, second in PAIRS]


@pytest.fixture(scope="module")
def meshes() -> ArmMeshes:
    return ArmMeshes(SPACING)


@pytest.mark.parametrize("link", LINK_NAMES)
def test_boxes_enclose_every_part_of_the_link(meshes: ArmMeshes, link: str) -> None:
    points = meshes.points[LINK_NAMES.index(link)]
    outside = np.min(
        [
            np.maximum(np.subtract(low, points), np.subtract(points, high)).max(axis=1)
            for low, high in BOXES[link]
        ],
        axis=0,
    )
    assert outside.max() < 1e-4  # m


@pytest.mark.parametrize("link", LINK_NAMES)
def test_boxes_are_no_larger_than_the_link(meshes: ArmMeshes, link: str) -> None:
    points = meshes.points[LINK_NAMES.index(link)]
    low, high = np.array(BOXES[link])[:, 0].min(axis=0), np.array(BOXES[link])[:, 1].max(axis=0)
    assert np.abs(low - points.min(axis=0)).max() < 1e-3
    assert np.abs(high - points.max(axis=0)).max() < 1e-3


def test_height_is_never_above_the_real_lowest_point_and_near_it(meshes: ArmMeshes) -> None:
    real = np.array([meshes.height(pose) for pose in POSES])
    ours = heights(link_frames(POSES))
    assert (ours <= real + 1e-4).all()
    assert np.median(real - ours) < 0.004
    assert (real - ours).max() < 0.015


def test_separation_is_never_more_than_the_real_distance(meshes: ArmMeshes) -> None:
    ours = separations(link_frames(POSES)).min(axis=1)
    near = POSES[np.argsort(ours)[:40]]
    for pose in near:
        bound = float(separations(link_frames(pose[None])).min())
        assert bound <= meshes.distance(pose, LINKS) + 1e-4


def test_real_contact_is_seen_and_free_poses_are_no_contact(meshes: ArmMeshes) -> None:
    ours = separations(link_frames(POSES)).min(axis=1)
    order = np.argsort(ours)[[*range(0, 40, 2), *range(60, 100, 4)]]
    real = np.array([meshes.distance(pose, LINKS) for pose in POSES[order]])
    touching, free = real < SPACING, real > 0.03
    assert touching.sum() >= 5 and free.sum() >= 5
    assert (ours[order][touching] <= SPACING).all()
    assert (ours[order][free] > 0.0).all()


def test_home_park_and_their_open_gripper_are_clear() -> None:
    poses = np.array([[*pose, jaw] for pose in (HOME_POSE, PARK_POSE) for jaw in (LOWER[5], 0.0, UPPER[5])])
    frames = link_frames(poses)
    assert heights(frames).min() > 0.002
    assert separations(frames).min() > 0.01


def test_no_point_moves_farther_than_the_levers_say() -> None:
    """The bound by which the filter skips a look at the body."""
    random = np.random.default_rng(5)
    start = random.uniform(LOWER, UPPER, (200, 6))
    end = start + random.uniform(-0.3, 0.3, start.shape)
    first, second = link_frames(start), link_frames(end)
    bound = np.abs(end - start) @ LEVERS
    for link in range(1, len(LINK_NAMES)):
        for box in BOXES[LINK_NAMES[link]]:
            for corner in itertools.product(*zip(*box, strict=True)):
                way = (second[:, link] - first[:, link]) @ np.array([*corner, 1.0])
                assert (np.linalg.norm(way, axis=1) <= bound).all()
