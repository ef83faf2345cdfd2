# SPDX-License-Identifier: Apache-2.0
"""`chefmate sandwich`: the whole job on the twin.

Starts the graph on a free domain, sends the goal, prints one line per step and leaves a folder with
`sandwich.png`, a rosbag2 folder (MCAP) and `result.json`. Exit code 0 only if the sequencer's record and the
twin's truth agree that the plate holds the recipe in order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from chefmate import graph
from chefmate.domain import free_domain
from chefmate.errors import ArgumentError, ChefmateError
from chefmate.interrupting import Interrupt, interruptible
from chefmate.progress import StepLines, progress
from chefmate.supervisor import Supervisor
from chefmate.trouble import PolicyTrouble
from chefmate.workspace import share_folder
from chefmate_policy.errors import PolicyError

if TYPE_CHECKING:
    from chefmate.observer import Observer
    from chefmate_policy.sequencer.client import SandwichClient

READY_PATIENCE = 90.0  # s; a first start simplifies meshes
SCENE_PATIENCE = 5.0  # s for a fresh picture and truth after the last step
INTERRUPTED = 130


@dataclass
class Report:
    """What result.json holds."""

    recipe: str
    seed: int
    policy: str
    outcome: str = "ABORTED"
    reason: str = ""
    real_time_factor: float | None = None
    seconds_to_motion: float | None = None
    seconds: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    plate_by_truth: list[str] = field(default_factory=list)
    plate_by_recipe: list[str] = field(default_factory=list)
    truth_agrees: bool = False

    @property
    def success(self) -> bool:
        """True when both records say that the sandwich is there."""
        return self.outcome == "SUCCESS" and self.truth_agrees


def sandwich(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    started = time.monotonic()
    values = {"seed": str(options.seed), "policy": options.policy}
    # Whatever is wrong with the options is said before anything is made.
    if options.seed < 0:
        raise ArgumentError(f"--seed {options.seed} is negative.")
    graph.check(values)
    ingredients = [step.ingredient for step in graph.recipe(options.recipe, share_folder()).steps]
    say = progress(quiet=options.json)
    report = Report(options.recipe, options.seed, options.policy, plate_by_recipe=ingredients)
    with free_domain() as domain, interruptible() as interrupt:
        out = result_folder(options.out)
        (out / "log").mkdir()
        isolate(domain, out)
        if not options.no_record:
            values["record"] = str(out / "bag")
        supervisor = Supervisor(graph.describe(values, share_folder()), say, logs=out / "log")
        say(f"graph on ROS_DOMAIN_ID={domain}, seed {options.seed}, result in {relative(out)}")
        supervisor.start()
        try:
            job = Job(supervisor, interrupt, report, say, started)
            job.run(out)
        except (ChefmateError, PolicyError) as error:
            report.reason = report.reason or str(error)
        except KeyboardInterrupt:
            report.reason = report.reason or "interrupted"
        finally:
            supervisor.stop()
    report.seconds = round(time.monotonic() - started, 1)
    document = json.dumps({**vars(report), "success": report.success}, indent=2)
    (out / "result.json").write_text(document + "\n")
    if options.json:
        print(document)
    say(
        f"{report.outcome}{': ' + report.reason if report.reason else ''}; "
        f"plate by truth: {', '.join(report.plate_by_truth) or 'empty'}"
    )
    if interrupt.asked:
        return INTERRUPTED
    return 0 if report.success else 1


def result_folder(given: Path | None, prefix: str = "") -> Path:
    """Makes a folder for results; returns its absolute path.

    Args:
        given: the folder, new or empty; None: out/<time>, with a number behind it where that one is taken.
        prefix: before the time.

    Raises:
        ArgumentError: something is in it.
        ChefmateError: it cannot be made.
    """
    stem = Path("out").absolute() / f"{prefix}{datetime.now():%Y-%m-%dT%H-%M-%S}"
    folder = stem if given is None else given.absolute()
    number = 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=given is not None)
        except OSError as error:
            if given is None and isinstance(error, FileExistsError):
                number += 1
                folder = stem.with_name(f"{stem.name}-{number}")
                continue
            raise ChefmateError(
                f"result folder {folder} cannot be made: {error.strerror}. Choose another with --out."
            ) from None
        if any(folder.iterdir()):
            raise ArgumentError(f"--out {given} is not empty; name a new folder.")
        return folder


def isolate(domain: int, folder: Path) -> None:
    """Keeps a job's graph on this machine, in its own domain, with its own record of progress."""
    os.environ.update(
        ROS_DOMAIN_ID=str(domain),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        XDG_STATE_HOME=str(folder / "state"),
    )


