# SPDX-License-Identifier: Apache-2.0
"""The arm node: parameters in, callbacks that call the loop and its controller, messages out (reports.py)."""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from chefmate_msgs.msg import PolicyStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from chefmate_driver.arm.assembly import (
    open_servos,
    override_in_range,
    protection,
    safety_filter,
    trajectory_from_message,
)
from chefmate_driver.arm.black_box import BlackBox, default_folder
from chefmate_driver.arm.calibration import find_calibration, read_calibration
from chefmate_driver.arm.controller import LEFT_HOLDING, SHADOW, ArmController, ArmState
from chefmate_driver.arm.ending import EndRequest
from chefmate_driver.arm.errors import ArmError, TrajectoryRejectedError, TransitionError
from chefmate_driver.arm.estop import EstopEars
from chefmate_driver.arm.inspection import inspect_servos
from chefmate_driver.arm.loop import ArmLoop
from chefmate_driver.arm.model import LOWER, UPPER
from chefmate_driver.arm.parameters import PARAMETERS
from chefmate_driver.arm.reports import ArmReports
from chefmate_driver.arm.safety import Limits, SafetyFilter
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.settings import follower_kind
from chefmate_driver.arm.teleoperation import Leader, leader_pose
from chefmate_driver.arm.trajectory import Trajectory
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.errors import PortNotFoundError, ServoMissingError
from chefmate_driver.paths import user_path
from chefmate_ros.parameters import declare

TRAJECTORY_TOPIC = "arm_controller/joint_trajectory"
LEADER_TOPIC = "teleop/joint_command"
DRIVING = (PolicyStatus.DRIVING, PolicyStatus.DONE)
HOLD_DEADLINE = 3.0  # s for the arm to stand still when the node ends
PARK_MARGIN = 3.0  # s beyond the computed time of a park move
PARKED_WITHIN = 0.1  # rad, of the park pose as measured: nearer, torque may go off
GRIPS = 0.05  # rad that the gripper is kept from its goal by what it holds
LATCHED = QoSProfile(
    depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
)
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
NOT_CONFIGURED = "the arm node is not configured"


Transition = Callable[["ArmNode", LifecycleState], TransitionCallbackReturn]


