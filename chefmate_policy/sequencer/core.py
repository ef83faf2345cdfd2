# SPDX-License-Identifier: Apache-2.0
"""The sequencer without ROS: a state machine from what is seen to what is asked for.

One step runs through PREPARING, INSTRUCTING, WATCHING and FINISHING or VERIFYING (views.py). Whatever
interrupts it (a pause, a lost input, somebody else's instruction) leads back to PREPARING, where the camera
decides whether the step is done already. All times are seconds of one monotonic clock, and equal inputs give
equal answers.
"""

from __future__ import annotations

from dataclasses import replace

from chefmate_policy.errors import PolicyError
from chefmate_policy.perception.workcell import GRIPPER, HOLDER, PLATE, SeenObject, Workcell
from chefmate_policy.sequencer import outcomes
from chefmate_policy.sequencer.outcomes import StepResult, Verdict
from chefmate_policy.sequencer.progress import Progress, agrees
from chefmate_policy.sequencer.recipes import Recipe, Step
from chefmate_policy.sequencer.senses import ARM_STOPS, Senses
from chefmate_policy.sequencer.views import (
    FINISHING,
    IDLE,
    INSTRUCTING,
    PAUSED,
    PREPARING,
    RUNNING,
    VERIFYING,
    WAITING,
    WATCHING,
    Action,
    ArmView,
    ClearView,
    Finished,
    Limits,
    PolicyView,
    Publish,
    ReturnArm,
    Save,
    Status,
)

RETURN_BEGINS = 0.5  # s, in which an arm that takes the call over has said so; its health comes at 10 Hz
RESTING = "HOLDING"


class CommandError(PolicyError):
    """A command does not fit the sequencer's state."""


