# SPDX-License-Identifier: Apache-2.0
"""Client of the sequencer and of /instruction: one flat class. The caller has initialised rclpy.

with SandwichClient() as client:
    result = client.make("cheese_sandwich", on_feedback=print)
    print(result.outcome, result.reason)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from action_msgs.msg import GoalStatus
from chefmate_msgs.action import MakeSandwich
from chefmate_msgs.msg import PolicyStatus, SequencerStatus
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger

from chefmate_policy.errors import PolicyError
from chefmate_policy.sequencer import outcomes
from chefmate_policy.sequencer.messages import step_result
from chefmate_policy.sequencer.outcomes import StepResult
from chefmate_ros.executor import LightExecutor
from chefmate_ros.polling import polled_subscription, take_all

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TURN = 0.1  # s between looks at what has arrived and at `on_idle`
PATIENCE = 10.0  # s for a server, a subscriber or an answer
SILENCE = 3.0  # s without a status (5 Hz) after which the sequencer is gone
FORGOTTEN = 2.0  # s of a status without a recipe, but no result: another sequencer that knows no goal


class ClientError(PolicyError):
    """The graph does not answer, or refuses."""


@dataclass(frozen=True)
class SandwichResult:
    """How a run ended: SUCCESS, or the outcome of the step that ended it (ABORTED for a cancelled run)."""

    outcome: str
    reason: str
    steps: tuple[StepResult, ...]

    @property
    def success(self) -> bool:
        """Whether the sandwich is made."""
        return self.outcome == outcomes.SUCCESS


class SandwichClient:
    """Makes sandwiches, gives single instructions, pauses and goes on.

    Attributes:
        node: the client's own node, to subscribe to more.
        on_idle: called about every 100 ms while waiting; False cancels a running goal, whose end is waited
            for, and raises KeyboardInterrupt from every other wait.
        status: newest status of the sequencer, None before the first.
    """

    def __init__(self, name: str = "sandwich_client", namespace: str = "") -> None:
        self.node = Node(name, namespace=namespace)
        self.on_idle: Callable[[], bool] = lambda: True
        self.status: SequencerStatus | None = None
        self.policy: PolicyStatus | None = None
        self._silent = self._forgotten = 0.0  # s, see SILENCE and FORGOTTEN
        self._executor = LightExecutor()
        self._executor.add_node(self.node)
        self._action = ActionClient(self.node, MakeSandwich, "make_sandwich")
        self._instruction = self.node.create_publisher(String, "instruction", QoSProfile(depth=1))
        self._statuses = polled_subscription(self.node, SequencerStatus, "sequencer/status", LATCHED)
        self._policies = polled_subscription(self.node, PolicyStatus, "policy/status", LATCHED)
        self._goal: Any = None

    def __enter__(self) -> SandwichClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the client. A running recipe goes on."""
        self._executor.shutdown()
        self._action.destroy()
        self.node.destroy_node()

    def spin(self, seconds: float) -> None:
        """Handles what arrives during this time (s)."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            self._turn(max(0.0, left))
            if left <= 0.0:
                return

    def _turn(self, longest: float = TURN) -> None:
        """Runs one callback, or waits at most `longest` s for one; then looks at what has arrived."""
        self._executor.spin_once(timeout_sec=longest)
        for message, _ in take_all(self._statuses):
            self._on_status(message)
        for message, _ in take_all(self._policies):
            self._on_policy(message)

    def make(
        self,
        recipe: str,
        resume: bool = False,
        on_feedback: Callable[[MakeSandwich.Feedback], None] | None = None,
    ) -> SandwichResult:
        """Makes a recipe and waits for its end.

        Args:
            recipe: name of a recipe file, without .yaml.
            resume: go on with the interrupted run of this recipe.
            on_feedback: called about twice a second.

        Raises:
            ClientError: no sequencer answers, it is busy with another recipe, or it ended before the recipe.
            KeyboardInterrupt: on_idle ended the wait before the goal was taken.
        """
        self._wait_for(
            self._action.server_is_ready, "no sequencer answers on make_sandwich; is the graph up?"
        )
        goal = self._action.send_goal_async(
            MakeSandwich.Goal(recipe=recipe, resume=resume),
            feedback_callback=(lambda message: on_feedback(message.feedback)) if on_feedback else None,
        )
        try:
            self._wait_for(goal.done, "the sequencer did not answer the goal")
        except KeyboardInterrupt:
            self._spin_until(goal.done, 1.0)
            if goal.done() and goal.result().accepted:
                self._goal = goal.result()
                self._cancel_quietly()
            raise
        self._goal = goal.result()
        if not self._goal.accepted:
            self._goal = None
            raise ClientError("the sequencer is busy with another recipe; abort it first (sequencer/abort).")
        ended = self._goal.get_result_async()
        cancelling = False
        self._silent = self._forgotten = 0.0
        try:
            while not ended.done():
                self._watch_sequencer(recipe)
                if not cancelling and not self.on_idle():
                    cancelling = True
                    self.cancel()
                    self._wait_for(ended.done, "the sequencer did not end the cancelled recipe", idle=False)
        except BaseException:
            self._cancel_quietly()
            raise
        self._goal = None
        result, status = ended.result().result, ended.result().status
        reason = "cancelled" if status == GoalStatus.STATUS_CANCELED and not result.reason else result.reason
        return SandwichResult(result.outcome, reason, tuple(step_result(step) for step in result.steps))

    def cancel(self) -> None:
        """Cancels the goal of `make`, from `on_idle` or `on_feedback`, which does not wait for its end."""
        if self._goal is not None:
            self._goal.cancel_goal_async()

    def _cancel_quietly(self) -> None:
        """On the way out of an exception: the cancellation is sent, its answer is not waited for long."""
        if self._goal is not None:
            answer = self._goal.cancel_goal_async()
            self._spin_until(answer.done, 1.0)
            self._goal = None

    def _watch_sequencer(self, recipe: str) -> None:
        """Spins for a turn; raises ClientError once the sequencer that has our goal is gone."""
        before = time.monotonic()
        self.spin(TURN)
        # Counted in pieces, so that time in which this process itself stood still is no silence.
        passed = min(time.monotonic() - before, 0.2)
        self._silent += passed
        idle = self.status is not None and not self.status.recipe
        self._forgotten = self._forgotten + passed if idle else 0.0
        if self._silent > SILENCE:
            why = f"no status for {SILENCE:g} s"
        elif self._forgotten > FORGOTTEN:
            why = "it was started anew and does not know the goal"
        else:
            return
        self._goal = None  # nobody is left to cancel it
        raise ClientError(
            f"the sequencer ended; start again with --resume (make_sandwich with resume: true) to go on with "
            f"{recipe} ({why})."
        )

    def _spin_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            self._turn()

    def pause(self) -> str:
        """Withdraws the instruction until `resume`. Returns what the sequencer says; raises ClientError."""
        return self._command("pause")

    def resume(self) -> str:
        """Goes on after a pause. Returns what the sequencer says; raises ClientError."""
        return self._command("resume")

    def skip(self) -> str:
        """Leaves this step out. Returns what the sequencer says; raises ClientError."""
        return self._command("skip")

    def retry(self) -> str:
        """Begins this step anew. Returns what the sequencer says; raises ClientError."""
        return self._command("retry")

    def abort(self) -> str:
        """Ends the recipe. Returns what the sequencer says; raises ClientError."""
        return self._command("abort")

    def say(self, text: str) -> None:
        """Publishes one instruction, as soon as a policy listens, and waits until the policy has it.

        Raises:
            ClientError: nobody listens, or the policy does not take it over.
        """
        self._wait_for(self._policy_listens, "no policy listens on instruction; is the graph up?")
        before = self.policy.instruction_number if self.policy is not None else 0
        self._instruction.publish(String(data=text))
        # An equal text changes nothing, so it is in force already.
        self._wait_for(
            lambda: (
                self.policy is not None
                and (self.policy.instruction == text or self.policy.instruction_number > before)
            ),
            f"the policy did not take {text!r} over",
        )

    def stop(self) -> None:
        """Stops the arm: the empty instruction. A running recipe pauses. Raises ClientError."""
        self.say("")

    def _policy_listens(self) -> bool:
        return self.policy is not None and self._instruction.get_subscription_count() > 0

    def _command(self, name: str) -> str:
        client = self.node.create_client(Trigger, f"sequencer/{name}")
        try:
            self._wait_for(client.service_is_ready, f"no sequencer serves sequencer/{name}; is the graph up?")
            answer = client.call_async(Trigger.Request())
            self._wait_for(answer.done, f"sequencer/{name} did not answer")
        finally:
            self.node.destroy_client(client)
        if not answer.result().success:
            raise ClientError(str(answer.result().message))
        return str(answer.result().message)

    def _wait_for(self, condition: Callable[[], bool], otherwise: str, idle: bool = True) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise ClientError(f"{otherwise} (waited {PATIENCE:g} s)")
            if idle and not self.on_idle():
                raise KeyboardInterrupt
            self._turn()

    def _on_status(self, message: SequencerStatus) -> None:
        self.status = message
        self._silent = 0.0

    def _on_policy(self, message: PolicyStatus) -> None:
        self.policy = message
