# SPDX-License-Identifier: Apache-2.0
"""sequencer_node over real DDS, beside a kitchen of messages that obeys at once."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chefmate_msgs.msg", reason="chefmate_msgs is not built: make setup && source env.sh")

from chefmate_msgs.action import MakeSandwich
from chefmate_msgs.msg import ArmHealth, PolicyStatus, SequencerStatus, WorkcellState
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger

from chefmate_policy.perception.messages import to_message
from chefmate_policy.perception.workcell import HOLDER, PLATE, SeenObject, Workcell
from chefmate_policy.sequencer.progress import default_path

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BREAD, CHEESE = "pick up the bread", "pick up the cheese"
RECIPE = f"""
timeout: 20.0
retries: 0
steps:
  - {{ingredient: bread, instruction: {BREAD}}}
  - {{ingredient: cheese, instruction: {CHEESE}}}
"""


class Kitchen:
    """Publishes what the sequencer needs, and lays down what it asks for."""

    def __init__(self, listener: Any) -> None:
        self.listener = listener
        self.obeys = True
        self.leaves = ""  # ingredient that it does not lay down
        self.objects = [SeenObject("bread", HOLDER, 0), SeenObject("cheese", HOLDER, 1)]
        self.policy = PolicyStatus(state=PolicyStatus.IDLE)
        node = listener.node
        self._workcell = node.create_publisher(WorkcellState, "workcell/state", 1)
        self._policy = node.create_publisher(PolicyStatus, "policy/status", LATCHED)
        self._arm = node.create_publisher(ArmHealth, "arm/health", 1)
        self.statuses: list[SequencerStatus] = listener.subscribe(
            "sequencer/status", SequencerStatus, LATCHED
        )
        self.diagnostics: list[DiagnosticArray] = listener.subscribe("/diagnostics", DiagnosticArray)
        self.heard: list[str] = []
        node.create_subscription(String, "instruction", self._obey, 10)
        self.action = ActionClient(node, MakeSandwich, "make_sandwich")
        node.create_timer(0.05, self._publish)

    def _obey(self, message: String) -> None:
        self.heard.append(message.data)
        if message.data != self.policy.instruction:
            self.policy.instruction = message.data
            self.policy.instruction_number += 1
            self.policy.state = PolicyStatus.DRIVING if message.data else PolicyStatus.IDLE

    def _publish(self) -> None:
        now = self.listener.node.get_clock().now().to_msg()
        named = {BREAD: "bread", CHEESE: "cheese"}.get(self.policy.instruction)
        if self.obeys and named not in (None, self.leaves) and self.policy.state == PolicyStatus.DRIVING:
            self.lay(named)
            self.policy.state = PolicyStatus.DONE
        self._workcell.publish(to_message(Workcell(0.0, tuple(self.objects)), now))
        self.policy.header.stamp = now
        self._policy.publish(self.policy)
        self._arm.publish(ArmHealth(state=ArmHealth.HOLDING))

    def lay(self, ingredient: str) -> None:
        layer = sum(o.place == PLATE for o in self.objects)
        taken = next(o for o in self.objects if o.ingredient == ingredient and o.place == HOLDER)
        self.objects.remove(taken)
        self.objects.append(SeenObject(ingredient, PLATE, stack_index=layer))

    @property
    def status(self) -> SequencerStatus:
        return self.statuses[-1] if self.statuses else SequencerStatus()

    def until(self, condition: Callable[[], Any], what: str, timeout: float = 15.0) -> Any:
        return self.listener.until(condition, timeout, f"{what}; the sequencer said {self.status}")

    def until_state(self, state: str) -> None:
        self.until(lambda: self.status.state == state, f"state {state}")

    def goal(self, recipe: str = "test", resume: bool = False, feedback: list[Any] | None = None) -> Any:
        self.until(self.action.server_is_ready, "the action server")
        sent = self.action.send_goal_async(
            MakeSandwich.Goal(recipe=recipe, resume=resume),
            feedback_callback=feedback.append if feedback is not None else None,
        )
        self.until(sent.done, "an answer to the goal")
        return sent.result()

    def result(self, goal: Any) -> MakeSandwich.Result:
        future = goal.get_result_async()
        self.until(future.done, "a result")
        return future.result().result


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "test.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def start(start_process: Callable[..., Any], recipes: Path, tmp_path: Path) -> Callable[..., Any]:
    def start_node(**parameters: str) -> Any:
        given = {
            "recipe_folder": recipes,
            "progress_file": tmp_path / "state" / "progress.json",
            **parameters,
        }
        words = [word for key, value in given.items() for word in ("-p", f"{key}:={value}")]
        return start_process(["python", "-m", "chefmate_policy.sequencer.node", "--ros-args", *words])

    return start_node


@pytest.fixture
def kitchen(listener: Any) -> Iterator[Kitchen]:
    kitchen = Kitchen(listener)
    yield kitchen
    kitchen.action.destroy()


def test_a_goal_is_made_with_feedback_and_a_result_per_step(
    kitchen: Kitchen, start: Any, tmp_path: Path
) -> None:
    node = start()
    kitchen.until_state("IDLE")
    feedback: list[Any] = []
    result = kitchen.result(kitchen.goal(feedback=feedback))
    assert result.outcome == "SUCCESS", result
    assert [(step.ingredient, step.outcome, step.attempts) for step in result.steps] == [
        ("bread", "SUCCESS", 1),
        ("cheese", "SUCCESS", 1),
    ]
    assert feedback and feedback[0].feedback.steps == 2
    changes = [
        text for before, text in zip(["", *kitchen.heard], kitchen.heard, strict=False) if text != before
    ]
    assert changes == [BREAD, "", CHEESE, ""]
    assert json.loads((tmp_path / "state" / "progress.json").read_text())["finished"]
    assert node.stop(signal.SIGTERM) == 0


def test_status_comes_five_times_a_second(kitchen: Kitchen, start: Any) -> None:
    start()
    kitchen.until_state("IDLE")
    seen = len(kitchen.statuses)
    kitchen.listener.spin(2.0)
    assert 9 <= len(kitchen.statuses) - seen <= 12


@pytest.mark.parametrize("text", [BREAD, "", pytest.param(CHEESE, marks=pytest.mark.slow)])
def test_somebody_elses_instruction_pauses(kitchen: Kitchen, start: Any, text: str) -> None:
    start()
    kitchen.until_state("IDLE")
    kitchen.obeys = False
    goal = kitchen.goal()
    kitchen.until(lambda: kitchen.status.phase == "watching", "watching")
    other = kitchen.listener.publisher("instruction", String, 1, matched=2)
    count = len(kitchen.heard)
    other.publish(String(data=text))
    kitchen.until_state("PAUSED")
    assert "somebody else" in kitchen.status.reason and kitchen.status.instruction == ""
    kitchen.listener.spin(1.0)
    assert kitchen.heard[count:] == [text], "the sequencer leaves the newcomer in force"
    assert kitchen.listener.call("sequencer/resume", Trigger).success
    kitchen.obeys = True
    assert kitchen.result(goal).outcome == "SUCCESS"


def test_its_own_repeated_instruction_does_not_pause(kitchen: Kitchen, start: Any) -> None:
    start()
    kitchen.until_state("IDLE")
    kitchen.obeys = False
    kitchen.goal()
    kitchen.until(lambda: kitchen.status.phase == "watching", "watching")
    kitchen.listener.spin(2.5)
    assert kitchen.status.state == "RUNNING"


def test_cancel_stops_the_arm_and_ends_the_goal(kitchen: Kitchen, start: Any) -> None:
    from action_msgs.msg import GoalStatus

    start()
    kitchen.until_state("IDLE")
    kitchen.obeys = False
    goal = kitchen.goal()
    kitchen.until(lambda: kitchen.status.phase == "watching", "watching")
    cancelled = goal.cancel_goal_async()
    kitchen.until(cancelled.done, "an answer to cancel")
    future = goal.get_result_async()
    kitchen.until(future.done, "a result")
    assert future.result().status == GoalStatus.STATUS_CANCELED
    assert future.result().result.outcome == "ABORTED"
    kitchen.until(lambda: kitchen.heard[-1] == "", "the empty instruction")
    kitchen.until_state("IDLE")


def test_pause_resume_skip_retry_abort(kitchen: Kitchen, start: Any) -> None:
    start()
    kitchen.until_state("IDLE")
    refused = kitchen.listener.call("sequencer/pause", Trigger)
    assert not refused.success and "no recipe is running" in refused.message
    kitchen.obeys = False
    goal = kitchen.goal()
    kitchen.until(lambda: kitchen.status.phase == "watching", "watching")
    assert kitchen.listener.call("sequencer/pause", Trigger).success
    kitchen.until_state("PAUSED")
    kitchen.until(lambda: kitchen.heard[-1] == "", "the empty instruction")
    assert kitchen.listener.call("sequencer/resume", Trigger).success
    kitchen.until(lambda: kitchen.status.phase == "watching", "watching again")
    assert kitchen.listener.call("sequencer/retry", Trigger).success
    kitchen.until(lambda: kitchen.status.phase == "watching", "watching after retry")
    assert kitchen.listener.call("sequencer/skip", Trigger).success
    kitchen.until(lambda: kitchen.status.step == 1 and kitchen.status.phase == "watching", "the second step")
    assert kitchen.listener.call("sequencer/abort", Trigger).success
    result = kitchen.result(goal)
    assert [step.outcome for step in result.steps] == ["ABORTED", "ABORTED"]


def test_a_second_goal_is_rejected(kitchen: Kitchen, start: Any) -> None:
    start()
    kitchen.until_state("IDLE")
    kitchen.obeys = False
    kitchen.goal()
    assert not kitchen.goal().accepted


def test_an_unknown_recipe_names_the_known_ones(kitchen: Kitchen, start: Any) -> None:
    start()
    result = kitchen.result(kitchen.goal("pizza"))
    assert result.outcome == "ABORTED"
    assert "'pizza'" in result.reason and "test" in result.reason and "cheese_sandwich" in result.reason


def test_a_malformed_recipe_is_rejected_with_file_line_and_key(
    kitchen: Kitchen, start: Any, recipes: Path
) -> None:
    (recipes / "bad.yaml").write_text(
        "steps:\n  - ingredient: bread\n    instruction: x\n    timeout: soon\n"
    )
    (recipes / "misspelt.yml").write_text("steps:\n  - ingredient: bred\n    instruction: x\n")
    start()
    result = kitchen.result(kitchen.goal("bad"))
    assert f"{recipes / 'bad.yaml'}:4: timeout" in result.reason
    result = kitchen.result(kitchen.goal("misspelt"))
    assert f"{recipes / 'misspelt.yml'}:2: ingredient: 'bred'" in result.reason


def test_killed_and_restarted_it_offers_to_go_on_and_does(kitchen: Kitchen, start: Any) -> None:
    node = start()
    kitchen.until_state("IDLE")
    kitchen.goal()
    kitchen.until(lambda: kitchen.status.step == 1 and kitchen.status.phase != "", "the second step")
    kitchen.obeys = False
    node.process.kill()
    node.wait()
    kitchen.policy = PolicyStatus(state=PolicyStatus.IDLE)
    if "cheese" in [o.ingredient for o in kitchen.objects if o.place == PLATE]:
        kitchen.objects = [o for o in kitchen.objects if o.ingredient != "cheese"]
        kitchen.objects.append(SeenObject("cheese", HOLDER, 1))
    kitchen.statuses.clear()
    start()
    kitchen.until(lambda: kitchen.status.resumable, "an offer to go on")
    kitchen.obeys = True
    result = kitchen.result(kitchen.goal(resume=True))
    assert result.outcome == "SUCCESS"
    assert [(step.index, step.ingredient) for step in result.steps] == [(0, "bread"), (1, "cheese")]


@pytest.mark.parametrize("step", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_and_started_again_with_a_recipe_it_offers_and_starts_nothing(
    kitchen: Kitchen, start: Any, step: int
) -> None:
    kitchen.leaves = ("bread", "cheese")[step]
    node = start(recipe="test")
    kitchen.until(lambda: kitchen.status.step == step and kitchen.status.phase == "watching", "watching")
    node.process.kill()
    node.wait()
    kitchen.policy = PolicyStatus(state=PolicyStatus.IDLE)
    kitchen.statuses.clear()
    kitchen.heard.clear()
    again = start(recipe="test")
    kitchen.until(lambda: kitchen.status.resumable, "an offer to go on")
    kitchen.listener.spin(1.5)
    assert kitchen.heard == [] and {s.state for s in kitchen.statuses} <= {"WAITING", "IDLE"}
    assert kitchen.status.state == "IDLE" and kitchen.status.resumable
    again.until_output("recipe test is not started by itself: a run of test was interrupted")
    again.until_output("IDLE: test was interrupted")


@pytest.mark.parametrize("change", [{"step": 9}, {"step": "1"}, {"holder": {"bread": -1}}])
def test_damaged_progress_is_kept_aside_and_the_sequencer_lives(
    kitchen: Kitchen,
    start: Any,
    tmp_path: Path,
    ros_domain: int,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    good = {"version": 1, "recipe": "test", "instructions": [BREAD, CHEESE], "step": 0, "plate": []}
    file = default_path("/", ros_domain)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({**good, "holder": {}, "results": [], "finished": False, **change}))
    node = start(recipe="test", progress_file="''")
    kitchen.until_state("IDLE")
    node.until_output("IDLE: ready for a goal")
    kitchen.listener.spin(0.5)
    assert not kitchen.status.resumable and kitchen.heard == []
    assert f"It is kept as {file}.bad" in node.output
    assert not file.exists() and file.with_name("progress.json.bad").exists()
    assert kitchen.result(kitchen.goal()).outcome == "SUCCESS"


MAKER = (
    "import sys, time, rclpy\nfrom chefmate_policy.sequencer.client import ClientError, SandwichClient\n"
    "rclpy.init()\n"
    "with SandwichClient() as client:\n"
    "    try:\n        client.make('test', on_feedback=lambda f: print('phase', f.phase, flush=True))\n"
    "    except ClientError as error:\n        print('ended:', error, flush=True)\n        sys.exit(3)\n"
)


@pytest.mark.parametrize("respawned", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_client_does_not_wait_for_a_dead_sequencer(
    kitchen: Kitchen, start: Any, start_process: Any, respawned: bool
) -> None:
    node = start()
    kitchen.until_state("IDLE")
    kitchen.obeys = False
    child = start_process(["python", "-c", MAKER])
    kitchen.until(lambda: "phase watching" in child.output, "watching")
    kitchen.listener.spin(4.0)  # longer than the client's patience with a silent sequencer
    assert child.process.poll() is None, child.output
    node.process.kill()
    node.wait()
    if respawned:
        start()
    killed = time.monotonic()
    kitchen.until(lambda: child.process.poll() is not None, "the client's end", 6.0 + 4.0 * respawned)
    assert child.wait() == 3 and "the sequencer ended; start again with --resume" in child.output
    assert time.monotonic() - killed < 6.0 + 4.0 * respawned


def test_a_client_that_is_interrupted_while_it_waits_raises_keyboard_interrupt(
    ros_domain: int, start_process: Any
) -> None:
    child = start_process(
        [
            "python",
            "-c",
            "import rclpy\nfrom chefmate_policy.sequencer.client import SandwichClient\nrclpy.init()\n"
            "client = SandwichClient()\nclient.on_idle = lambda: False\n"
            "try:\n    client.make('test')\nexcept KeyboardInterrupt:\n    print('interrupted')\n",
        ]
    )
    assert child.wait() == 0 and "interrupted" in child.output


def test_a_disk_that_cannot_be_written_is_reported_and_the_recipe_goes_on(
    kitchen: Kitchen, start: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    start(progress_file=str(tmp_path / "file" / "progress.json"))
    kitchen.until_state("IDLE")
    assert kitchen.result(kitchen.goal()).outcome == "SUCCESS"
    kitchen.until(
        lambda: any("progress cannot be written" in s.message for d in kitchen.diagnostics for s in d.status),
        "the fault in /diagnostics",
    )


def test_the_recipe_parameter_starts_once_everything_is_ready(kitchen: Kitchen, start: Any) -> None:
    start(recipe="test")
    kitchen.until(lambda: kitchen.heard[-1:] == [""] and CHEESE in kitchen.heard, "the whole recipe")
    kitchen.until_state("IDLE")


def test_the_client_makes_says_stops_and_is_refused(kitchen: Kitchen, start: Any, start_process: Any) -> None:
    start()
    kitchen.until_state("IDLE")
    script = (
        "import rclpy\nfrom chefmate_policy.sequencer.client import ClientError, SandwichClient\n"
        "rclpy.init()\n"
        "with SandwichClient() as client:\n"
        "    result = client.make('test', on_feedback=lambda f: print('feedback', f.step, flush=True))\n"
        "    print(result.outcome, len(result.steps), result.success)\n"
        "    client.say('dance')\n    client.stop()\n"
        "    try:\n        client.pause()\n"
        "    except ClientError as error:\n        print('refused:', error)\n"
    )
    child = start_process(["python", "-c", script])
    kitchen.until(lambda: child.process.poll() is not None, "the client's end", 30.0)
    assert child.wait() == 0, child.output
    assert (
        "feedback 0" in child.output
        and "SUCCESS 2 True" in child.output
        and "refused: no recipe" in child.output
    )
    assert kitchen.heard[-2:] == ["dance", ""]
