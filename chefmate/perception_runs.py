# SPDX-License-Identifier: Apache-2.0
"""Sandwiches in lockstep: the sequencer's core makes them by what perception sees, and beside each state and
each verdict stands what the twin's truth says.

Policy (the node's scheduling), safety filter, physics, perception and sequencer core are those of the graph;
DDS and wall time are missing, so equal seeds give equal runs. As for `chefmate.demonstrations`, the renderer
must have been chosen.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import yaml

from chefmate.closed_loop import Driver
from chefmate.clocked import TICK
from chefmate.demonstrations import Studio
from chefmate.perception_witness import Witness, true_objects
from chefmate_driver.kitchen import truth
from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import Scene, twin_seed
from chefmate_policy.perception.confusion import pair, zones
from chefmate_policy.perception.workcell import SeenObject, Workcell
from chefmate_policy.sequencer import outcomes
from chefmate_policy.sequencer.core import Sequencer
from chefmate_policy.sequencer.outcomes import Verdict
from chefmate_policy.sequencer.recipes import Recipe, Step
from chefmate_policy.sequencer.views import ArmView, ClearView, Finished, Limits, PolicyView, Publish
from chefmate_ros.share import share_file

__all__ = ["Run", "Runner", "State", "draw_run"]

DATASET = 7000  # seed whose layouts these runs have: none of a training set's
REST = (0.0, -1.55, 1.45, 0.75, 0.0, 0.0)  # rad, as the graph's twin starts
SEQUENCER_PERIOD = 0.1  # s, the node's
STATE_EVERY = 8  # pictures between two states that count, about 1 s
SETTLED = 0.5  # s without a change of the truth: perception needs `frames` pictures to report one
LONGEST = 120.0  # s of the twin, then a run is cut
MIDDLE = ("cheese", "patty", "lettuce", "tomato")  # between two slices of bread, one or two of them


@dataclass(frozen=True)
class State:
    """One moment. Instances are (class, place, slot, layer).

    pairs: of what was there and what was seen, with the share that the arm hides of it (None: nothing was
    there) and whether other slices cover it. zones: classes there and seen in each slot and on the plate, and
    the share of the zone that the arm hides. settled: the truth has been the same for SETTLED. verdicts: how
    the step would be judged now, by what is seen and by the truth; empty where the sequencer does not judge.
    """

    time: float
    phase: str
    plate_visible: bool
    holder_visible: bool
    settled: bool
    pairs: list[tuple[list[Any] | None, list[Any] | None, float | None, bool]]
    zones: list[tuple[list[str], list[str], float]]
    verdicts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One sandwich. attempts: step, ingredient, verdict as the sequencer gave it, as the truth has it, why,
    and whether the slice lay flat (only of successes). made: the truth's stack, flat and released, is the
    recipe; stacked: it is, lying as it may. outcome: the sequencer's own; CUT: out of time."""

    number: int
    policy: str
    recipe: tuple[str, ...]
    seconds: float
    outcome: str
    reason: str
    made: bool
    stacked: bool
    attempts: list[dict[str, Any]]
    states: list[State]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Judged(Sequencer):
    """A sequencer that remembers what each attempt was judged by."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.noted: list[tuple[int, str, Verdict, Workcell | None, Workcell | None, Workcell | None]] = []
        self._ending = False

    def _end_attempt(self, verdict: Verdict) -> None:
        self._note(verdict)
        self._ending = True
        super()._end_attempt(verdict)
        self._ending = False

    def _end_step(self, verdict: Verdict, keep_going: bool | None = None) -> None:
        if not self._ending:
            self._note(verdict)
        super()._end_step(verdict, keep_going)

    def _note(self, verdict: Verdict) -> None:
        seen = self.senses.workcell
        self.noted.append(
            (self._index, self._step.ingredient, verdict, self._step_before, self._attempt_before, seen)
        )

    def standing(self) -> tuple[str, Workcell, Workcell, Workcell] | None:
        """The ingredient and what the step would be judged by now; None where nothing is judged."""
        seen = self.senses.seen()
        if not self.busy or seen is None or self._step_before is None or self._attempt_before is None:
            return None
        return self._step.ingredient, self._step_before, self._attempt_before, seen


def draw_run(seed: int, number: int) -> tuple[Scene, Recipe]:
    """Scene and recipe of a run: bread, one or two other things, bread; every slot is full or as full as the
    stock allows."""
    layout = twin_seed(DATASET + seed, number)
    random = np.random.default_rng([layout, 9])
    others = [str(name) for name in random.permutation(MIDDLE)]
    middle = others[: int(random.integers(1, 3))]
    held = ["bread", "bread", *others[:3]]
    slots = tuple(str(name) for name in random.permutation(held))
    table = Phrasings.load().only(["recipe"])
    steps = []
    for ingredient in ("bread", *middle, "bread"):
        sentences = table.picks(ingredient)
        steps.append(Step(ingredient, sentences[int(random.integers(len(sentences)))].text))
    return Scene(layout, slots, (), REST, "rest"), Recipe(f"drawn-{number}", tuple(steps))


class Runner:
    """Makes runs with one policy. Belongs to one thread."""

    def __init__(self, policy: str, backend: str, checkpoint: str = "", latency: float | None = None) -> None:
        """policy: its name in the results. latency: s of an inference, None: measured.

        Raises BackendError, KitchenError.
        """
        self.policy = policy
        self.studio = Studio(size=(640, 480), pictures=backend != "expert")
        self.driver = Driver(self.studio, backend, checkpoint, latency=latency)
        self.witness = Witness(self.studio.world)
        self.limits = Limits()
        raw = yaml.safe_load(share_file("config", "arm.yaml").read_text(encoding="utf-8"))
        self._arm: dict[str, Any] = raw["/**"]["ros__parameters"]

    def close(self) -> None:
        """Frees graphics and backend."""
        self.witness.close()
        self.driver.close()
        self.studio.close()

    def run(self, seed: int, number: int, longest: float = LONGEST) -> Run:
        """One sandwich, the same for the same numbers (with a latency that is given)."""
        scene, recipe = draw_run(seed, number)
        self.studio.arrange(scene)
        self.witness.forget()
        return _Sandwich(self, recipe, number, longest).make()

    def home(self) -> None:
        """As arm/home: to the home pose at slow speed, the gripper as it is. The policy stands meanwhile."""
        studio = self.studio
        here = studio.world.joint_targets
        there = np.array([*self._arm["home_pose"], here[5]])
        cycles = max(1, round(float(np.abs(there - here).max()) / float(self._arm["slow_speed"]) / TICK))
        studio.safety.reset(here)
        for cycle in range(cycles + 1):
            yield_to = here + (there - here) * min(1.0, cycle / cycles)
            studio.world.set_joint_targets(studio.safety.step(yield_to, TICK).tolist())
            studio.world.step(studio.steps)
