# SPDX-License-Identifier: Apache-2.0
"""The twin's servos: what registers ask for, physics does."""

from __future__ import annotations

import pytest

from chefmate_driver.feetech.plant import MAX_ACCELERATION, MAX_SPEED, ServoDrive
from chefmate_driver.kitchen.plant import WorldPlant
from chefmate_driver.kitchen.world import World

PAN, LIFT = 0, 1


def run(world: World, plant: WorldPlant, seconds: float) -> None:
    for _ in range(int(seconds / 0.004)):
        plant.before_step(0.004)
        world.step(2)
    plant.after_step()


def drive(target: float, speed: float = MAX_SPEED, enabled: bool = True, limit: float = 1.0) -> ServoDrive:
    return ServoDrive(enabled, target, speed, MAX_ACCELERATION, limit)


@pytest.fixture
def world() -> World:
    return World(seed=0)


def test_a_goal_is_reached_at_the_goal_speed(world: World) -> None:
    plant = WorldPlant(world)
    plant.drive(PAN, drive(0.4, speed=0.5))
    run(world, plant, 0.4)
    halfway = plant.measure(PAN)
    assert halfway.velocity == pytest.approx(0.5, abs=0.1)
    assert halfway.position == pytest.approx(0.2, abs=0.05)
    run(world, plant, 1.0)
    assert plant.measure(PAN).position == pytest.approx(0.4, abs=0.02)
    assert abs(plant.measure(PAN).velocity) < 0.02


def test_without_torque_a_raised_arm_falls_and_with_torque_it_holds(world: World) -> None:
    raised = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    falls = {}
    for enabled in (True, False):
        world.set_arm(raised)
        plant = WorldPlant(world)
        for joint in range(6):
            plant.drive(joint, drive(0.0, enabled=enabled))
        run(world, plant, 1.0)
        falls[enabled] = max(abs(plant.measure(joint).position) for joint in range(6))
    assert falls[True] < 0.05 < 0.3 < falls[False]


def test_torque_on_does_not_jump_to_where_the_arm_was(world: World) -> None:
    plant = WorldPlant(world)
    start = plant.measure(PAN).position
    plant.drive(PAN, drive(1.0, speed=0.2))
    run(world, plant, 0.1)
    assert abs(plant.measure(PAN).position - start) < 0.05


def test_load_is_the_torque_that_holds_the_arm_and_respects_the_limit(world: World) -> None:
    world.set_arm((0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    plant = WorldPlant(world)
    for joint in range(6):
        plant.drive(joint, drive(0.0))
    run(world, plant, 0.5)
    held = abs(plant.measure(LIFT).torque)
    assert 0.1 < held < 2.94
    plant.drive(LIFT, drive(0.0, limit=0.01))
    run(world, plant, 0.1)
    assert abs(plant.measure(LIFT).torque) <= 0.0295
