# SPDX-License-Identifier: Apache-2.0
"""The expert in the twin, in lockstep, seeing the world 0.1 s late."""

from itertools import pairwise

import numpy as np
import pytest
from lockstep import Holds, Lockstep, observe
from scipy.spatial.transform import Rotation

from chefmate_driver.kitchen import truth
from chefmate_policy.errors import PolicyError
from chefmate_policy.expert.moves import slice_axes
from chefmate_policy.expert.observation import Place
from chefmate_policy.expert.skill import Expert

BREAD = "pick up the bread and put it into the white plate"
CHEESE = "pick up the yellow cheese and put it into the white plate"
SLOW = pytest.mark.slow


def places(lockstep: Lockstep) -> dict[str, str]:
    return {item.state.name: item.place for item in truth.observe(lockstep.world)}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW)])
def test_cheese_sandwich_is_stacked_flat_and_in_order(lockstep, seed):
    lockstep.reset(seed)
    for instruction in (BREAD, CHEESE, BREAD):
        assert 0 < lockstep.run(instruction) < 13
    assert truth.plate_holds(lockstep.world, ["bread", "cheese", "bread"])


@pytest.mark.parametrize(
    "kind", ["bread", "tomato", *(pytest.param(kind, marks=SLOW) for kind in ("cheese", "patty", "lettuce"))]
)
def test_picks_the_named_one_of_five(lockstep, kind):
    lockstep.reset(11, ["tomato", "lettuce", "patty", "cheese", "bread"])
    assert lockstep.run(f"pick up the {kind} and put it on the plate") > 0
    assert truth.plate_holds(lockstep.world, [kind])
    assert lockstep.world.touched == [f"{kind}_1"]


@pytest.mark.parametrize(
    "text",
    ["", "do not pick up the cheese", "Do not pick up the yellow cheese. Stay at base", "pick up the banana"],
)
def test_nothing_to_do_moves_nothing(lockstep, text):
    before = lockstep.world.joint_positions
    assert lockstep.run(text) > 0
    for _ in range(10):
        assert lockstep.tick(text).done
    assert np.max(np.abs(lockstep.world.joint_positions - before)) < 0.01
    assert lockstep.world.touched == []


@pytest.mark.parametrize(
    "seconds", [1.5, 4.6, *(pytest.param(seconds, marks=SLOW) for seconds in (2.6, 3.2, 6.0, 7.6))]
)
def test_turns_at_once_to_another_instruction(lockstep, seconds):
    """From reaching, descending, closing, holding, carrying and laying."""
    assert lockstep.run(BREAD, timeout=seconds) < 0
    assert lockstep.run(CHEESE) > 0
    now = places(lockstep)
    assert now["cheese_1"] == "plate"
    assert {now["bread_1"], now["bread_2"], now["patty_1"]} <= {"holder", "plate"}


def test_told_not_to_while_carrying_puts_the_slice_back(lockstep):
    home = {item.state.name: item.slot for item in truth.observe(lockstep.world)}
    lockstep.run(CHEESE, until=lambda plan: plan.phase == "carry")
    assert places(lockstep)["cheese_1"] == "gripper"
    assert lockstep.run("do not pick up the cheese") > 0
    assert {item.state.name: item.slot for item in truth.observe(lockstep.world)} == home


def test_slice_that_is_moved_during_the_reach_is_followed(lockstep):
    lockstep.reset(2, ["cheese", "", "bread", "", ""])
    lockstep.run(CHEESE, until=lambda plan: plan.phase == "descend")
    lockstep.world.place("cheese", "holder", 4)
    assert lockstep.run(CHEESE) > 0
    assert truth.plate_holds(lockstep.world, ["cheese"])


def test_slice_that_is_lost_on_the_way_is_picked_again(lockstep):
    lockstep.reset(2, ["cheese", "", "bread", "", ""])
    lockstep.run(CHEESE, until=lambda plan: plan.phase == "carry")
    lockstep.world.place("cheese", "holder", 1)
    assert lockstep.run(CHEESE) > 0
    assert truth.plate_holds(lockstep.world, ["cheese"])


