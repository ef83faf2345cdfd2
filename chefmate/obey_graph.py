# SPDX-License-Identifier: Apache-2.0
"""Trials of obedience through the real graph: nodes, DDS, servo bytes, rendered cameras, wall time.

The judge is that of the lockstep trials: it looks at a mirror of the twin, which follows the twin's shared
memory. Times are the twin's. What differs from lockstep besides: the model's noise is not seeded, and the
empty instruction and the null prompt cannot reach a model through the node, for which "" is stop.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from chefmate import graph
from chefmate.domain import free_domain
from chefmate.errors import ChefmateError
from chefmate.sandwich import isolate
from chefmate.supervisor import Supervisor
from chefmate.workspace import share_folder
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_policy.obedience.trial import MODEL, NULL, Ask, Outcome, Trial

if TYPE_CHECKING:
    from chefmate.judging import Limits

__all__ = ["TrialGraph", "graph_trials", "reaches_model"]

READY_PATIENCE = 90.0  # s; a first start simplifies meshes
SAMPLE = 0.015  # s between looks at the twin; it writes 240 states a second
LOOK_EVERY = 4  # samples between looks at what is held, reached and laid down
SETTLING = 0.4  # s of the twin after a reset, as in lockstep
SETTLE_PATIENCE = 20.0  # s
START_SPEED = 0.8  # rad/s of the fastest joint, on the way to a trial's start
AT_START = 0.06  # rad from the start pose that do not matter; a servo's dead band and the arm's weight
STARTS_IN_A_ROW = 2  # graphs that may end before their first trial


def reaches_model(ask: Ask) -> bool:
    """Whether the graph can give this to the model; the node takes "" as stop, and knows no null prompt."""
    return ask.to != NULL and not (ask.to == MODEL and not ask.text.strip())


def graph_trials(
    trials: Iterable[Trial],
    policy: str,
    *,
    say: Callable[[str], None] = lambda line: None,
    limits: Limits | None = None,
    parameters: Mapping[str, Any] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome]:
    """Runs trials one after another in real time; yields each outcome as it comes.

    One graph on a free domain serves all, until the arm or a required node is at fault: a fresh one goes on.
    A trial that could not be run has the reason in `fault`. Ends early when `interrupted`.

    Args:
        trials: what to run.
        policy: as in `chefmate up`.
        say: receives a line for each graph started.
        limits: of the trials' length.
        parameters: changes of the policy node's parameters.

    Raises:
        ChefmateError: graphs end before they are ready.
    """
    left, barren = deque(trials), 0
    while left and not interrupted():
        if barren == STARTS_IN_A_ROW:
            raise ChefmateError(f"{barren} graphs in a row ended before a trial was run")
        with TrialGraph(policy, say, limits, parameters, interrupted) as running:
            barren += 1
            while left and running.fit and not interrupted():
                outcome = running.run(left[0])
                if interrupted():
                    break
                left.popleft()
                barren = 0
                yield outcome


class TrialGraph:
    """A graph of its own on a free domain, and the mirror of its twin. One per process at a time.

    Raises ChefmateError on entering: it does not start.
    """

    def __init__(
        self,
        policy: str,
        say: Callable[[str], None],
        limits: Limits | None = None,
        parameters: Mapping[str, Any] | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """See `graph_trials`."""
        self._policy, self._say, self._interrupted = policy, say, interrupted
        self._limits, self._parameters = limits, dict(parameters or {})
        self._stack = ExitStack()

    def __enter__(self) -> TrialGraph:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        enter = self._stack.enter_context
        domain, folder = enter(free_domain()), enter(tempfile.TemporaryDirectory(prefix="chefmate-trials-"))
        isolate(domain, Path(folder))
        run = f"trials{os.getpid()}"
        nodes = [
            replace(node, parameters={**node.parameters, **self._parameters})
            if node.name == "policy"
            else node
            for node in graph.describe({"policy": self._policy}, share_folder(), run)
        ]
        self.supervisor = Supervisor(nodes, self._say, logs=Path(folder))
        self._stack.callback(self.supervisor.stop)
        self._say(f"graph of trials on ROS_DOMAIN_ID={domain}")
        self.supervisor.start()

        from chefmate_driver.kitchen.render import import_mujoco

        import_mujoco()
        from chefmate_msgs.msg import ActionChunk

        from chefmate.arm_client import ArmClient
        from chefmate.judging import Limits
        from chefmate.ros import joined
        from chefmate.trial import TrialRunner
        from chefmate_driver.kitchen.shared_state import StateReader
        from chefmate_driver.kitchen.world import World
        from chefmate_policy.expert.kinematics import Kinematics

        self._limits = self._limits or Limits()
        self._world, self._kinematics = World(), Kinematics()
        enter(joined())
        self.runner = enter(TrialRunner(self._alive))
        self._arm = enter(ArmClient("trial_arm"))
        self._chunks: list[Any] = []
        self.runner.node.create_subscription(ActionChunk, "policy/chunk", self._chunks.append, 50)
        self.runner.wait_ready(READY_PATIENCE)
        self._arm.wait_for_arm()
        self._twin = StateReader(graph.twin_names("", run)[1])
        self._stack.callback(self._twin.close)

    def _alive(self) -> bool:
        return self.supervisor.poll() and not self._interrupted()

    @property
    def fit(self) -> bool:
        """Whether another trial can be run: no node has ended, and the arm takes commands."""
        from chefmate_msgs.msg import ArmHealth

        arm = self.runner.observer.arm
        return self._alive() and (arm is None or arm.state not in (ArmHealth.FAULT, ArmHealth.ESTOPPED))

    def run(self, trial: Trial) -> Outcome:
        """One trial; its fault says why it could not be run."""
        unheard = [ask.row for _, ask in trial.asks if not reaches_model(ask)]
        if unheard:
            return Outcome(trial.number, fault=f"the node cannot give {unheard[0]!r} to a model")
        try:
            self._arrange(trial)
            return self._watch(trial)
        except ChefmateError as error:
            return Outcome(trial.number, fault=self.supervisor.failure or str(error))

    def _arrange(self, trial: Trial) -> None:
        """Tray, plate and arm as the trial has them. Raises ChefmateError: it cannot be."""
        from chefmate_msgs.msg import ArmHealth

        from chefmate.arm_poses import go
        from chefmate.interrupting import Interrupt

        scene, world, runner = trial.scene, self._world, self.runner
        # The table is cleared first: the arm comes to its start without touching anything.
        runner.reset(scene.layout, [""] * world.config.tray.slots)
        pose = dict(zip(JOINT_NAMES, scene.start, strict=True))
        self._arm.idle = self._must_live
        if self._away(scene.start) > AT_START / 2:
            self._arm.wait_for_pose()  # `go` acts on what was heard last, and that is from the trial before
            if not self._arm.until(lambda: self._arm.state == ArmHealth.HOLDING, SETTLE_PATIENCE):
                raise ChefmateError(f"the arm is {self._arm.state} {self._arm.reason} before a trial")
            go(self._arm, pose, START_SPEED, Interrupt())
        runner.reset(scene.layout, scene.slots)
        world.reset(scene.layout, list(scene.slots))
        for kind in scene.plate:
            free = (name for name, its in world.config.instances.items() if its == kind)
            name = next(name for name in free if name not in world.present)
            world.place(name, "plate")
            runner.place(name, "plate")
        began = self._mirror()
        if not runner.wait(lambda: self._mirror() - began >= SETTLING, SETTLE_PATIENCE):
            raise ChefmateError("the twin stands still after a reset")
        if world.touched:
            raise ChefmateError(f"the arm starts in contact with {world.touched[0]}")
        if (away := self._away(scene.start)) > AT_START:
            raise ChefmateError(f"the arm is {away:.2f} rad away from the trial's start")

    def _must_live(self) -> None:
        if not self._alive():
            raise ChefmateError(self.supervisor.failure or "interrupted")

    def _away(self, start: Sequence[float]) -> float:
        """rad, of the joint that is farthest from its start; the gripper may hang behind by twice that."""
        self._mirror()
        gaps = [abs(a - b) for a, b in zip(self._world.joint_positions.tolist(), start, strict=True)]
        return max(*gaps[:5], gaps[5] / 2)

    def _mirror(self) -> float:
        """Brings the mirror up to date; s of the twin since its start."""
        sample = self._twin.read()
        if sample is None or not self._twin.alive:
            raise ChefmateError("the twin ended")
        self._world.mirror(sample.qpos)
        return sample.simulated

    def _watch(self, trial: Trial) -> Outcome:
        """Says what is to be said, and looks on until the trial is over."""
        from chefmate_msgs.msg import PolicyStatus

        from chefmate.judging import Judge

        assert self._limits is not None
        runner, limits = self.runner, self._limits
        judge = Judge(self._world, self._kinematics, trial, limits)
        asks, began, wall = deque(trial.asks), self._mirror(), time.monotonic()
        self._chunks.clear()
        now, sample, over, driven = 0.0, 0, False, 0
        done_since = -1.0
        while now < judge.ends and not over:
            if not self._alive():
                raise ChefmateError(self.supervisor.failure or "interrupted")
            while asks and now >= asks[0][0]:
                judge.said(now)
                runner.say(asks.popleft()[1].text)
            runner.spin(SAMPLE)
            now = self._mirror() - began
            judge.note_touches(now)
            policy = runner.observer.policy
            state = policy.state if policy is not None and policy.instruction == trial.last.text else ""
            driven += policy is not None and policy.state in (PolicyStatus.DRIVING, PolicyStatus.DONE)
            sample += 1
            if sample % LOOK_EVERY == 0:
                over = judge.look(now) and not asks
            done_since = (done_since if done_since >= 0.0 else now) if state == PolicyStatus.DONE else -1.0
            at_rest = done_since >= 0.0 and now - done_since > limits.done
            over = over or (at_rest and not asks and bool(trial.last.target)) or not self.fit
        chunks = list(self._chunks)
        outcome = judge.outcome(
            now,
            len(chunks),
            _median([chunk.latency_preprocess + chunk.latency_model for chunk in chunks]),
            self._state(),
        )
        more = {
            "latency_total": _median([chunk.latency_total for chunk in chunks]),
            "real_time_factor": round(now / max(time.monotonic() - wall, 1e-6), 3),
            "driven": round(driven / max(sample, 1), 3),
        }
        return replace(outcome, more=more)

    def _state(self) -> str:
        """Of the policy, or of an arm that cannot go on."""
        policy, arm = self.runner.observer.policy, self.runner.observer.arm
        if arm is not None and not self.fit:
            return f"arm {arm.state}: {arm.reason}"
        return str(policy.state) if policy is not None else ""


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 4) if values else 0.0
