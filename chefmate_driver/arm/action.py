# SPDX-License-Identifier: Apache-2.0
"""follow_joint_trajectory, served where control_msgs can be imported (it is not on PyPI)."""

from __future__ import annotations

from collections.abc import Callable

from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from trajectory_msgs.msg import JointTrajectory

from chefmate_driver.arm.controller import ArmState, why_aborted
from chefmate_driver.arm.errors import TrajectoryRejectedError
from chefmate_driver.arm.trajectory import Trajectory

LOOK_PERIOD = 0.05  # s between looks at whether the goal's trajectory has ended


class FollowJointTrajectoryServer:
    """One goal at a time runs; a newer goal, or a trajectory on the topic, ends the older one as aborted.

    Tolerances in the goal are not checked: the goal ends when the arm was commanded to its last point.
    """

    def __init__(
        self,
        node: Node,
        take: Callable[[JointTrajectory], Trajectory],
        carries: Callable[[Trajectory], tuple[bool, ArmState, str]],
        brake: Callable[[str], None],
    ) -> None:
        """take: hands a message to the controller. carries: does it still run, state, reason. brake: stops
        the arm."""
        self._take, self._carries, self._brake = take, carries, brake
        self._goals: list[tuple[ServerGoalHandle, Trajectory, Future]] = []
        self._server = ActionServer(
            node,
            FollowJointTrajectory,
            "arm_controller/follow_joint_trajectory",
            self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )
        node.create_timer(LOOK_PERIOD, self._look)

    async def _execute(self, handle: ServerGoalHandle) -> FollowJointTrajectory.Result:
        result = FollowJointTrajectory.Result()
        try:
            trajectory = self._take(handle.request.trajectory)
        except TrajectoryRejectedError as error:
            handle.abort()
            result.error_code, result.error_string = FollowJointTrajectory.Result.INVALID_GOAL, str(error)
            return result
        ended: Future = Future()
        self._goals.append((handle, trajectory, ended))
        result.error_code, result.error_string = await ended
        return result

    def _look(self) -> None:
        for goal in list(self._goals):
            handle, trajectory, ended = goal
            running, state, reason = self._carries(trajectory)
            success = FollowJointTrajectory.Result.SUCCESSFUL
            if running and handle.is_cancel_requested:
                self._brake("the goal was cancelled")
                handle.canceled()
                ended.set_result((success, "cancelled: braking, then holding"))
            elif running:
                continue
            elif state is ArmState.HOLDING and not reason:
                handle.succeed()
                ended.set_result((success, ""))
            else:
                handle.abort()
                ended.set_result(
                    (FollowJointTrajectory.Result.PATH_TOLERANCE_VIOLATED, why_aborted(state, reason))
                )
            self._goals.remove(goal)
