# SPDX-License-Identifier: Apache-2.0
"""The twin's physics and bookkeeping."""

import numpy as np
import pytest

from chefmate_driver.kitchen import truth
from chefmate_driver.kitchen.config import KitchenError
from chefmate_driver.kitchen.world import REST, World


@pytest.fixture(scope="module")
def shared() -> World:
    return World()


@pytest.fixture
def world(shared: World) -> World:
    shared.set_torque_enabled([True] * 6)
    shared.set_arm(REST)
    shared.reset(0)
    return shared


def places(world: World) -> dict[str, str]:
    return {item.state.name: item.place for item in truth.observe(world)}


@pytest.mark.parametrize("seed", range(8))
def test_layouts_stay_in_their_slots(world, seed):
    layout = world.reset(seed)
    before = {state.name: state.position for state in world.objects()}
    world.step(2500)  # 5 s
    for item in truth.observe(world):
        assert item.place == truth.HOLDER
        assert layout.slots[item.slot] == item.state.name
        assert np.linalg.norm(item.state.position - before[item.state.name]) < 0.002
    assert world.touched == []


def test_same_seed_and_commands_give_the_same_state():
    states = []
    for _ in range(2):
        world = World(seed=4)
        for goal in (0.3, -0.5):
            world.set_joint_targets([goal, -1.2, 1.2, 0.8, 0.0, 0.4])
            world.step(400)
        states.append(world.data.qpos.copy())
    assert np.array_equal(*states)


def test_reset_leaves_the_arm_where_it_is(world):
    world.set_joint_targets([0.4, -1.0, 1.0, 0.8, 0.1, 0.3])
    world.step(1000)
    before, generation = world.joint_positions, world.generation
    world.reset(3, ["cheese", "", "bread"])
    assert np.array_equal(world.joint_positions, before)
    assert world.generation == generation + 1
    assert places(world) == {"cheese_1": "holder", "bread_1": "holder"}
    assert world.layout.slots == ("cheese_1", "", "bread_1", "", "")


@pytest.mark.parametrize("slots", [["banana"], ["cheese", "cheese"], [""] * 9])
def test_impossible_layouts_are_refused_and_change_nothing(world, slots):
    before = world.data.qpos.copy()
    with pytest.raises(KitchenError):
        world.reset(1, slots)
    assert np.array_equal(world.data.qpos, before)


def test_hand_places_on_plate_in_holder_and_elsewhere(world):
    for name in ("bread_1", "cheese", "bread_2"):
        world.place(name, "plate")
        world.step(250)
    assert truth.plate_holds(world, ["bread", "cheese", "bread"])
    assert not truth.plate_holds(world, ["bread", "bread", "cheese"])
    assert not truth.plate_holds(world, ["bread", "cheese"])
    stack = {item.state.name: item.stack_index for item in truth.observe(world)}
    assert stack == {"bread_1": 0, "cheese_1": 1, "bread_2": 2, "patty_1": -1}
    assert world.place("patty", "elsewhere") == "patty_1"
    assert "patty_1" not in places(world)
    world.place("patty", "holder", 0)
    world.step(250)
    assert world.slot_of("patty_1") == 0
    with pytest.raises(KitchenError, match="taken"):
        world.place("bread_1", "holder", 0)
    with pytest.raises(KitchenError, match="no object"):
        world.place("banana", "plate")


def test_upright_on_the_plate_is_not_flat(world):
    world.place("cheese", "plate")
    start = world.model.joint("cheese_1").qposadr[0]
    world.data.qpos[start + 3 : start + 7] = [np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0]
    assert not next(item for item in truth.observe(world) if item.state.name == "cheese_1").flat
    assert not truth.plate_holds(world, ["cheese"])


def test_servos_reach_their_goals_and_limp_joints_fall(world):
    goals = np.array([0.5, -0.9, 1.0, 0.7, -0.3, 0.6])
    world.set_joint_targets(goals)
    world.step(1500)
    assert np.max(np.abs(world.joint_positions - goals)) < 0.005
    assert np.max(np.abs(world.joint_velocities)) < 0.01
    assert np.all(np.abs(world.joint_torques) <= 2.94 + 1e-9)
    world.set_torque_enabled([True, False, True, True, True, True])
    world.step(500)
    assert abs(world.joint_positions[1] - goals[1]) > 0.1


def test_joint_targets_are_checked(world):
    with pytest.raises(KitchenError, match="six finite"):
        world.set_joint_targets([0.0, np.nan, 0.0, 0.0, 0.0, 0.0])
    world.set_joint_targets([9.0] * 6)
    assert world.joint_targets[0] == pytest.approx(1.91986, abs=1e-4)


def test_first_touched_names_the_slice_that_the_arm_ran_into(world):
    world.reset(0, ["", "", "bread", "", "cheese"])
    low = [-0.34, 0.87, 0.26, 0.048, -0.1]  # tip at the height of the slices' upper edges
    world.set_joint_targets([-0.5, *low])  # left of the tray
    world.step(1000)
    assert truth.first_touched(world) is None
    world.set_joint_targets([1.4, *low])  # sweeps to the right
    world.step(1000)
    assert truth.first_touched(world) == "bread_1"