def test_arm_with_half_the_speed_is_waited_for(lockstep):
    lockstep.speed_override = 0.5
    try:
        lockstep.reset(3)
        assert lockstep.run(BREAD) > 0
    finally:
        lockstep.speed_override = 1.0
    assert truth.plate_holds(lockstep.world, ["bread"])


def test_slice_that_leans_askew_in_its_slot_is_picked_too(lockstep):
    lockstep.reset(2, ["", "", "cheese"])
    start = lockstep.world.model.joint("cheese_1").qposadr[0]
    lockstep.world.data.qpos[start : start + 3] += [0.0, 0.014, 0.004]
    lockstep.world.step(500)  # it falls askew
    assert lockstep.run(CHEESE) > 0
    assert truth.plate_holds(lockstep.world, ["cheese"])


def test_slice_that_lies_on_the_table_is_left_and_said(lockstep):
    lockstep.reset(2, ["", "", "cheese"])
    start = lockstep.world.model.joint("cheese_1").qposadr[0]
    lockstep.world.data.qpos[start : start + 7] = [0.24, -0.07, 0.01, 1.0, 0.0, 0.0, 0.0]
    lockstep.world.step(100)
    assert places(lockstep) == {"cheese_1": "elsewhere"}
    assert 0 < lockstep.run(CHEESE) < 1.0
    assert "no cheese" in lockstep.expert.reason


def test_objects_move_by_contact_alone(lockstep):
    """Between reset and the end no slice moves farther in a control cycle than a fall or the arm would move
    it."""
    last = {state.name: state.position for state in lockstep.world.objects()}
    farthest = 0.0

    step = lockstep.world.step

    def watched(count: int = 1) -> None:
        nonlocal farthest
        step(count)
        for state in lockstep.world.objects():
            farthest = max(farthest, float(np.linalg.norm(state.position - last[state.name])))
            last[state.name] = state.position

    lockstep.world.step = watched
    try:
        assert lockstep.run(BREAD) > 0
    finally:
        del lockstep.world.step
    assert 0.001 < farthest < 0.012  # m in 10 ms


def test_instruction_that_was_obeyed_is_done_and_a_new_number_asks_for_more(lockstep):
    lockstep.run(BREAD)
    assert lockstep.tick(BREAD).done
    lockstep.number += 1
    assert not lockstep.tick(BREAD).done
    assert lockstep.run(BREAD) > 0
    assert list(places(lockstep).values()).count("plate") == 2
    assert 0 < lockstep.run(BREAD) < 0.5  # there is no third bread
    assert "no bread" in lockstep.expert.reason


def test_plans_are_smooth_and_within_limits(lockstep):
    plans = []
    lockstep.on_tick = lambda _, plan: plans.append(plan)
    lockstep.run(CHEESE)
    for plan in plans:
        assert plan.positions.shape == plan.velocities.shape == (16, 6)
        assert plan.times == pytest.approx(0.1 * np.arange(1, 17))
        assert np.max(np.abs(np.diff(plan.positions, axis=0))) <= 0.2 + 1e-6  # 2 rad/s
        assert np.max(np.abs(np.diff(plan.positions, n=2, axis=0))) <= 0.08 + 1e-6  # 8 rad/s^2
    for before, after in pairwise(plans):
        assert np.max(np.abs(after.positions[0] - before.positions[1])) < 0.08


def test_pose_that_is_not_finite_is_refused(lockstep):
    seen = observe(lockstep.world)
    seen.positions[2] = np.nan
    plate, tray = Place(*lockstep.world.plate_pose()), Place(*lockstep.world.tray_pose())
    with pytest.raises(PolicyError, match="finite"):
        Expert().act(seen.positions, seen.velocities, seen.objects, plate, tray, BREAD, 0.0)


