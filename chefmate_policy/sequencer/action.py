# SPDX-License-Identifier: Apache-2.0
"""An action server whose goals run in the node's timers instead of in a thread or a coroutine.

rclpy's executor of ROS 2 Jazzy polls a waiting coroutine in a busy loop. Here a goal is EXECUTING from its
acceptance on, and its execute callback, which only hands the result over, runs once the result is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chefmate_msgs.action import MakeSandwich
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node

from chefmate_policy.sequencer.outcomes import SUCCESS


class _Deferred(ActionServer):  # type: ignore[misc]
    """Keeps rclpy from calling the execute callback before `conclude`."""

    def notify_execute(self, goal_handle: Any, execute_callback: Any) -> None:
        """Called by `goal_handle.execute()`, which has set the goal's state before."""

    def conclude(self, goal_handle: Any, callback: Callable[[Any], MakeSandwich.Result]) -> None:
        """Has the executor call the callback, which ends the goal and returns its result."""
        super().notify_execute(goal_handle, callback)


class MakeSandwichServer:
    """/make_sandwich: one goal at a time."""

    def __init__(
        self,
        node: Node,
        free: Callable[[], bool],
        accepted: Callable[[str, bool], None],
        cancelled: Callable[[], None],
    ) -> None:
        """
        Args:
            node: whose executor and namespace are used.
            free: whether a goal may be accepted now.
            accepted: called with recipe and resume of an accepted goal.
            cancelled: called when the client wants to cancel.
        """
        self._free, self._accepted, self._cancelled = free, accepted, cancelled
        self._goal: Any = None
        self._server = _Deferred(
            node,
            MakeSandwich,
            "make_sandwich",
            execute_callback=lambda goal: MakeSandwich.Result(),
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )

    @property
    def busy(self) -> bool:
        """Whether a goal is being executed."""
        return self._goal is not None

    def feedback(self, feedback: MakeSandwich.Feedback) -> None:
        """Sends feedback to the goal's client, if there is a goal."""
        if self._goal is not None:
            self._goal.publish_feedback(feedback)

    def finish(self, result: MakeSandwich.Result) -> None:
        """Ends the goal, if there is one."""
        if self._goal is None:
            return
        goal, self._goal = self._goal, None

        def end(handle: Any) -> MakeSandwich.Result:
            if handle.is_cancel_requested:
                handle.canceled()
            elif result.outcome == SUCCESS:
                handle.succeed()
            else:
                handle.abort()
            return result

        self._server.conclude(goal, end)

    def destroy(self) -> None:
        """Ends the server."""
        self._server.destroy()

    def _on_goal(self, request: MakeSandwich.Goal) -> GoalResponse:
        return GoalResponse.ACCEPT if self._goal is None and self._free() else GoalResponse.REJECT

    def _on_accepted(self, goal: Any) -> None:
        self._goal = goal
        goal.execute()
        self._accepted(goal.request.recipe, goal.request.resume)

    def _on_cancel(self, goal: Any) -> CancelResponse:
        if self._goal is None or goal.goal_id != self._goal.goal_id:
            return CancelResponse.REJECT
        self._cancelled()
        return CancelResponse.ACCEPT
