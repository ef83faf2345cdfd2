# SPDX-License-Identifier: Apache-2.0
"""Sandwiches in lockstep, by what perception sees, beside the truth."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chefmate_driver.kitchen.render import import_mujoco

import_mujoco()  # chooses the renderer

from chefmate.bench_perception import count_runs  # noqa: E402
from chefmate.perception_runs import CUT, Runner, draw_run  # noqa: E402
from chefmate.perception_witness import true_objects  # noqa: E402
from chefmate_policy.perception.workcell import PLATE, Workcell  # noqa: E402

REACHING = (0.5, 0.0, 0.2, 0.9, 0.0, 0.3)  # rad, in front of slot 3


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner("expert", "expert", latency=0.01)
    yield runner
    runner.close()


def test_runs_differ_by_their_number_alone_and_fit_the_stock() -> None:
    drawn = [draw_run(0, number) for number in range(20)]
    assert len({scene.layout for scene, _ in drawn}) == 20 and draw_run(0, 3) == drawn[3]
    for scene, recipe in drawn:
        wanted = [step.ingredient for step in recipe.steps]
        assert wanted[0] == wanted[-1] == "bread" and 3 <= len(wanted) <= 4
        assert not {kind for kind in wanted if wanted.count(kind) > scene.slots.count(kind)}


def test_a_run_is_the_same_again_and_its_states_stand_beside_the_truth(runner: Runner) -> None:
    run = runner.run(0, 1, longest=4.0)
    assert run == runner.run(0, 1, longest=4.0)
    assert run.outcome == CUT and not run.made and len(run.states) >= 2
    assert all(state.time > 0.9 for state in run.states), "perception has seen its first pictures by then"
    figures = count_runs([run.to_dict()])
    whole = figures["whole_states"]["all"]
    assert whole["successes"] == whole["n"] == len(run.states), "the arm has not taken anything yet"


def test_what_the_arm_hides_and_what_lies_under_others_is_told(runner: Runner) -> None:
    world, witness = runner.studio.world, runner.witness
    world.reset(3)
    world.set_arm((0.0, -1.55, 1.45, 0.75, 0.0, 0.0))
    world.step(50)
    free = witness.hidden()
    assert not any(free.zones) and not any(free.slices.values()) and not free.covered
    world.place("bread_1", "plate")
    world.place("cheese_1", "plate")
    world.set_arm(REACHING)
    hidden = witness.hidden()
    assert hidden.zones[3] > 0.2 and max(hidden.zones[:3]) == 0.0 and hidden.covered == {"bread_1"}
    assert max(hidden.slices.values()) > 0.05
    assert Workcell(0.0, tuple(true_objects(world).values())).plate() == ("bread", "cheese")


def test_a_slice_over_the_rim_is_half_on_the_plate(runner: Runner) -> None:
    world = runner.studio.world
    world.reset(3)
    name = world.place("cheese", "plate")
    assert true_objects(world)[name].confidence == 1.0
    address = int(world.model.joint(name).qposadr[0])
    world.data.qpos[address] += 0.06
    moved = true_objects(world)[name]
    assert moved.place == PLATE and moved.confidence < runner.limits.min_confidence
