# SPDX-License-Identifier: Apache-2.0
"""Sandwiches in lockstep: the sequencer's core makes them by what perception sees, and beside each state and
each verdict stands what the twin's truth says.

Policy (the node's scheduling), safety filter, physics, perception and sequencer core are those of the graph;
DDS and wall time are missing, so equal seeds give equal runs. As for `chefmate.demonstrations`, the renderer
must have been chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from chefmate.clocked import TICK
from chefmate.closed_loop import Driver
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
STATE_EVERY = 4  # pictures between two states that count, 0.5 s
SETTLED = 0.5  # s without a change of the truth: perception needs `frames` pictures to report one
CUT = "CUT"
LONGEST = 60.0  # s of the twin, then a run is cut
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

    def way_home(self) -> Iterator[NDArray[np.float64]]:
        """Goals of arm/home, cycle by cycle: to the home pose at slow speed, the gripper as it is."""
        studio = self.studio
        here = studio.world.joint_targets
        there = np.array([*self._arm["home_pose"], here[5]])
        cycles = max(1, round(float(np.abs(there - here).max()) / float(self._arm["slow_speed"]) / TICK))
        studio.safety.reset(here)
        for cycle in range(1, cycles + 1):
            yield studio.safety.step(here + (there - here) * cycle / cycles, TICK)


class _Sandwich:
    """A run in progress."""

    def __init__(self, runner: Runner, recipe: Recipe, number: int, longest: float) -> None:
        self._runner, self._recipe, self._number, self._longest = runner, recipe, number, longest
        self._world, self._witness, self._driver = runner.studio.world, runner.witness, runner.driver
        self._core = _Judged(runner.limits)
        self._text = ""
        self._homing: Iterator[NDArray[np.float64]] | None = None
        self._truths: dict[float, Workcell] = {}  # by the stamp of the picture
        self._flat: dict[float, bool] = {}  # whether all on the plate lies flat, by that stamp
        self._changed = 0.0  # s, when the truth last changed
        self._signature: object = None
        self._states: list[State] = []
        self._pictures = 0
        self._finished: Finished | None = None

    def make(self) -> Run:
        """Runs until the sequencer has finished."""
        driver, begin = self._driver, self._world.time
        driver.begin(self._number)
        self._core.start(self._recipe)
        cycle, seconds = 0, 0.0
        while self._finished is None and seconds < self._longest:
            seconds = cycle * TICK
            if seconds >= self._pictures * self._witness.period:
                self._look()
            if cycle % round(SEQUENCER_PERIOD / TICK) == 0:
                self._decide(1.0 + seconds)
            self._move()
            cycle += 1
        world, wanted = self._world, tuple(step.ingredient for step in self._recipe.steps)
        end = self._finished or Finished(CUT, f"{self._longest:.0f} s were over", ())
        return Run(
            number=self._number,
            policy=self._runner.policy,
            recipe=wanted,
            seconds=round(world.time - begin, 2),
            outcome=end.outcome,
            reason=end.reason,
            made=truth.plate_holds(world, wanted),
            stacked=Workcell(0.0, tuple(true_objects(world).values())).plate() == wanted,
            attempts=self._attempts(),
            states=self._states,
        )

    def _move(self) -> None:
        goal = next(self._homing, None) if self._homing is not None else None
        if goal is not None:
            self._world.set_joint_targets(goal.tolist())
            self._world.step(self._runner.studio.steps)
            return
        if self._homing is not None:
            self._homing = None
            self._driver.begin(self._number)  # it stands still, and nothing is in force: as it did before
        self._driver.tick()

    def _look(self) -> None:
        there = true_objects(self._world)
        seen = self._witness.look()
        now = Workcell(seen.stamp, tuple(there.values()))
        signature = sorted((item.ingredient, item.place, item.slot, item.stack_index) for item in now.objects)
        if signature != self._signature:
            self._signature, self._changed = signature, seen.stamp
        self._truths[seen.stamp] = now
        self._flat[seen.stamp] = all(
            item.flat and item.released for item in truth.observe(self._world) if item.place == truth.PLATE
        )
        self._core.see(seen, 1.0 + self._pictures * self._witness.period)
        if self._pictures >= STATE_EVERY and self._pictures % STATE_EVERY == self._number % STATE_EVERY:
            self._states.append(self._state(there, now, seen))
        self._pictures += 1

    def _state(self, there: dict[str, SeenObject], now: Workcell, seen: Workcell) -> State:
        hidden, slots = self._witness.hidden(), len(self._witness.settings.slots)
        names = {id(item): name for name, item in there.items()}
        pairs = []
        for true, found in pair(now.objects, seen.objects):
            name = "" if true is None else names[id(true)]
            share = round(hidden.slices[name], 3) if name else None
            pairs.append((_plain(true), _plain(found), share, name in hidden.covered))
        both = zip(zones(now, slots), zones(seen, slots), hidden.zones, strict=True)
        verdicts: list[str] = []
        if (standing := self._core.standing()) is not None:
            ingredient, step, attempt, latest = standing
            by_truth = self._verdict(ingredient, *(self._true(cell) for cell in (step, attempt, latest)))
            verdicts = [self._verdict(ingredient, step, attempt, latest).outcome, by_truth.outcome]
        return State(
            time=round(seen.stamp, 3),
            phase=self._core.status(0.0).phase,
            plate_visible=seen.plate_visible,
            holder_visible=seen.holder_visible,
            settled=seen.stamp - self._changed >= SETTLED,
            pairs=pairs,
            zones=[(list(true), list(found), round(share, 3)) for true, found, share in both],
            verdicts=verdicts,
        )

    def _decide(self, now: float) -> None:
        core = self._core
        core.hear_policy(PolicyView(self._driver.state, self._text, self._driver.reason), now)
        core.hear_arm(ArmView("FOLLOWING" if self._text else "HOLDING"), now)
        core.hear_joints(tuple(self._world.joint_positions))
        for action in core.tick(now):
            if isinstance(action, Publish):
                self._say(action.text)
            elif isinstance(action, ClearView):
                self._homing = self._runner.way_home()
            elif isinstance(action, Finished):
                self._finished = action

    def _say(self, text: str) -> None:
        if text == self._text:
            return
        self._text = text
        if text:
            self._driver.say(text)
        else:
            self._driver.stop()

    def _true(self, cell: Workcell) -> Workcell:
        return self._truths[cell.stamp]

    def _verdict(self, ingredient: str, step: Workcell, attempt: Workcell, now: Workcell) -> Verdict:
        """As the sequencer judges, whether by sight or by truth."""
        certain = self._runner.limits.min_confidence
        if outcomes.succeeded(ingredient, step, now, certain, attempt):
            return Verdict(outcomes.SUCCESS, f"{ingredient} lies on top of the plate")
        return outcomes.judge(ingredient, attempt, now, self._core.senses.moved, certain)

    def _attempts(self) -> list[dict[str, Any]]:
        found = []
        for index, ingredient, given, step, attempt, latest in self._core.noted:
            if step is None or latest is None:
                continue
            by_truth = self._verdict(
                ingredient, self._true(step), self._true(attempt or step), self._true(latest)
            )
            found.append(
                {
                    "step": index,
                    "ingredient": ingredient,
                    "verdict": given.outcome,
                    "truth": by_truth.outcome,
                    "why": given.reason,
                    "why_truth": by_truth.reason,
                    "flat": self._flat[latest.stamp],
                }
            )
        return found


def _plain(item: SeenObject | None) -> list[Any] | None:
    return None if item is None else [item.ingredient, item.place, item.slot, item.stack_index]