def _said(transition: Transition) -> Transition:
    """Logs what a transition raises, which rclpy swallows."""

    @functools.wraps(transition)
    def transit(node: ArmNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except DriverError as error:
            node.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:
            node.get_logger().fatal(f"{transition.__name__} failed by a defect:\n{traceback.format_exc()}")
            raise

    return transit


class ArmNode(LifecycleNode):
    """Lifecycle node `arm`. `end` is told when the process was asked to end: waits look at it."""

    def __init__(self, end: EndRequest) -> None:
        super().__init__("arm")
        self.add_on_set_parameters_callback(self._check_parameters)  # declaring sets, too
        declare(self, PARAMETERS)
        self.end = end
        self.loop: ArmLoop | None = None
        self._units: ArmUnits | None = None
        self._instruction = ""
        # Until configure knows the calibration, nothing moves anyway; a latched e-stop outlives
        # reconfiguration.
        self._controller = ArmController(
            SafetyFilter(Limits(LOWER, UPPER, np.ones(6), np.ones(6), 0.0)),
            lease=self._value("lease"),
            execute=self._value("execute"),
            leader=Leader(self._value("teleop_timeout"), self._value("slow_speed")),
            slow_speed=self._value("slow_speed"),
            # Park is reached by way of home, so that the arm folds above the table and not across it.
            park_path=[self._value("home_pose"), self._value("park_pose")],
        )
        self.reports = ArmReports(
            self, self._controller, lambda: (self.loop, self._units), self._value, TRAJECTORY_TOPIC
        )
        self.ears = EstopEars(self, self._latch)
        # In this order the executor takes what is there at once: the policy's status before the chunk that it
        # was sent before.
        self.create_subscription(PolicyStatus, "policy/status", self._on_policy, LATCHED)
        self.create_subscription(JointTrajectory, TRAJECTORY_TOPIC, self._on_trajectory, 10)
        self.create_subscription(JointState, LEADER_TOPIC, self._on_leader, NEWEST)
        self.create_subscription(String, "instruction", self._on_instruction, NEWEST)
        self.create_service(Trigger, "arm/estop_release", self._release_service)
        self.create_service(SetBool, "arm/torque", self._torque_service)
        self.create_service(SetBool, "arm/teleop", self._teleop_service)
        self.create_service(Trigger, "arm/home", lambda _, reply: self._move_service(reply, "home"))
        self.create_service(Trigger, "arm/park", lambda _, reply: self._move_service(reply, "park"))
        self.add_post_set_parameters_callback(self._apply_parameters)
        if importlib.util.find_spec("control_msgs") is not None:
            from chefmate_driver.arm.action import FollowJointTrajectoryServer

            self._action = FollowJointTrajectoryServer(self, self.take_trajectory, self.carries, self.brake)

    # Lifecycle

    @_said
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finds the servos and begins to read them. Writes nothing."""
        self._connect()
        return TransitionCallbackReturn.SUCCESS

    @_said
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Trajectories are followed from now on; torque goes on if `torque_on_start`."""
        loop = self._running()
        with loop.edit():
            self._controller.activate()
        if not self._value("execute"):
            self.get_logger().warning(f"{SHADOW}; torque stays as it is")
        elif self._value("torque_on_start") and self._controller.state is ArmState.READY:
            if problem := self._switch_torque(True):
                self._controller.active = False
                self.get_logger().error(problem)
                return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"{self._controller.state.value} on {self._value('port')}")
        return super().on_activate(state)

    @_said
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Brakes and holds; torque stays."""
        self._hold("the arm node was deactivated")
        with self._running().edit():
            self._controller.active = False
        return super().on_deactivate(state)

    @_said
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the port; the servos hold what they were told last."""
        self.disconnect()
        return TransitionCallbackReturn.SUCCESS

    @_said
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        self.stand_down()
        return TransitionCallbackReturn.SUCCESS

    @_said
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a defect in a transition: frees the port; the servos hold what they were told last."""
        self.disconnect()
        return TransitionCallbackReturn.SUCCESS

    # Start and end

    def start(self) -> bool:
        """Configures and activates; the reason of a failure has been logged."""
        done = TransitionCallbackReturn.SUCCESS
        return bool(self.trigger_configure() == done and self.trigger_activate() == done)

    def stand_down(self) -> None:
        """Brakes, holds, parks where the arm can and is told to, and frees the port."""
        if self.loop is None:
            return
        log = self.get_logger()
        controller = self._controller
        with self.loop.edit():
            controller.leave("the arm node ends")
        held = self._hold("the arm node ends")
        if controller.torque and controller.active and held and self._value("park_on_shutdown"):
            log.info(self._park_now())
        elif controller.torque:
            log.info("holding, torque stays on" if held else "still moving, torque stays on")
        else:
            log.info(f"{controller.state.value}: torque was not on, nothing to hold")
        self.reports.publish_health()
        self.disconnect()

    def destroy_node(self) -> None:
        """Ends the e-stop's thread, too."""
        self.ears.close()
        super().destroy_node()

    def disconnect(self) -> None:
        """Ends the loop, frees the port and writes what the black box has to write."""
        if self.loop is not None:
            self.loop.stop()
            if self.loop.black_box is not None:
                self.loop.black_box.close()
            self.loop = None
            self._controller.disconnect()

    def _connect(self) -> None:
        if not self._value("port"):
            raise ArmError("the parameter `port` is empty; name the serial port of the servo bus")
        units = ArmUnits(read_calibration(find_calibration(self._value("calibration"))))
        self._controller.safety = safety_filter(self._value, units)
        stable = [""]  # name under which the device is found after it was unplugged

        def open_again() -> ArmServos:
            servos = open_servos(self._value, units, stable[0])
            stable[0] = servos.bus.stable_port
            return servos

        folder = self._value("black_box_folder")
        rate = self._value("rate")
        loop = ArmLoop(
            self._controller,
            open_again,
            rate=rate,
            answer_timeout=self._value("answer_timeout"),
            on_sample=self.reports.publish_sample,
            inspect=lambda servos: inspect_servos(servos, follower_kind(self._value("supply_voltage"))),
            protection=protection(self._value),
            black_box=BlackBox(
                user_path(folder, "black_box_folder") if folder else default_folder(),
                self.get_fully_qualified_name(),
                rate,
                self._value("black_box_files"),
            ),
            priority=self._value("realtime_priority"),
        )
        deadline = time.monotonic() + self._value("port_timeout")
        while True:
            try:
                loop.connect()
                break
            except (PortNotFoundError, ServoMissingError):
                if time.monotonic() >= deadline or self.end.told.wait(0.05):
                    raise
        if self._controller.torque:
            self.get_logger().warning(LEFT_HOLDING)
        self._units, self.loop = units, loop
        loop.start()

    def _hold(self, reason: str) -> bool:
        """Brakes and waits until the arm stands. False if it could not be confirmed in time."""
        self.brake(reason)
        return self._until(lambda: self._controller.at_rest or not self._controller.torque, HOLD_DEADLINE)

    def _park_now(self) -> str:
        """Parks and switches torque off; what came of it."""
        controller = self._controller
        with self._running().edit():
            try:
                duration = self._move("park")
            except ArmError as error:
                return f"cannot park: {error}; holding, torque stays on"
        self.get_logger().info(
            f"parking, {duration:.1f} s; the signal once more makes the arm hold where it is"
        )
        arrived = self._until(lambda: controller.at_rest or self.end.again.is_set(), duration + PARK_MARGIN)
        if self.end.again.is_set():
            held = self._hold("told to end at once")
            return "parking was cut short: " + ("holding" if held else "still moving") + ", torque stays on"
        off = np.abs(controller.measured[:5] - np.array(self._value("park_pose"))).max()
        if not arrived or controller.reason or off > PARKED_WITHIN:
            self._hold("the park pose was not reached")
            why = controller.reason or f"{off:.2f} rad off after {duration + PARK_MARGIN:.0f} s"
            return f"did not reach the park pose: {why}; holding, torque stays on"
        if controller.grips(GRIPS):
            return "parked; the gripper holds something, so torque stays on"
        problem = self._switch_torque(False)
        return f"parked; torque stays on: {problem}" if problem else "parked, torque is off"

    def _until(self, condition: Callable[[], bool], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    # Callbacks

    def take_trajectory(self, message: JointTrajectory) -> Trajectory:
        """Checks a message and hands it to the controller. TrajectoryRejectedError, already counted and
        logged."""
        now = time.monotonic()
        try:
            trajectory = trajectory_from_message(message, now, time.time_ns())
            if self.loop is None:
                raise TrajectoryRejectedError(NOT_CONFIGURED)
            with self.loop.edit():
                self._controller.accept(trajectory, now)
        except TrajectoryRejectedError as error:
            self._controller.reject()
            self.reports.refusals.trajectory = str(error)
            self._note("rejected", str(error))
            self.get_logger().warning(f"trajectory rejected: {error}", throttle_duration_sec=1.0)
            raise
        first, last = trajectory.positions[0], trajectory.positions[-1]
        self._note(
            "trajectory",
            f"{'leased' if trajectory.leased else 'one-shot'}, {len(trajectory.times)} points, starts in "
            f"{trajectory.start - now:.3f} s, takes {trajectory.times[-1] - trajectory.start:.3f} s, from "
            f"{np.round(first, 4).tolist()} to {np.round(last, 4).tolist()}",
        )
        return trajectory

    def carries(self, trajectory: Trajectory) -> tuple[bool, ArmState, str]:
        """Whether the trajectory still runs or waits, and the arm's state and reason."""
        return self._controller.carries(trajectory), self._controller.state, self._controller.reason

    def brake(self, reason: str) -> None:
        """Stops what moves."""
        with self._running().edit():
            self._controller.brake(reason)

    def _on_trajectory(self, message: JointTrajectory) -> None:
        try:
            self.take_trajectory(message)
        except TrajectoryRejectedError:
            return  # counted and logged where it was found

    def _on_policy(self, message: PolicyStatus) -> None:
        said = f"{message.state} ({message.reason})" if message.reason else message.state
        if said != self._controller.policy_state:
            self._note("policy", said)
        with self._editing():
            self._controller.heartbeat(message.state in DRIVING, said, time.monotonic())

    def _on_leader(self, message: JointState) -> None:
        now, wall = time.monotonic(), time.time_ns()
        try:
            pose = leader_pose(message.name, message.position)
        except TrajectoryRejectedError as error:
            refusals = self.reports.refusals
            refusals.teleop, refusals.teleop_count = str(error), refusals.teleop_count + 1
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        at = now - max(wall - stamp, 0) * 1e-9 if stamp else now
        with self._editing():
            self._controller.leader.heard(pose, at, now)

    def _on_instruction(self, message: String) -> None:
        if message.data != self._instruction:  # plain `ros2 topic pub` repeats
            self._instruction = message.data
            self._note("instruction", message.data or "(stop)")

    def _latch(self, reason: str) -> str:
        """In the e-stop's own thread: latches it; what that did."""
        with self._editing():
            self._controller.latch_estop(reason)
            did = self._controller.estop_does
        self.get_logger().warning(f"{reason}; {did}")
        return f"latched: {did}"

    def _release_service(self, _: Trigger.Request, reply: Trigger.Response) -> Trigger.Response:
        with self._editing():
            self._controller.release_estop()
        self._note("request", "arm/estop_release")
        reply.success, reply.message = True, f"released; the arm is {self._controller.state.value}"
        return reply

    def _torque_service(self, request: SetBool.Request, reply: SetBool.Response) -> SetBool.Response:
        self._note("request", f"arm/torque {request.data}")
        problem = self._switch_torque(request.data)
        reply.success = not problem
        reply.message = problem or (
            "torque is on, the pose is held" if request.data else "torque is off, the arm is limp"
        )
        return reply

    def _teleop_service(self, request: SetBool.Request, reply: SetBool.Response) -> SetBool.Response:
        self._note("request", f"arm/teleop {request.data}")
        reply.success = True
        if self.loop is None:
            reply.success, reply.message = False, NOT_CONFIGURED
            return reply
        try:
            with self.loop.edit():
                if request.data:
                    self._controller.engage(time.monotonic())
                else:
                    self._controller.disengage("arm/teleop false was called")
        except TransitionError as error:
            reply.success, reply.message = False, str(error)
            return reply
        reply.message = (
            "engaging: slowly to the leader's pose, then following it"
            if request.data
            else "braking, then holding"
        )
        return reply

    def _move_service(self, reply: Trigger.Response, pose: str) -> Trigger.Response:
        self._note("request", f"arm/{pose}")
        if self.loop is None:
            reply.success, reply.message = False, NOT_CONFIGURED
            return reply
        try:
            with self.loop.edit():
                if self._controller.leaving:
                    raise ArmError("the arm node ends")
                duration = self._move(pose)
        except ArmError as error:
            reply.success, reply.message = False, str(error)
            return reply
        reply.success, reply.message = (
            True,
            f"on the way, {duration:.1f} s; arm/health says HOLDING at the end",
        )
        return reply

    def _move(self, pose: str) -> float:
        path = self._controller.park_path
        waypoints = path[:1] if pose == "home" else path
        return self._controller.move_slowly(waypoints, self._value("slow_speed"), time.monotonic())

    def _switch_torque(self, on: bool) -> str:
        """Empty, or why it did not work."""
        if self.loop is None:
            return NOT_CONFIGURED
        try:
            self.loop.set_torque(on)
        except (DriverError, OSError) as error:
            return str(error)
        return ""

    def _check_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if isinstance(parameter.value, float) and not math.isfinite(parameter.value):
                return SetParametersResult(successful=False, reason=f"{parameter.name} must be finite")
        return SetParametersResult(successful=True)

    def _apply_parameters(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == "speed_override":
                with self._editing():
                    self._controller.safety.speed_override = override_in_range(parameter.value)

    def _note(self, kind: str, text: str) -> None:
        """Tells the black box of a command."""
        if self.loop is not None and self.loop.black_box is not None:
            self.loop.black_box.note(kind, text)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _editing(self) -> AbstractContextManager[Any]:
        """To hold while the controller is changed, with or without a loop that runs it."""
        loop = self.loop  # the e-stop's thread looks, too
        return nullcontext() if loop is None else loop.edit()

    def _running(self) -> ArmLoop:
        if self.loop is None:
            raise ArmError(NOT_CONFIGURED)
        return self.loop


def main(args: list[str] | None = None) -> int:
    """Runs the node until a signal. 0: ended by a signal; 1: could not start, or the control loop died."""
    from chefmate_driver.arm.ending import run

    return run(ArmNode, args)


if __name__ == "__main__":
    sys.exit(main())
