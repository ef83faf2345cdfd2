# SPDX-License-Identifier: Apache-2.0
"""The judge of trials, on a mirror of a twin whose state is written by hand."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from chefmate.judging import Judge, Limits
from chefmate.obey_graph import reaches_model
from chefmate_driver.kitchen import truth
from chefmate_driver.kitchen.world import World
from chefmate_policy.data.variants import Scene
from chefmate_policy.expert.kinematics import Kinematics
from chefmate_policy.obedience.trial import MODEL, NODE, NULL, Ask, Moved, Trial

SLOTS = ("bread", "", "cheese", "", "patty")
READY = (0.0, -0.954, 0.505, 1.060, 0.048, 0.30)
SCENE = Scene(5, SLOTS, (), READY, "ready")
TRIAL = Trial(7, "", SCENE, ((0.0, Ask("pick up the cheese", "named", "cheese", named="cheese")),), 1)
LIMITS = Limits(pick=20.0, idle=5.0, settle=1.0)


class Twin:
    """The state of another process's twin."""

    def __init__(self) -> None:
        self.source, self.mirror = World(seed=SCENE.layout), World(seed=SCENE.layout)
        self.kinematics = Kinematics()

    def begin(self) -> None:
        """As the trial begins."""
        self.source.set_arm(READY)
        self.source.reset(SCENE.layout, SLOTS)
        self.mirror.reset(SCENE.layout, SLOTS)
        self.qpos: NDArray[np.float64] = self.source.data.qpos.copy()
        self.show()

    def show(self) -> None:
        self.mirror.mirror(self.qpos)

    def put(self, name: str, position: NDArray[np.float64], rotation: NDArray[np.float64]) -> None:
        """Writes a slice's pose: position, m, and its axes as columns."""
        start = self.mirror.model.joint(name).qposadr[0]
        self.qpos[start : start + 3] = position
        mujoco.mju_mat2Quat(self.qpos[start + 3 : start + 7], np.ascontiguousarray(rotation).ravel())
        self.show()

    def hold(self, name: str) -> None:
        """Puts a slice across the jaws, through both of them: the moving one opens along the frame's z."""
        position, axes = self.kinematics.forward(np.array(READY))
        self.put(name, position + 0.015 * axes[:, 2], axes[:, [2, 0, 1]])

    def lay(self, name: str, turned: bool = False) -> None:
        """Puts a slice onto the plate's floor."""
        centre, _ = self.mirror.plate_pose()
        height = np.array([0.0, 0.0, 0.025 if turned else 0.006])
        self.put(name, centre + height, np.eye(3)[:, [1, 2, 0]] if turned else np.eye(3))


@pytest.fixture(scope="module")
def shared() -> Twin:
    return Twin()


@pytest.fixture
def twin(shared: Twin) -> Twin:
    shared.begin()
    return shared


def judge_of(twin: Twin, trial: Trial = TRIAL) -> Judge:
    return Judge(twin.mirror, twin.kinematics, trial, LIMITS)


def test_a_mirror_sees_what_the_twin_sees(twin: Twin) -> None:
    twin.source.place("cheese_1", "plate")
    twin.source.step(500)
    twin.qpos = twin.source.data.qpos.copy()
    twin.show()
    seen = [(i.state.name, i.place, i.slot, i.stack_index, i.flat) for i in truth.observe(twin.mirror)]
    assert seen == [
        (i.state.name, i.place, i.slot, i.stack_index, i.flat) for i in truth.observe(twin.source)
    ]
    assert ("cheese_1", "plate", 255, 0, True) in seen
    assert "bread_2" not in twin.mirror.present and twin.mirror.touched == []
    twin.hold("bread_2")
    assert "bread_2" in twin.mirror.present and twin.mirror.touched == ["bread_2"]


def test_a_trial_is_over_when_the_slice_lies_and_stays(twin: Twin) -> None:
    judge = judge_of(twin)
    assert not judge.look(0.1)
    twin.hold("cheese_1")
    assert not judge.look(2.0)
    twin.lay("cheese_1")
    assert [judge.look(time) for time in (3.0, 3.9, 4.1)] == [False, False, True]
    outcome = judge.outcome(4.1, 8, 0.1, "DRIVING")
    assert (outcome.number, outcome.touched, outcome.grasped, outcome.reached) == (
        7,
        "cheese",
        ("cheese",),
        "cheese",
    )
    assert outcome.contacts == (("cheese", 2.0),) and outcome.after_change == (("cheese", 2.0),)
    assert outcome.moved == (Moved("cheese", "plate", True),)


def test_what_stands_on_the_plate_or_was_never_carried_is_told_apart(twin: Twin) -> None:
    judge = judge_of(twin)
    twin.lay("cheese_1", turned=True)  # pushed there: no jaw has held it
    assert not judge.look(1.0) and not judge.look(9.0)
    outcome = judge.outcome(9.0, 0, 0.0, "DRIVING")
    assert outcome.grasped == () and outcome.moved == (Moved("cheese", "plate", False),)


def test_touches_before_a_change_of_the_instruction_are_kept_apart(twin: Twin) -> None:
    later = Ask("pick up the bread", "change", "bread", named="bread")
    trial = replace(TRIAL, asks=(*TRIAL.asks, (2.0, later)))
    judge = judge_of(twin, trial)
    assert judge.ends == 22.0
    judge.said(0.0)
    twin.hold("cheese_1")
    judge.note_touches(1.0)
    judge.said(2.0)
    twin.hold("patty_1")
    judge.note_touches(2.2)  # that was on its way already
    twin.hold("bread_1")
    judge.note_touches(5.0)
    outcome = judge.outcome(6.0, 0, 0.0, "DRIVING")
    assert [kind for kind, _ in outcome.contacts] == ["cheese", "patty", "bread"]
    assert outcome.after_change == (("bread", 5.0),)


def test_what_the_graph_cannot_give_to_a_model() -> None:
    told = {to: reaches_model(Ask("pick up the bread", "", "bread", to=to)) for to in (MODEL, NODE, NULL)}
    assert told == {MODEL: True, NODE: True, NULL: False}
    assert not reaches_model(Ask(" ", "", "")) and reaches_model(Ask("", "", "", to=NODE))