@pytest.mark.parametrize("slot", [1, 3])
def test_upright_slice_is_tipped_back_into_its_slot_and_picked(lockstep: Lockstep, slot: int) -> None:
    """A grazed slice may stand up in its slot: the jaws cannot reach around it there."""
    lockstep.reset(1, ["bread" if index == slot else "" for index in range(5)])
    world = lockstep.world
    leaning = next(item for item in observe(world).objects if item.name == "bread_1")
    along, _ = slice_axes(leaning)
    foot = leaning.position - along * leaning.size[0] / 2
    azimuth = lockstep.expert.moves.azimuth(leaning.position)
    turn = Rotation.from_rotvec(np.radians(45.0) * np.array([-np.sin(azimuth), np.cos(azimuth), 0.0]))
    rotation = turn * Rotation.from_quat(np.roll(leaning.quaternion, -1))
    above = np.array([0.0, 0.0, 0.004])
    world._put("bread_1", foot + turn.apply(leaning.position - foot) + above, rotation.as_matrix())
    world.step(500)
    upright = next(item for item in observe(world).objects if item.name == "bread_1")
    assert not lockstep.expert.moves.graspable(upright)
    assert lockstep.run(BREAD, 30.0) > 0
    assert [(seen.place, seen.flat) for seen in truth.observe(world)] == [("plate", True)]


def test_holds_in_mid_motion_cost_time_and_not_the_slice(lockstep: Lockstep) -> None:
    """A machine with too few cores stops the arm every second or so; each motion goes on from rest."""
    lockstep.reset(4)
    lockstep.holds = Holds(1004, every=1.5)
    try:
        seconds = lockstep.run(BREAD, 30.0)
    finally:
        holds, lockstep.holds = lockstep.holds, None
    assert holds.count >= 4
    assert 0 < seconds < 25.0, "an undisturbed pick takes 11 s"
    assert truth.plate_holds(lockstep.world, ["bread"])


def test_a_cut_motion_starts_from_rest_where_the_arm_stands(lockstep: Lockstep) -> None:
    lockstep.run(BREAD, until=lambda plan: plan.phase == "carry")
    for _ in range(5):
        lockstep.tick(BREAD)
    lockstep.hold(0.5)
    stood = lockstep.world.joint_positions
    plan = lockstep.tick(BREAD)
    assert plan.phase == "carry"
    assert np.max(np.abs(plan.positions[0] - stood)[:5]) < 0.03
    assert np.max(np.abs(plan.velocities[0])) < 0.5


def test_an_arm_that_something_blocks_gives_way_instead_of_pushing(lockstep: Lockstep) -> None:
    lockstep.run(BREAD, until=lambda plan: plan.phase == "reach" and np.max(np.abs(plan.velocities[0])) > 0.8)
    for _ in range(3):
        lockstep.tick(BREAD)
    stuck, seen, now = lockstep.world.joint_positions, observe(lockstep.world), lockstep.world.time
    plate, tray = Place(*lockstep.world.plate_pose()), Place(*lockstep.world.tray_pose())
    pushes = []  # rad that the next step is away from where the arm is stuck
    for _ in range(8):
        plan = lockstep.expert.act(stuck, np.zeros(6), seen.objects, plate, tray, BREAD, now, lockstep.number)
        pushes.append(float(np.max(np.abs(plan.positions[0] - stuck)[:5])))
        now += 0.1
    assert max(pushes[:4]) > 0.06
    assert min(pushes[2:6]) < 0.02, "it begins anew from where it is"


@pytest.mark.parametrize(
    ("phase", "then"),
    [
        ("reach", "reach"),
        ("descend", "descend"),
        ("close", "close"),
        ("carry", "carry"),
        ("lay", "lay"),
    ],
)
def test_what_another_began_is_gone_on_with(lockstep: Lockstep, phase: str, then: str) -> None:
    """What is learnt from an expert that takes over must not be to turn back in the middle."""
    lockstep.run(BREAD, until=lambda plan: plan.phase == phase)
    for _ in range(4):
        lockstep.tick(BREAD)
    lockstep.expert = Expert(lockstep.expert.moves.kinematics)
    seen: list[str] = []
    lockstep.on_tick = lambda _, plan: seen.append(plan.phase)
    assert 0 < lockstep.run(BREAD)
    order = [name for name in dict.fromkeys(seen) if name not in ("brake", "weigh", "wait")]
    assert order[0] == then or order[:2] == ["close", then]  # a held slice is gripped anew first
    assert truth.plate_holds(lockstep.world, ["bread"])