class Sequencer:
    """State machine of one recipe run at a time."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self._limits = limits
        self.senses = Senses(limits)
        self._recipe: Recipe | None = None
        self._interrupted: tuple[Progress, Recipe] | None = None
        self._actions: list[Action] = []
        self._clock = 0.0
        self._reset_run()

    def _reset_run(self) -> None:
        self._results: list[StepResult] = []
        self._resuming: Progress | None = None
        self._paused = self._missing = ""
        self._index = 0
        self._begun = False  # the first view of this run has been judged
        self._instructed = False  # this run has asked the policy for something
        self._taking_over = False  # "" must come before the next instruction
        self._taken_over_at = float("-inf")
        self._astray = False  # the arm is where an attempt left it
        self._astray_since: float | None = None  # since when it is to go back
        self._return_asked_at: float | None = None
        self._reset_step()

    def _reset_step(self) -> None:
        self._attempt = 1
        self._elapsed = 0.0  # s, of this step, interruptions excluded
        self._step_before: Workcell | None = None
        self._reset_attempt()

    def _reset_attempt(self) -> None:
        self._attempt_before: Workcell | None = None
        self._attempt_elapsed = 0.0  # s, with the instruction out
        self._enter(PREPARING)

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._phase_since = self._clock
        self._asked = ""  # text that we want to be in force
        self._asked_at = float("-inf")
        self._taken = False
        self._hidden_since: float | None = None
        self._done_since: float | None = None
        self._spoilt_since: float | None = None

    # Inputs

    def see(self, workcell: Workcell, captured: float) -> None:
        """A workcell state; `captured`: when its image was taken."""
        self.senses.see(workcell, captured)

    def hear_policy(self, policy: PolicyView, now: float) -> None:
        """A policy status."""
        self.senses.hear_policy(policy, now)

    def hear_arm(self, arm: ArmView, now: float) -> None:
        """An arm health. A stop of the arm pauses at once, so that even one that is over soon is noticed."""
        self.senses.hear_arm(arm, now)
        if self._recipe is not None:
            self._check_arm()

    def hear_joints(self, positions: tuple[float, ...]) -> None:
        """Joint angles, rad."""
        self.senses.hear_joints(positions)

    def hear_instruction(self, text: str) -> None:
        """An instruction that somebody else published: a running recipe pauses, and theirs stands."""
        if self._recipe is None or self._paused:
            return
        what = f"published {text!r}" if text else "stopped the arm"
        self._pause(f"somebody else {what} on /instruction; resume to go on, abort to end", withdraw=False)

    def offer(self, progress: Progress, recipe: Recipe) -> None:
        """An interrupted run that a goal with resume=true may go on with."""
        fits = tuple(step.instruction for step in recipe.steps) == progress.instructions
        fits = fits and 0 <= progress.step < len(recipe.steps)
        self._interrupted = (progress, recipe) if fits and not progress.finished else None

    # Commands

    def start(self, recipe: Recipe, resume: bool = False) -> None:
        """Begins a recipe, or goes on with its interrupted run.

        Raises:
            CommandError: a recipe runs already, or there is nothing to go on with.
        """
        if self._recipe is not None:
            raise CommandError(f"recipe {self._recipe.name} is running; abort it first.")
        progress = self._interrupted[0] if self._interrupted is not None else None
        if resume and (progress is None or progress.recipe != recipe.name):
            raise CommandError(
                f"there is no interrupted run of {recipe.name} to go on with; start without resume."
            )
        if resume and not self.resumable:
            raise CommandError(
                f"cannot go on with {recipe.name}: {self._disagreement()}; start without resume."
            )
        self._recipe = recipe
        self._reset_run()
        if resume and progress is not None:
            self._resuming = progress
            self._results = list(progress.results)
            self._index = progress.step

    def pause(self, why: str = "paused by command") -> None:
        """Withdraws the instruction until `resume`."""
        self._running("pause")
        if self._paused:
            raise CommandError(f"is paused already: {self._paused}.")
        self._pause(why, withdraw=True)

    def resume(self) -> None:
        """Goes on after a pause, with "" and then the instruction: an equal text alone changes nothing."""
        self._running("resume")
        if not self._paused:
            raise CommandError("is not paused.")
        if fault := self.senses.arm_fault():
            raise CommandError(f"cannot go on: {fault}.")
        self._paused = ""
        self._taking_over = True
        self._enter(PREPARING)

    def skip(self) -> None:
        """Ends this step as ABORTED and goes on with the next one."""
        self._running("skip")
        self._paused = ""
        self._end_step(Verdict(outcomes.ABORTED, "skipped by command"), keep_going=True)

    def retry(self) -> None:
        """Begins this step anew, with all its attempts."""
        self._running("retry")
        self._paused = ""
        self._taking_over = True
        self._reset_step()

    def abort(self, why: str = "aborted by command") -> None:
        """Ends the run."""
        self._running("abort")
        self._end_step(Verdict(outcomes.ABORTED, why), keep_going=False)

    def _running(self, command: str) -> Recipe:
        if self._recipe is None:
            raise CommandError(f"no recipe is running, there is nothing to {command}.")
        return self._recipe

    def _pause(self, why: str, withdraw: bool) -> None:
        self._paused = why
        self._enter(PREPARING)
        if withdraw:
            self._actions.append(Publish(""))

    # Outputs

    @property
    def busy(self) -> bool:
        """Whether a recipe is running, waiting or paused."""
        return self._recipe is not None

    @property
    def resumable(self) -> bool:
        """Whether an interrupted run exists and what is seen agrees with its history."""
        return self._recipe is None and self._interrupted is not None and not self._disagreement()

    def _disagreement(self) -> str:
        if self._interrupted is None:
            return "no run was interrupted"
        progress, recipe = self._interrupted
        workcell = self.senses.seen()
        if workcell is None:
            return "the workcell is not in sight"
        if not agrees(progress, workcell, recipe.steps[progress.step].ingredient):
            seen, was = " / ".join(workcell.plate()) or "empty", " / ".join(progress.plate) or "empty"
            return f"the plate is {seen}, by the history it was {was}"
        return ""

    def status(self, now: float) -> Status:
        """What to publish as SequencerStatus."""
        if self._recipe is None:
            missing = self.senses.missing(now)
            name = self._interrupted[0].recipe if self.resumable and self._interrupted else ""
            reason = missing or (f"{name} was interrupted; send it with resume=true to go on" if name else "")
            return Status(WAITING if missing else IDLE, reason, resumable=self.resumable)
        state, reason, phase = RUNNING, self._waits_for(), self._phase
        if self._missing:
            state, reason, phase = WAITING, self._missing, "waiting"
        if self._paused:
            state, reason, phase = PAUSED, self._paused, "paused"
        return Status(
            state=state,
            reason=reason,
            recipe=self._recipe.name,
            step=self._index,
            steps=len(self._recipe.steps),
            attempt=self._attempt,
            phase=phase,
            instruction=self._asked,
            elapsed=self._elapsed,
            results=tuple(self._results),
        )

    def _waits_for(self) -> str:
        """Why PREPARING and VERIFYING take their time."""
        if self._phase not in (PREPARING, VERIFYING):
            return ""
        if not self.senses.policy_idle():
            policy = self.senses.policy
            why = f": {policy.reason}" if policy is not None and policy.reason else ""
            return f"the policy is not idle yet{why}"
        workcell = self.senses.workcell
        if workcell is not None and not workcell.visible:
            return "the plate is hidden" if not workcell.plate_visible else "the holder is hidden"
        return ""

    def tick(self, now: float) -> list[Action]:
        """Moves on; returns what to do. Call it at 5 Hz or faster."""
        passed = max(0.0, now - self._clock) if self._clock else 0.0
        self._clock = now
        if self._recipe is not None:
            self._check_inputs(now)
        if self._recipe is not None and not self._paused and not self._missing:
            self._elapsed += passed
            if self._phase in (INSTRUCTING, WATCHING):
                self._attempt_elapsed += passed
            {
                PREPARING: self._prepare,
                INSTRUCTING: self._instruct,
                WATCHING: self._watch,
                FINISHING: self._finish,
                VERIFYING: self._verify,
            }[self._phase](now)
        actions, self._actions = self._actions, []
        return actions

    def _check_arm(self) -> None:
        """Ends the attempt when the arm stalls, and pauses when it cannot be commanded.

        Before the first instruction of a run nothing can go on by itself, so that an arm that is not ready
        yet is waited for; an arm at fault or stopped by somebody is not.
        """
        arm = self.senses.arm
        if arm is None or self._paused:
            return
        working = self._phase in (INSTRUCTING, WATCHING, FINISHING) and not self._missing
        if working and arm.stalled:
            self._end_attempt(
                Verdict(outcomes.COLLISION, f"the arm stalled: {arm.reason or 'servo overload'}")
            )
        fault = self.senses.arm_fault()
        if self._recipe is not None and fault and (self._instructed or arm.state in ARM_STOPS):
            self._pause(f"{fault}; resume when it is ready", withdraw=True)

    def _check_inputs(self, now: float) -> None:
        """Waits for missing inputs, and withdraws the instruction meanwhile."""
        self._check_arm()
        if self._recipe is None:
            return
        missing = self.senses.missing(now)
        if missing and not self._missing and not self._paused and self._phase != PREPARING:
            self._enter(PREPARING)
            self._actions.append(Publish(""))
        self._missing = missing

    # Phases

    @property
    def _step(self) -> Step:
        assert self._recipe is not None
        return self._recipe.steps[self._index]

    def _ask(self, text: str, now: float) -> None:
        """Publishes the text, again and again until the policy has it (an equal text changes nothing)."""
        if now - self._asked_at >= self._limits.repeat_period:
            self._asked, self._asked_at = text, now
            self._actions.append(Publish(text))

    def _clear_view(self, now: float) -> None:
        """Sends a resting arm home when it hides a zone."""
        workcell = self.senses.workcell
        if workcell is None or workcell.visible or not self._limits.clear_view_after:
            self._hidden_since = None
        elif self._hidden_since is None:
            self._hidden_since = now
        elif now - self._hidden_since >= self._limits.clear_view_after:
            # Again only after thrice that time: the way home takes a few seconds.
            self._hidden_since = now + 2.0 * self._limits.clear_view_after
            self._actions.append(ClearView())

    def refuse_return(self) -> None:
        """The arm did not take a ReturnArm over: it still brakes, say, and is asked again."""
        self._return_asked_at = None

    def _return(self, now: float) -> bool:
        """Sends the arm back before another attempt, unless it holds something; whether it is on its way."""
        workcell = self.senses.workcell
        if not self._astray or not self._limits.return_time or self._attempt_before is not None:
            return False
        if workcell is None or workcell.at(GRIPPER):
            return False
        if self._astray_since is None:
            self._astray_since, self._return_asked_at = now, None
        resting = self.senses.arm is not None and self.senses.arm.state == RESTING
        if now - self._astray_since < self._limits.return_time:
            if self._return_asked_at is None:
                if resting:
                    self._return_asked_at = now
                    self._actions.append(ReturnArm())
                return True
            if not resting or now - self._return_asked_at < RETURN_BEGINS:
                return True
        self._astray, self._astray_since = False, None
        return False

    def _prepare(self, now: float) -> None:
        if self._taking_over:
            self._taking_over, self._taken_over_at = False, now
            self._asked, self._asked_at = "", now
            self._actions.append(Publish(""))
        if not self.senses.policy_heard_since(self._taken_over_at):
            return
        if not self.senses.policy_idle():
            self._ask("", now)
            return
        if self._return(now):
            return
        self._clear_view(now)
        workcell = self.senses.seen()
        if workcell is None:
            return
        if self._step_before is None and not self._begin_step(workcell):
            return
        first = self._attempt_before is None
        if first:
            self._attempt_before = workcell
        if self._succeeded(workcell):
            self._end_step(Verdict(outcomes.SUCCESS, f"{self._step.ingredient} lies on top of the plate"))
            return
        in_sight = sum(
            seen.ingredient == self._step.ingredient for seen in workcell.objects if seen.place != PLATE
        )
        half = any(
            seen.ingredient == self._step.ingredient and seen.confidence < self._limits.min_confidence
            for seen in workcell.at(PLATE)[-1:]
        )
        if not in_sight and not half:
            reason = f"no {self._step.ingredient} is in sight; put one into the holder"
            self._end_step(Verdict(outcomes.NO_ACTION, reason))
            return
        if first:
            self.senses.watch_motion()
        self._enter(INSTRUCTING)
        self._instructed = self._astray = True
        self._ask(self._step.instruction, now)

    def _begin_step(self, workcell: Workcell) -> bool:
        """Notes how the plate and the holder look; False when the step cannot begin or is over already."""
        assert self._recipe is not None
        resuming, self._resuming = self._resuming, None
        if resuming is None and not self._begun and workcell.at(PLATE):
            found = " / ".join(workcell.plate())
            reason = f"the plate is not empty ({found}): clear it, or go on with resume=true"
            self._end_step(Verdict(outcomes.ABORTED, reason))
            return False
        self._begun = True
        self._step_before = workcell
        if resuming is not None:
            self._step_before = _with_plate(workcell, resuming.plate)
            lost = sum(resuming.holder.values()) - sum(workcell.classes(HOLDER).values())
            plate = workcell.plate()
            grown = plate == (*resuming.plate, self._step.ingredient) or not workcell.plate_known()
            if (
                lost > 0
                and grown
                and plate
                and plate[-1] == self._step.ingredient
                and not workcell.at(GRIPPER)
            ):
                self._end_step(
                    Verdict(outcomes.SUCCESS, f"{self._step.ingredient} came to lie on the plate meanwhile")
                )
                return False
        self._save(finished=False)
        return True

    def _instruct(self, now: float) -> None:
        policy, text = self.senses.policy, self._step.instruction
        if policy is not None and policy.instruction == text:
            since = self._asked_at
            self._enter(WATCHING)
            self._asked, self._asked_at = text, since
        elif policy is not None and policy.instruction not in ("", text):
            self.hear_instruction(policy.instruction)
        elif now - self._phase_since > self._step.instruction_timeout:
            waited = f"the policy did not take the instruction within {self._step.instruction_timeout:g} s"
            why = f": {policy.state} {policy.reason}".rstrip() if policy is not None else ""
            self._end_attempt(Verdict(outcomes.NO_ACTION, waited + why))
        else:
            self._ask(text, now)

    def _watch(self, now: float) -> None:
        policy, text = self.senses.policy, self._step.instruction
        assert self._step_before is not None and self._attempt_before is not None
        if policy is not None and policy.instruction != text:
            self._lost_instruction(policy.instruction)
            return
        workcell = self.senses.seen()
        if workcell is not None:
            ingredient, certain = self._step.ingredient, self._limits.min_confidence
            if self._succeeded(workcell):
                self._enter(FINISHING)
                self._asked = text
                return
            verdict = outcomes.judge(ingredient, self._attempt_before, workcell, self.senses.moved, certain)
            spoilt = verdict.outcome in (outcomes.WRONG_OBJECT, outcomes.COLLISION)
            if self._lasts(spoilt and not workcell.at(GRIPPER), now) or self._rested(now):
                if policy is not None and policy.reason:
                    verdict = replace(verdict, reason=f"{verdict.reason}; the policy says: {policy.reason}")
                self._end_attempt(verdict)
                return
        if self._attempt_elapsed > self._step.timeout or (workcell is None and self._rested(now)):
            self._enter(VERIFYING)
            self._ask("", now)

    def _succeeded(self, workcell: Workcell) -> bool:
        assert self._step_before is not None
        certain = self._limits.min_confidence
        return outcomes.succeeded(
            self._step.ingredient, self._step_before, workcell, certain, self._attempt_before
        )

    def _lost_instruction(self, in_force: str) -> None:
        """The policy does not have our instruction: somebody else's pauses, none is asked for again."""
        if in_force:
            self.hear_instruction(in_force)
        else:
            self._enter(PREPARING)

    def _lasts(self, spoilt: bool, now: float) -> bool:
        """Whether the attempt has looked spoilt for the settling time."""
        if not spoilt:
            self._spoilt_since = None
            return False
        if self._spoilt_since is None:
            self._spoilt_since = now
        return now - self._spoilt_since >= self._limits.settle_time

    def _rested(self, now: float) -> bool:
        """Whether the policy has been DONE for the settling time."""
        if not self.senses.policy_done(self._step.instruction):
            self._done_since = None
            return False
        if self._done_since is None:
            self._done_since = now
        return now - self._done_since >= self._limits.settle_time

    def _finish(self, now: float) -> None:
        workcell, ingredient = self.senses.seen(), self._step.ingredient
        still = workcell is not None and self._succeeded(workcell)
        if workcell is not None and not still:
            self._enter(WATCHING)
            self._asked = self._step.instruction
            return
        drawn_back = self.senses.policy_done(self._step.instruction)
        waited = now - self._phase_since >= self._limits.finish_time
        if still and (drawn_back or waited):
            self._end_step(Verdict(outcomes.SUCCESS, f"{ingredient} lies on top of the plate"))
        elif waited and now - self._phase_since >= self._limits.finish_time + self._limits.verify_time:
            self._enter(VERIFYING)
            self._ask("", now)

    def _verify(self, now: float) -> None:
        assert self._step_before is not None and self._attempt_before is not None
        if not self.senses.policy_idle():
            self._ask("", now)
        else:
            self._clear_view(now)
            workcell = self.senses.seen()
            certain = self._limits.min_confidence
            if workcell is not None and now - self._phase_since >= self._limits.settle_time:
                if self._succeeded(workcell):
                    self._end_step(
                        Verdict(outcomes.SUCCESS, f"{self._step.ingredient} lies on top of the plate")
                    )
                    return
                self._end_attempt(
                    outcomes.judge(
                        self._step.ingredient, self._attempt_before, workcell, self.senses.moved, certain
                    )
                )
                return
        if now - self._phase_since > self._limits.verify_time:
            blocked = self._waits_for() or "the view did not settle"
            reason = f"{self._attempt_elapsed:.0f} s passed, and the result cannot be judged: {blocked}"
            self._end_attempt(Verdict(outcomes.TIMEOUT, reason))

    # Ends

    def _end_attempt(self, verdict: Verdict) -> None:
        """Another attempt, where one is left and the stack is as it was; else the step ends."""
        before, now = self._step_before, self.senses.workcell
        untouched = (
            before is not None
            and now is not None
            and (
                outcomes.stack(before, now)[: len(before.plate())] == before.plate()
                and all(
                    name == self._step.ingredient
                    for name in outcomes.stack(before, now)[len(before.plate()) :]
                )
            )
        )
        if self._attempt > self._step.retries or not untouched:
            self._end_step(verdict)
            return
        self._attempt += 1
        self._reset_attempt()
        self._actions.append(Publish(""))

    def _end_step(self, verdict: Verdict, keep_going: bool | None = None) -> None:
        assert self._recipe is not None
        step = self._step
        self._results.append(
            StepResult(
                self._index,
                step.ingredient,
                step.instruction,
                verdict.outcome,
                verdict.reason,
                self._elapsed,
                self._attempt,
            )
        )
        self._actions.append(Publish(""))
        go_on = verdict.outcome == outcomes.SUCCESS if keep_going is None else keep_going
        if go_on and self._index + 1 < len(self._recipe.steps):
            self._index += 1
            self._reset_step()
            self._save(finished=False)
        elif go_on:
            skipped = [str(r.index + 1) for r in self._results if r.outcome != outcomes.SUCCESS]
            outcome = outcomes.PARTIAL if skipped else outcomes.SUCCESS
            self._end_run(
                outcome, f"without step {', '.join(skipped)}" if skipped else "the sandwich is made"
            )
        else:
            self._end_run(verdict.outcome, f"step {self._index + 1} ({step.ingredient}): {verdict.reason}")

    def _end_run(self, outcome: str, reason: str) -> None:
        assert self._recipe is not None
        results = tuple(self._results)
        finished = outcome in (outcomes.SUCCESS, outcomes.PARTIAL) and len(results) == len(self._recipe.steps)
        if finished or self._step_before is not None:
            self._results = [r for r in self._results if finished or r.index != self._index]
            self._save(finished=finished)
        self._actions.append(Finished(outcome, reason, results))
        self._recipe = None
        self._missing = self._paused = ""

    def _save(self, finished: bool) -> None:
        """Progress as of now; a run that ended early is offered again."""
        assert self._recipe is not None
        before = self._step_before or self.senses.workcell or Workcell(0.0)
        plate = before.plate()
        progress = Progress(
            recipe=self._recipe.name,
            instructions=tuple(step.instruction for step in self._recipe.steps),
            step=self._index,
            plate=plate,
            holder=dict(before.classes(HOLDER)),
            results=tuple(self._results),
            finished=finished,
        )
        self._interrupted = None if finished else (progress, self._recipe)
        self._actions.append(Save(progress))


def _with_plate(workcell: Workcell, plate: tuple[str, ...]) -> Workcell:
    """The same view with the plate's layers by history, where they were not seen."""
    if workcell.plate_known() or not workcell.at(PLATE):
        return workcell
    rest = tuple(seen for seen in workcell.objects if seen.place != PLATE)
    layers = tuple(SeenObject(name, PLATE, stack_index=index) for index, name in enumerate(plate))
    return replace(workcell, objects=rest + layers)