class Job:
    """One sandwich on a started graph."""

    def __init__(
        self,
        supervisor: Supervisor,
        interrupt: Interrupt,
        report: Report,
        say: Callable[[str], None],
        started: float,
    ) -> None:
        self.supervisor, self.interrupt, self.report, self.say, self.started = (
            supervisor,
            interrupt,
            report,
            say,
            started,
        )

    def run(self, out: Path) -> None:
        """Fills the report; the folder receives the last picture that was seen, however the job ends."""
        from chefmate.ros import joined
        from chefmate_policy.sequencer.client import SandwichClient

        with joined(), SandwichClient("sandwich_job") as client:
            self._run(client, out)

    def _run(self, client: SandwichClient, out: Path) -> None:
        from chefmate.observer import Observer, stack

        observer = Observer(client.node)
        observer.watch_scene()
        try:
            self._make(client, observer)
        finally:
            if observer.truth is not None:
                self.report.plate_by_truth = stack(observer.truth)
            scene = observer.last_scene()
            if scene is not None:
                cv2.imwrite(str(out / "sandwich.png"), cv2.cvtColor(scene, cv2.COLOR_RGB2BGR))
                self.say(f"picture: {relative(out / 'sandwich.png')}")

    def _make(self, client: SandwichClient, observer: Observer) -> None:
        from chefmate_msgs.msg import ArmHealth, SequencerStatus

        from chefmate.observer import stack
        from chefmate.rearming import Rearming

        client.on_idle = self.check
        self.say("waiting for arm, cameras, policy, perception and sequencer")
        rearming = Rearming(client.node, self.say)

        def ready() -> bool:
            rearming.look(observer.arm)
            if fault := observer.policy_fault():
                raise ChefmateError(fault)
            return observer.sequencer is not None and observer.sequencer.state == SequencerStatus.IDLE

        if not self.wait(client.spin, ready, READY_PATIENCE):
            why = observer.sequencer.reason if observer.sequencer else "the sequencer has not been heard"
            self.report.reason = self.report.reason or f"not ready within {READY_PATIENCE:g} s: {why}"
            return
        lines = StepLines(self.say)
        # A fault waits for somebody who re-arms the arm or mends the policy, and a job has nobody.
        fault, trouble = "", PolicyTrouble()

        def go_on() -> bool:
            nonlocal fault
            arm, policy = observer.arm, observer.policy
            if arm is not None and arm.state == ArmHealth.FAULT:
                fault = fault or f"the arm is FAULT: {arm.reason}"
            if policy is not None:
                fault = fault or trouble.look(policy.state, policy.reason, time.monotonic())
            return not fault and self.check()

        client.on_idle = go_on
        result = client.make(self.report.recipe, on_feedback=lines)
        client.on_idle = self.check
        lines.finish(result.steps)
        self.report.outcome, self.report.reason = result.outcome, fault or result.reason or self.report.reason
        self.report.steps = [
            {
                "instruction": step.instruction,
                "ingredient": step.ingredient,
                "outcome": step.outcome,
                "seconds": round(step.seconds, 1),
                "attempts": step.attempts,
                "reason": step.reason,
            }
            for step in result.steps
        ]
        if observer.first_motion is not None:
            self.report.seconds_to_motion = round(observer.first_motion - self.started, 1)
        if observer.real_time_factors:
            self.report.real_time_factor = round(statistics.median(observer.real_time_factors), 3)
        moment = client.node.get_clock().now().nanoseconds
        observer.request_scene()

        def agrees() -> bool:
            """There are a picture and a truth with the recipe; the jaws may still be at the last slice."""
            truth = observer.truth_after(moment)
            there = observer.scene is not None and truth is not None
            return there and stack(truth) == self.report.plate_by_recipe

        self.wait(client.spin, agrees, SCENE_PATIENCE)
        truth = observer.truth_after(moment)
        self.report.truth_agrees = truth is not None and stack(truth) == self.report.plate_by_recipe

    def check(self) -> bool:
        """Looks after the processes; False when the job must end (the report says why)."""
        if self.interrupt.asked:
            self.report.reason = "interrupted"
            return False
        if not self.supervisor.poll():
            self.report.reason = self.supervisor.failure
            return False
        return True

    def wait(self, spin: Callable[[float], None], condition: Callable[[], bool], seconds: float) -> bool:
        """Spins until the condition holds, the graph ends, or the time is over."""
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.check() or time.monotonic() > deadline:
                return False
            spin(0.05)
        return True


def relative(path: Path) -> Path:
    """The path from the current folder, where that is shorter."""
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path
