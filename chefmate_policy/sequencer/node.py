# SPDX-License-Identifier: Apache-2.0
"""sequencer_node: recipes to instructions on /instruction, step by step, by what perception sees.

The decisions are core.py's. This node carries messages to it, its actions to topics and services, and its
progress to the disk.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chefmate_msgs.msg import ArmHealth, PolicyStatus, SequencerStatus, WorkcellState
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from chefmate_policy.errors import PolicyError
from chefmate_policy.perception.messages import from_message
from chefmate_policy.sequencer import messages, outcomes
from chefmate_policy.sequencer.action import MakeSandwichServer
from chefmate_policy.sequencer.book import RecipeBook
from chefmate_policy.sequencer.core import CommandError, Sequencer
from chefmate_policy.sequencer.own_instructions import OwnInstructions
from chefmate_policy.sequencer.progress import (
    DamagedProgressError,
    Progress,
    ProgressError,
    ProgressFile,
    default_path,
)
from chefmate_policy.sequencer.recipes import RecipeError
from chefmate_policy.sequencer.views import (
    IDLE,
    PAUSED,
    RUNNING,
    ClearView,
    Finished,
    Limits,
    Publish,
    ReturnArm,
    Save,
    Status,
)
from chefmate_ros.parameters import Parameter, declare
from chefmate_ros.polling import polled_subscription, take_all
from chefmate_ros.running import run

TICK = 0.1  # s
STATUS_PERIOD = 0.2  # s; the policy stops obeying after 1 s without
FEEDBACK_PERIOD = 0.5  # s
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LEVELS = {RUNNING: DiagnosticStatus.OK, IDLE: DiagnosticStatus.OK, PAUSED: DiagnosticStatus.WARN}

DEFAULTS = Limits()
PARAMETERS = (
    Parameter(
        "recipe",
        "",
        "recipe to make once, as soon as everything is ready, unless a run was interrupted; empty: none",
    ),
    Parameter(
        "recipe_folder", "", "folder with recipes of your own; empty: $XDG_CONFIG_HOME/chefmate/recipes"
    ),
    Parameter(
        "workcell",
        "",
        "perception's workcell file, whose ingredients recipes may name; empty: the twin's "
        "(config/workcell_twin.yaml); any: no bound, for another perception node",
    ),
    Parameter(
        "progress_file",
        "",
        "where progress is kept; empty: $XDG_STATE_HOME/chefmate/domain_N/NAMESPACE/progress.json",
    ),
    Parameter("clear_view_service", "arm/home", "std_srvs/Trigger called when the resting arm hides a zone"),
    Parameter(
        "return_service",
        "arm/park",
        "std_srvs/Trigger that brings the arm to where attempts begin; empty: none",
    ),
    Parameter(
        "perception_timeout",
        DEFAULTS.perception_timeout,
        "s, age of a workcell state that is too old",
        (0.1, 60.0),
    ),
    Parameter(
        "policy_timeout", DEFAULTS.policy_timeout, "s, age of a policy status that is too old", (0.1, 60.0)
    ),
    Parameter("arm_timeout", DEFAULTS.arm_timeout, "s, age of an arm health that is too old", (0.1, 60.0)),
    Parameter(
        "stable_frames", DEFAULTS.stable_frames, "equal workcell states in a row that count as seen", (1, 100)
    ),
    Parameter(
        "min_confidence", DEFAULTS.min_confidence, "below it, a slice lies only half on the plate", (0.0, 1.0)
    ),
    Parameter(
        "repeat_period", DEFAULTS.repeat_period, "s between repetitions of an instruction", (0.1, 60.0)
    ),
    Parameter(
        "finish_time",
        DEFAULTS.finish_time,
        "s for the policy to draw the arm back after success",
        (0.0, 60.0),
    ),
    Parameter(
        "settle_time", DEFAULTS.settle_time, "s between the policy's DONE and the judgement", (0.0, 60.0)
    ),
    Parameter(
        "verify_time",
        DEFAULTS.verify_time,
        "s for a clear view after an attempt's time ran out",
        (1.0, 300.0),
    ),
    Parameter(
        "clear_view_after",
        DEFAULTS.clear_view_after,
        "s a zone may be hidden by a resting arm; 0: for ever",
        (0.0, 60.0),
    ),
    Parameter(
        "return_time",
        DEFAULTS.return_time,
        "s for the way to where attempts begin, before each but a run's first; 0: the arm stays where it is",
        (0.0, 60.0),
    ),
    Parameter(
        "moved_angle",
        DEFAULTS.moved_angle,
        "rad by which a joint must move for the arm to have moved",
        (0.001, 1.0),
    ),
)


class SequencerNode(Node):  # type: ignore[misc]
    """See the module. Everything runs in the executor's one thread."""

    def __init__(self, name: str = "sequencer", **arguments: Any) -> None:
        super().__init__(name, **arguments)
        self._values = values = declare(self, PARAMETERS)
        self._core = Sequencer(Limits(**{key: values[key] for key in vars(DEFAULTS)}))
        self._own = OwnInstructions()
        self._book = RecipeBook.open(values["recipe_folder"], values["workcell"])
        place = default_path(self.get_namespace(), self.context.get_domain_id())
        self._file = ProgressFile(Path(values["progress_file"] or place))
        self._progress_fault = ""
        self._autostart = str(values["recipe"])
        self._last_status = ("", "", "", "")
        self._said = ""
        self._status_time = self._feedback_time = float("-inf")
        self._instruction = self.create_publisher(String, "instruction", QoSProfile(depth=1))
        self._status = self.create_publisher(SequencerStatus, "sequencer/status", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Deep, so that no arrival is lost while the executor is busy: each one is somebody's wish.
        self.create_subscription(String, "instruction", self._on_instruction, QoSProfile(depth=100))
        # Decisions fall at the ticks, so these are looked at then. Deep, so that no short stop is lost.
        newest = QoSProfile(depth=1, reliability=qos_profile_sensor_data.reliability)
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._polled: list[tuple[Any, Callable[[Any], None]]] = [
            (polled_subscription(self, kind, topic, qos), hear)
            for kind, topic, qos, hear in (
                (WorkcellState, "workcell/state", QoSProfile(depth=10), self._on_workcell),
                (PolicyStatus, "policy/status", latched, self._on_policy),
                (ArmHealth, "arm/health", QoSProfile(depth=10), self._on_arm),
                (JointState, "joint_states", newest, self._on_joints),
            )
        ]
        for command in ("pause", "resume", "skip", "retry", "abort"):
            self.create_service(Trigger, f"sequencer/{command}", self._command(command))
        self._clear_view, self._return = (
            self.create_client(Trigger, values[name]) if values[name] else None
            for name in ("clear_view_service", "return_service")
        )
        self._server = MakeSandwichServer(self, lambda: not self._core.busy, self._on_goal, self._on_cancel)
        self._offer_interrupted()
        self.create_timer(TICK, self._on_tick)
        self.create_timer(1.0, self._on_diagnostics)

    def destroy_node(self) -> None:
        """Withdraws the instruction of a running recipe and ends the node; progress stays on disk."""
        if self._core.status(time.monotonic()).instruction:
            self._publish("")
        self._server.destroy()
        super().destroy_node()

    # Inputs

    def _on_instruction(self, message: String, info: dict[str, Any]) -> None:
        if not self._own.is_own(message.data, info["publication_sequence_number"], time.monotonic()):
            self._core.hear_instruction(message.data)

    def _on_workcell(self, message: WorkcellState) -> None:
        age = (self.get_clock().now() - Time.from_msg(message.header.stamp)).nanoseconds * 1e-9
        self._core.see(from_message(message), time.monotonic() - max(0.0, age))

    def _on_policy(self, message: PolicyStatus) -> None:
        age = (self.get_clock().now() - Time.from_msg(message.header.stamp)).nanoseconds * 1e-9
        self._core.hear_policy(messages.policy_view(message), time.monotonic() - max(0.0, age))

    def _on_arm(self, message: ArmHealth) -> None:
        self._core.hear_arm(messages.arm_view(message), time.monotonic())

    def _on_joints(self, message: JointState) -> None:
        self._core.hear_joints(tuple(message.position))

    # Commands

    def _command(self, name: str) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def handle(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                getattr(self._core, name)()
                response.success, response.message = True, f"{name}: done"
            except CommandError as error:
                response.success, response.message = False, str(error)
            self._on_tick()
            return response

        return handle

    def _on_goal(self, recipe: str, resume: bool) -> None:
        self._autostart = ""  # somebody decides what is made
        fault = self._start(recipe, resume)
        if fault:
            self._server.finish(messages.run_result(Finished(outcomes.ABORTED, fault, ())))
        self._on_tick()

    def _on_cancel(self) -> None:
        if self._core.busy:
            self._core.abort("cancelled by the client")

    def _start(self, recipe: str, resume: bool) -> str:
        """Why it cannot start; empty: it has."""
        try:
            self._core.start(self._book.recipe(recipe), resume)
        except (RecipeError, CommandError) as error:
            self.get_logger().error(str(error))
            return str(error)
        self.get_logger().info(f"recipe {recipe}{' goes on' if resume else ''}")
        return ""

    def _offer_interrupted(self) -> None:
        """Offers an interrupted run; then the parameter `recipe` starts nothing.

        A killed sequencer comes back with the same parameter, and an arm must not move because of that.
        """
        try:
            progress = self._file.load()
            if progress is None or progress.finished:
                return
            self._drop_autostart(f"a run of {progress.recipe} was interrupted")
            self._core.offer(progress, self._book.recipe(progress.recipe))
        except (ProgressError, RecipeError) as error:
            self._drop_autostart("it is not known whether a run was interrupted")
            self._progress_fault = str(error)
            if isinstance(error, DamagedProgressError):
                self._progress_fault += self._set_aside()
            self.get_logger().warning(self._progress_fault)

    def _drop_autostart(self, why: str) -> None:
        if self._autostart:
            self.get_logger().warning(
                f"recipe {self._autostart} is not started by itself: {why}. "
                "Send a goal; with resume=true it goes on."
            )
            self._autostart = ""

    def _set_aside(self) -> str:
        try:
            return f" It is kept as {self._file.set_aside()}."
        except ProgressError as error:
            return f" {error}"

    # Outputs

    def _on_tick(self) -> None:
        for subscription, hear in self._polled:
            for message, _ in take_all(subscription):
                hear(message)
        now = time.monotonic()
        if self._autostart and self._core.status(now).state == IDLE:
            recipe, self._autostart = self._autostart, ""
            self._start(recipe, resume=False)
        for action in self._core.tick(now):
            if isinstance(action, Publish):
                self._publish_status(now, force=True)  # the policy must know the lease before the text
                self._publish(action.text)
            elif isinstance(action, Save):
                self._save(action.progress)
            elif isinstance(action, ClearView):
                self._move(self._clear_view, "the resting arm hides a zone")
            elif isinstance(action, ReturnArm):
                self._move(self._return, "an attempt is over", self._core.refuse_return)
            else:
                self._finish(action)
        self._publish_status(now)

    def _publish(self, text: str) -> None:
        self._own.published(text, time.monotonic())
        self._instruction.publish(String(data=text))

    def _publish_status(self, now: float, force: bool = False) -> None:
        status = self._core.status(now)
        changed = (status.state, status.reason, status.phase, status.instruction)
        if force or changed != self._last_status or now - self._status_time >= STATUS_PERIOD - 0.5 * TICK:
            if changed[:3] != self._last_status[:3]:
                self._log_status(status)
            self._last_status, self._status_time = changed, now
            self._status.publish(messages.status_message(status, self.get_clock().now().to_msg()))
        if self._server.busy and now - self._feedback_time >= FEEDBACK_PERIOD:
            self._feedback_time = now
            self._server.feedback(messages.feedback_message(status))

    def _log_status(self, status: Status) -> None:
        """One line for each change; IDLE is told when it begins, and when a run can go on."""
        if status.state == IDLE:
            said = f"IDLE: {status.reason or 'ready for a goal'}"
            if self._last_status[0] == IDLE and not status.reason:
                return
        else:
            said = f"{status.state} {status.phase} {status.reason}".strip()
            said = f"step {status.step + 1}: {said}" if status.steps else said
        if said != self._said:  # a hand before the plate makes an offer come and go
            self._said = said
            self.get_logger().info(said)

    def _save(self, progress: Progress) -> None:
        try:
            self._file.save(progress)
            self._progress_fault = ""
        except ProgressError as error:
            if not self._progress_fault:
                self.get_logger().error(str(error))
            self._progress_fault = str(error)

    def _move(self, client: Any, why: str, refused: Callable[[], None] = lambda: None) -> None:
        """Calls a service that moves the resting arm."""
        if client is None or not client.service_is_ready():
            self.get_logger().warning(f"{why}, and nobody is there who moves the arm")
            return
        self.get_logger().info(f"{why}: calling {client.srv_name}")

        def answered(future: Any) -> None:
            if not future.result().success:
                self.get_logger().warning(f"{client.srv_name}: {future.result().message}")
                refused()

        client.call_async(Trigger.Request()).add_done_callback(answered)

    def _finish(self, finished: Finished) -> None:
        self.get_logger().info(f"{finished.outcome}: {finished.reason}")
        self._server.finish(messages.run_result(finished))

    def _on_diagnostics(self) -> None:
        status = self._core.status(time.monotonic())
        level, text = LEVELS.get(status.state, DiagnosticStatus.WARN), status.reason or status.state
        if self._progress_fault:
            level, text = DiagnosticStatus.WARN, self._progress_fault
        values = {
            "state": status.state,
            "recipe": status.recipe,
            "step": str(status.step),
            "phase": status.phase,
        }
        message = DiagnosticArray(
            status=[
                DiagnosticStatus(
                    level=level,
                    name=f"{self.get_fully_qualified_name()}: recipe",
                    message=text,
                    values=[KeyValue(key=key, value=value) for key, value in values.items()],
                )
            ]
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main(args: list[str] | None = None) -> int:
    """Runs the sequencer until ctrl-C or SIGTERM; exit status 0."""
    return run(SequencerNode, args, "sequencer", (PolicyError,))


if __name__ == "__main__":
    sys.exit(main())
