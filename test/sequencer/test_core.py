# SPDX-License-Identifier: Apache-2.0
"""The state machine against a simulated kitchen: every outcome, and every interruption."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chefmate_policy.perception.workcell import ELSEWHERE, GRIPPER, HOLDER, PLATE, SeenObject, Workcell
from chefmate_policy.sequencer.core import CommandError, Sequencer
from chefmate_policy.sequencer.recipes import Recipe, Step
from chefmate_policy.sequencer.views import (
    ArmView,
    ClearView,
    Finished,
    Limits,
    PolicyView,
    Publish,
    ReturnArm,
    Save,
)

PERIOD = 0.1  # s
BREAD = "pick up the bread"
CHEESE = "pick up the cheese"
SANDWICH = Recipe("sandwich", (Step("bread", BREAD), Step("cheese", CHEESE), Step("bread", BREAD)))
ONE = Recipe("one", (Step("bread", BREAD, timeout=10.0, retries=0),))


class Kitchen:
    """A sequencer, an obedient policy and objects that the test moves."""

    def __init__(self, objects: tuple[SeenObject, ...] | None = None, limits: Limits | None = None) -> None:
        self.core = Sequencer(limits or Limits())
        self.now = 100.0
        self.objects = list(
            objects
            if objects is not None
            else (
                SeenObject("bread", HOLDER, 0),
                SeenObject("cheese", HOLDER, 1),
                SeenObject("bread", HOLDER, 2),
                SeenObject("patty", HOLDER, 3),
            )
        )
        self.policy = PolicyView("IDLE")
        self.arm = ArmView("HOLDING")
        self.plate_visible = self.holder_visible = True
        self.joint = 0.0
        self.perception_runs = self.policy_runs = self.policy_obeys = True
        self.sent: list[str] = []
        self.saved: list[Save] = []
        self.finished: list[Finished] = []
        self.cleared = self.returned = 0

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += PERIOD
            if self.perception_runs:
                seen = Workcell(self.now, tuple(self.objects), self.plate_visible, self.holder_visible)
                self.core.see(seen, self.now)
            if self.policy_runs:
                self.core.hear_policy(self.policy, self.now)
            self.core.hear_arm(self.arm, self.now)
            self.core.hear_joints((self.joint,))
            for action in self.core.tick(self.now):
                if isinstance(action, Publish):
                    self.sent.append(action.text)
                    if self.policy_obeys and action.text != self.policy.instruction:
                        self.policy = PolicyView("DRIVING" if action.text else "IDLE", action.text)
                elif isinstance(action, Save):
                    self.saved.append(action)
                elif isinstance(action, Finished):
                    self.finished.append(action)
                elif isinstance(action, ReturnArm):
                    self.returned += 1
                    self.arm = ArmView("FOLLOWING")
                else:
                    assert isinstance(action, ClearView)
                    self.cleared += 1

    def until(self, phase: str, limit: int = 400) -> None:
        for _ in range(limit):
            if self.core.status(self.now).phase == phase:
                return
            self.tick()
        raise AssertionError(f"{phase} was not reached: {self.core.status(self.now)}")

    def move(self, ingredient: str, place: str, confidence: float = 1.0) -> None:
        order = {HOLDER: 0, ELSEWHERE: 1, GRIPPER: 2, PLATE: 3}
        taken = min(
            (o for o in self.objects if o.ingredient == ingredient and o.place != PLATE),
            key=lambda o: -order[o.place],
        )
        self.objects.remove(taken)
        layer = sum(o.place == PLATE for o in self.objects) if place == PLATE else -1
        self.objects.append(replace(taken, place=place, slot=255, stack_index=layer, confidence=confidence))
        self.joint += 1.0

    def done(self) -> None:
        self.policy = PolicyView("DONE", self.policy.instruction)

    def lay(self, ingredient: str) -> None:
        """One step as it should go."""
        self.until("watching")
        self.move(ingredient, GRIPPER)
        self.tick(8)
        self.move(ingredient, PLATE)
        self.done()
        self.tick(8)

    @property
    def outcome(self) -> str:
        assert self.finished, self.core.status(self.now)
        return self.finished[-1].outcome


@pytest.fixture
def kitchen() -> Kitchen:
    kitchen = Kitchen()
    kitchen.tick(5)
    return kitchen


def test_idle_when_all_inputs_are_fresh(kitchen: Kitchen) -> None:
    assert kitchen.core.status(kitchen.now).state == "IDLE"


def test_waits_and_names_what_is_missing() -> None:
    kitchen = Kitchen()
    kitchen.perception_runs = kitchen.policy_runs = False
    kitchen.tick(3)
    status = kitchen.core.status(kitchen.now)
    assert status.state == "WAITING"
    assert "perception" in status.reason and "policy" in status.reason and "arm" not in status.reason


def test_makes_a_sandwich_in_order(kitchen: Kitchen) -> None:
    kitchen.core.start(SANDWICH)
    for ingredient in ("bread", "cheese", "bread"):
        kitchen.lay(ingredient)
    assert kitchen.outcome == "SUCCESS"
    assert [r.outcome for r in kitchen.finished[0].results] == ["SUCCESS"] * 3
    assert [text for text in dict.fromkeys(kitchen.sent)] == [BREAD, "", CHEESE]
    changes = [kitchen.sent[0]]
    for text in kitchen.sent:
        if text != changes[-1]:
            changes.append(text)
    assert changes == [BREAD, "", CHEESE, "", BREAD, ""]
    assert kitchen.saved[-1].progress.finished


def test_next_instruction_waits_for_an_idle_policy(kitchen: Kitchen) -> None:
    kitchen.core.start(SANDWICH)
    kitchen.until("watching")
    kitchen.policy_obeys = False
    kitchen.move("bread", PLATE)
    kitchen.tick(60)
    assert kitchen.core.status(kitchen.now).step == 1
    assert kitchen.sent[-1] == "" and CHEESE not in kitchen.sent
    kitchen.policy_obeys, kitchen.policy = True, PolicyView("IDLE")
    kitchen.tick(3)
    assert kitchen.sent[-1] == CHEESE


def test_a_moving_success_is_not_believed_before_it_is_stable(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.move("bread", PLATE)
    kitchen.tick(2)
    assert kitchen.core.status(kitchen.now).phase == "watching"
    kitchen.tick(1)
    assert kitchen.core.status(kitchen.now).phase == "finishing"


def test_success_needs_an_empty_gripper_and_a_visible_plate(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.move("bread", PLATE)
    kitchen.plate_visible = False
    kitchen.tick(20)
    assert kitchen.core.status(kitchen.now).phase == "watching"
    kitchen.plate_visible = True
    kitchen.tick(50)
    assert kitchen.outcome == "SUCCESS"


def test_bread_on_the_plate_that_did_not_come_from_the_holder_is_no_success(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.objects.append(SeenObject("bread", PLATE, stack_index=0))
    kitchen.done()
    kitchen.tick(20)
    assert kitchen.outcome == "TIMEOUT"


def end(kitchen: Kitchen) -> str:
    kitchen.done()
    kitchen.tick(40)
    return kitchen.outcome


def test_partial_when_still_held(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.move("bread", GRIPPER)
    assert end(kitchen) == "PARTIAL"


def test_partial_when_half_on_the_plate(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.move("bread", PLATE, confidence=0.3)
    assert end(kitchen) == "PARTIAL"


@pytest.mark.parametrize("place", [PLATE, ELSEWHERE])
def test_wrong_object_ends_the_attempt_while_the_policy_still_drives(kitchen: Kitchen, place: str) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.move("cheese", place)
    kitchen.tick(10)
    assert kitchen.outcome == "WRONG_OBJECT"
    assert "cheese" in kitchen.finished[0].reason


def test_wrong_object_on_the_plate_is_not_retried(kitchen: Kitchen) -> None:
    kitchen.core.start(SANDWICH)
    kitchen.until("watching")
    kitchen.move("cheese", PLATE)
    kitchen.tick(10)
    assert kitchen.outcome == "WRONG_OBJECT"
    assert kitchen.finished[0].results[0].attempts == 1


def test_miss_when_only_the_arm_moved(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.joint += 0.5
    assert end(kitchen) == "MISS"


def test_the_policys_own_reason_is_told(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.policy = PolicyView("DONE", BREAD, "there is no bread")
    kitchen.tick(20)
    assert kitchen.finished[0].results[0].reason == "the arm did not move; the policy says: there is no bread"


def test_no_action_when_nothing_moved(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    assert end(kitchen) == "NO_ACTION"


@pytest.mark.parametrize("seen", [True, False])
def test_drop_beside_the_plate_or_out_of_sight(kitchen: Kitchen, seen: bool) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.move("bread", ELSEWHERE)
    if not seen:
        kitchen.objects.pop()
    assert end(kitchen) == "DROP"


def test_collision_when_several_things_left(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.move("bread", PLATE)
    kitchen.move("patty", ELSEWHERE)
    kitchen.tick(10)
    assert kitchen.outcome == "COLLISION"


def test_collision_when_the_arm_stalls(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.arm = ArmView("FAULT", "servo elbow_flex: overload", stalled=True)
    kitchen.tick(2)
    assert kitchen.outcome == "COLLISION"


def test_collision_when_the_stack_is_disturbed(kitchen: Kitchen) -> None:
    kitchen.core.start(SANDWICH)
    kitchen.lay("bread")
    kitchen.until("watching")
    bread = next(o for o in kitchen.objects if o.place == PLATE)
    kitchen.objects.remove(bread)
    kitchen.objects.append(replace(bread, place=ELSEWHERE, stack_index=-1))
    kitchen.tick(10)
    assert kitchen.outcome == "COLLISION"


def test_timeout_when_the_view_never_clears(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.holder_visible = False
    kitchen.tick(320)
    assert kitchen.outcome == "TIMEOUT"
    assert "holder is hidden" in kitchen.finished[0].reason
    assert kitchen.cleared >= 1


def test_time_is_up_but_the_camera_decides(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.plate_visible = False
    kitchen.move("bread", PLATE)
    kitchen.until("verifying")
    assert kitchen.sent[-1] == ""
    kitchen.plate_visible = True
    kitchen.tick(10)
    assert kitchen.outcome == "SUCCESS"


def test_abort(kitchen: Kitchen) -> None:
    kitchen.core.start(SANDWICH)
    kitchen.until("watching")
    kitchen.core.abort()
    kitchen.tick()
    assert kitchen.outcome == "ABORTED" and kitchen.sent[-1] == ""
    assert kitchen.core.status(kitchen.now).state == "IDLE"


def test_retries_send_stop_in_between(kitchen: Kitchen) -> None:
    kitchen.core.start(Recipe("r", (Step("bread", BREAD, retries=1),)))
    kitchen.until("watching")
    kitchen.joint += 1.0
    kitchen.done()
    kitchen.tick(20)
    assert not kitchen.finished
    kitchen.lay("bread")
    assert kitchen.outcome == "SUCCESS"
    assert kitchen.finished[0].results[0].attempts == 2
    first = kitchen.sent.index(BREAD)
    assert "" in kitchen.sent[first : kitchen.sent.index(BREAD, first + 1)]


def test_a_dropped_slice_counts_when_the_retry_lays_it_on_the_plate(kitchen: Kitchen) -> None:
    kitchen.core.start(Recipe("r", (Step("bread", BREAD, retries=1),)))
    kitchen.until("watching")
    kitchen.move("bread", ELSEWHERE)
    kitchen.done()
    kitchen.tick(20)
    kitchen.until("watching")
    kitchen.move("bread", PLATE)
    kitchen.done()
    kitchen.tick(10)
    assert kitchen.outcome == "SUCCESS"


def test_the_arm_goes_back_before_each_attempt_but_the_first() -> None:
    kitchen = Kitchen(limits=Limits(return_time=5.0))
    kitchen.tick(5)
    kitchen.core.start(SANDWICH)
    kitchen.lay("bread")
    kitchen.tick(10)
    status = kitchen.core.status(kitchen.now)
    assert kitchen.returned == 1 and status.step == 1 and CHEESE not in kitchen.sent  # it is on its way
    kitchen.arm = ArmView("BRAKING")
    kitchen.core.refuse_return()
    kitchen.tick(5)
    assert kitchen.returned == 1  # not asked while it brakes
    kitchen.arm = ArmView("HOLDING")
    kitchen.tick(2)
    assert kitchen.returned == 2 and CHEESE not in kitchen.sent
    kitchen.arm = ArmView("HOLDING")
    kitchen.until("watching")
    assert kitchen.sent[-1] == CHEESE
    kitchen.done()  # a miss
    kitchen.until("preparing")
    kitchen.tick(5)
    assert kitchen.returned == 3
    kitchen.tick(60)  # an arm that does not arrive is not waited for any longer
    assert kitchen.core.status(kitchen.now).phase == "watching" and kitchen.returned == 3
    kitchen.move("cheese", GRIPPER)
    kitchen.done()
    kitchen.until("preparing")
    kitchen.until("watching")
    assert kitchen.returned == 3  # what it holds it may still lay down


@pytest.mark.parametrize(("laid", "knocked"), [(True, "cheese"), (True, "bread"), (False, "cheese")])
def test_what_one_attempt_knocked_out_does_not_spoil_the_next(
    kitchen: Kitchen, laid: bool, knocked: str
) -> None:
    kitchen.core.start(SANDWICH)
    kitchen.until("watching")
    kitchen.move("bread", PLATE if laid else ELSEWHERE)
    fallen = next(o for o in kitchen.objects if (o.ingredient, o.place) == (knocked, HOLDER))
    kitchen.objects.remove(fallen)
    if knocked == "cheese":  # else it lies out of sight
        kitchen.objects.append(replace(fallen, place=ELSEWHERE, slot=255))
    if laid:
        kitchen.done()
    kitchen.until("preparing")
    sent = len(kitchen.sent)
    if not laid:
        kitchen.lay("bread")
    kitchen.tick(8)
    assert kitchen.core.status(kitchen.now).step == 1, kitchen.core.status(kitchen.now)
    assert kitchen.core.status(kitchen.now).results[0].attempts == 2
    assert (BREAD in kitchen.sent[sent:]) is not laid  # else another slice would be laid onto the first


def test_retries_run_out(kitchen: Kitchen) -> None:
    kitchen.core.start(Recipe("r", (Step("bread", BREAD, retries=2),)))
    for _ in range(3):
        kitchen.until("watching")
        kitchen.done()
        kitchen.tick(15)
    assert kitchen.outcome == "NO_ACTION"
    assert kitchen.finished[0].results[0].attempts == 3


def test_policy_that_ignores_the_instruction_ends_as_no_action(kitchen: Kitchen) -> None:
    kitchen.policy_obeys = False
    kitchen.core.start(ONE)
    kitchen.tick(80)
    assert kitchen.outcome == "NO_ACTION"
    assert "did not take the instruction" in kitchen.finished[0].reason


def test_a_missing_ingredient_is_named() -> None:
    kitchen = Kitchen((SeenObject("cheese", HOLDER, 1),))
    kitchen.tick(5)
    kitchen.core.start(ONE)
    kitchen.tick(5)
    assert kitchen.outcome == "NO_ACTION" and "put one into the holder" in kitchen.finished[0].reason
    assert BREAD not in kitchen.sent


def test_a_plate_that_is_not_empty_is_refused(kitchen: Kitchen) -> None:
    kitchen.objects.append(SeenObject("patty", PLATE))
    kitchen.tick(5)
    kitchen.core.start(SANDWICH)
    kitchen.tick(5)
    assert kitchen.outcome == "ABORTED" and "patty" in kitchen.finished[0].reason


def test_pause_withdraws_and_resume_goes_on(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.core.pause()
    kitchen.tick(200)
    status = kitchen.core.status(kitchen.now)
    assert kitchen.sent[-1] == "" and status.state == "PAUSED" and status.instruction == ""
    assert not kitchen.finished
    kitchen.core.resume()
    kitchen.lay("bread")
    assert kitchen.outcome == "SUCCESS"
    assert kitchen.finished[0].results[0].attempts == 1


def test_a_slice_laid_down_during_a_pause_is_seen(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.core.pause()
    kitchen.move("bread", PLATE)
    kitchen.tick(5)
    kitchen.core.resume()
    kitchen.tick(5)
    assert kitchen.outcome == "SUCCESS" and kitchen.sent.count(BREAD) == 1


def test_skip_goes_on_and_the_run_is_partial(kitchen: Kitchen) -> None:
    kitchen.core.start(SANDWICH)
    kitchen.lay("bread")
    kitchen.until("watching")
    kitchen.core.skip()
    kitchen.lay("bread")
    assert kitchen.outcome == "PARTIAL" and "step 2" in kitchen.finished[0].reason
    assert [r.outcome for r in kitchen.finished[0].results] == ["SUCCESS", "ABORTED", "SUCCESS"]


def test_retry_begins_the_step_anew(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    sent = kitchen.sent.count(BREAD)
    kitchen.core.retry()
    kitchen.tick(2)
    kitchen.until("watching")
    assert kitchen.sent.count(BREAD) == sent + 1
    assert kitchen.core.status(kitchen.now).attempt == 1


@pytest.mark.parametrize("command", ["pause", "resume", "skip", "retry", "abort"])
def test_commands_without_a_recipe_are_refused(kitchen: Kitchen, command: str) -> None:
    with pytest.raises(CommandError, match="no recipe is running"):
        getattr(kitchen.core, command)()


def test_a_second_goal_is_refused(kitchen: Kitchen) -> None:
    kitchen.core.start(SANDWICH)
    with pytest.raises(CommandError, match="is running"):
        kitchen.core.start(ONE)


@pytest.mark.parametrize("text", [BREAD, CHEESE, ""])
def test_somebody_elses_instruction_pauses_also_with_the_same_text(kitchen: Kitchen, text: str) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    sent = len(kitchen.sent)
    kitchen.core.hear_instruction(text)
    kitchen.tick(20)
    status = kitchen.core.status(kitchen.now)
    assert status.state == "PAUSED" and "somebody else" in status.reason and status.instruction == ""
    assert len(kitchen.sent) == sent, "theirs stands"


def test_somebody_elses_instruction_in_force_pauses_even_when_it_was_not_heard(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.policy = PolicyView("DRIVING", "dance")
    kitchen.tick(2)
    assert "dance" in kitchen.core.status(kitchen.now).reason


def test_an_instruction_that_the_policy_lost_is_asked_for_again(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.policy = PolicyView("IDLE")
    kitchen.tick(3)
    assert kitchen.sent.count(BREAD) == 2 and kitchen.core.status(kitchen.now).state == "RUNNING"


@pytest.mark.parametrize("lost", ["perception_runs", "policy_runs"])
def test_a_lost_input_withdraws_the_instruction_until_it_is_back(kitchen: Kitchen, lost: str) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    setattr(kitchen, lost, False)
    kitchen.tick(15)
    status = kitchen.core.status(kitchen.now)
    assert kitchen.sent[-1] == "" and status.state == "WAITING" and lost.split("_")[0] in status.reason
    kitchen.tick(300)
    assert not kitchen.finished
    setattr(kitchen, lost, True)
    kitchen.tick(10)
    assert kitchen.core.status(kitchen.now).state == "RUNNING" and kitchen.sent[-1] == BREAD


def test_perception_restarted_in_the_middle_of_a_step(kitchen: Kitchen) -> None:
    kitchen.core.start(SANDWICH)
    kitchen.lay("bread")
    kitchen.until("watching")
    kitchen.move("cheese", PLATE)
    top = kitchen.objects[-1]
    kitchen.objects = [o for o in kitchen.objects if o.place != PLATE] + [replace(top, stack_index=-1)]
    kitchen.done()
    kitchen.tick(10)
    assert [r.outcome for r in kitchen.core.status(kitchen.now).results] == ["SUCCESS", "SUCCESS"]


def test_an_arm_fault_pauses(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.arm = ArmView("ESTOPPED", "by service")
    kitchen.tick(2)
    status = kitchen.core.status(kitchen.now)
    assert status.state == "PAUSED" and "ESTOPPED" in status.reason and kitchen.sent[-1] == ""


STOPS = ["ESTOPPED", "FAULT", "READY", "UNPOWERED"]


@pytest.mark.parametrize("state", STOPS)
@pytest.mark.parametrize("policy_first", [True, False])
def test_after_a_stop_of_the_arm_it_goes_on_by_command_only(
    kitchen: Kitchen, state: str, policy_first: bool
) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.policy_obeys = False
    if policy_first:  # the policy drops the instruction before the sequencer hears of the arm
        kitchen.policy = PolicyView("HOLDING", "", "the arm")
        kitchen.tick(2)
    kitchen.arm = ArmView(state, "by service")
    kitchen.policy = PolicyView("IDLE")
    kitchen.tick(5)
    with pytest.raises(CommandError, match="cannot go on: the arm"):
        kitchen.core.resume()
    kitchen.arm = ArmView("HOLDING")
    asked = kitchen.sent.count(BREAD)
    kitchen.tick(50)
    status = kitchen.core.status(kitchen.now)
    assert status.state == "PAUSED" and ("torque" if state == "READY" else state) in status.reason
    assert kitchen.sent.count(BREAD) == asked and kitchen.sent[-1] == ""
    kitchen.policy_obeys = True
    sent = len(kitchen.sent)
    kitchen.core.resume()
    kitchen.tick(4)
    assert kitchen.sent[sent : sent + 2] == ["", BREAD]
    kitchen.lay("bread")
    assert kitchen.outcome == "SUCCESS"


def test_a_stop_of_the_arm_that_is_over_before_the_next_tick_pauses(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.core.hear_arm(ArmView("ESTOPPED", "by service"), kitchen.now)
    kitchen.tick(5)
    assert kitchen.core.status(kitchen.now).state == "PAUSED" and kitchen.sent[-1] == ""


@pytest.mark.parametrize("state", STOPS)
def test_a_recipe_that_is_sent_to_a_stopped_arm(kitchen: Kitchen, state: str) -> None:
    kitchen.arm = ArmView(state)
    kitchen.tick(2)
    kitchen.core.start(ONE)
    kitchen.tick(5)
    waits = state in ("READY", "UNPOWERED")  # an arm that starts up; nothing was interrupted
    assert kitchen.core.status(kitchen.now).state == ("WAITING" if waits else "PAUSED")
    kitchen.arm = ArmView("HOLDING")
    kitchen.tick(10)
    assert (BREAD in kitchen.sent) == waits


def test_after_resume_a_status_from_before_counts_for_nothing(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.until("watching")
    kitchen.core.pause()
    kitchen.tick(5)
    kitchen.policy_runs = False
    sent = len(kitchen.sent)
    kitchen.core.resume()
    kitchen.tick(5)
    assert kitchen.sent[sent:] == [""]
    kitchen.policy_runs = True
    kitchen.tick(2)
    assert kitchen.sent[sent:] == ["", BREAD]


def test_a_resting_arm_that_hides_the_view_is_sent_home(kitchen: Kitchen) -> None:
    kitchen.core.start(ONE)
    kitchen.holder_visible = False
    kitchen.tick(45)
    assert kitchen.cleared == 1


def interrupted(kitchen: Kitchen) -> Kitchen:
    """A new sequencer beside the same kitchen, after the old one was killed during the second step."""
    kitchen.core.start(SANDWICH)
    kitchen.lay("bread")
    kitchen.until("watching")
    later = Kitchen(tuple(kitchen.objects))
    later.core.offer(kitchen.saved[-1].progress, SANDWICH)
    return later


def test_a_killed_run_is_offered_and_goes_on(kitchen: Kitchen) -> None:
    later = interrupted(kitchen)
    later.tick(5)
    assert later.core.status(later.now).resumable
    later.core.start(SANDWICH, resume=True)
    later.lay("cheese")
    later.lay("bread")
    assert later.outcome == "SUCCESS"
    assert [r.index for r in later.finished[0].results] == [0, 1, 2]


def test_a_killed_run_goes_on_when_perception_knows_the_top_only(kitchen: Kitchen) -> None:
    later = interrupted(kitchen)
    later.objects = [replace(o, stack_index=-1) for o in later.objects]
    later.tick(5)
    later.core.start(SANDWICH, resume=True)
    later.until("watching")
    assert later.core.status(later.now).step == 1


def test_a_step_that_ended_while_the_sequencer_was_dead_is_not_done_twice(kitchen: Kitchen) -> None:
    later = interrupted(kitchen)
    later.move("cheese", PLATE)
    later.tick(5)
    later.core.start(SANDWICH, resume=True)
    later.until("watching")
    assert later.core.status(later.now).step == 2 and later.sent[-1] == BREAD


def test_a_plate_that_disagrees_is_not_offered(kitchen: Kitchen) -> None:
    later = interrupted(kitchen)
    later.objects = [o for o in later.objects if o.place != PLATE]
    later.tick(5)
    assert not later.core.status(later.now).resumable
    with pytest.raises(CommandError, match="by the history it was bread"):
        later.core.start(SANDWICH, resume=True)


def test_progress_beyond_the_recipe_is_not_offered(kitchen: Kitchen) -> None:
    progress = interrupted(kitchen).core._interrupted
    assert progress is not None
    later = Kitchen()
    later.core.offer(replace(progress[0], step=3), SANDWICH)
    later.tick(5)
    assert not later.core.status(later.now).resumable


def test_resume_without_an_interrupted_run_is_refused(kitchen: Kitchen) -> None:
    with pytest.raises(CommandError, match="no interrupted run"):
        kitchen.core.start(SANDWICH, resume=True)


def test_an_aborted_run_can_go_on(kitchen: Kitchen) -> None:
    kitchen.core.start(SANDWICH)
    kitchen.lay("bread")
    kitchen.until("watching")
    kitchen.core.abort()
    kitchen.tick(5)
    assert kitchen.core.status(kitchen.now).resumable
    kitchen.core.start(SANDWICH, resume=True)
    kitchen.lay("cheese")
    kitchen.lay("bread")
    assert kitchen.outcome == "SUCCESS"
