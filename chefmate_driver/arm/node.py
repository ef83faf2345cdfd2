# SPDX-License-Identifier: Apache-2.0
"""The arm node: parameters in, callbacks that call the loop and its controller, messages out."""

from __future__ import annotations

import array
import importlib.util
import math
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import rclpy
from chefmate_msgs.msg import ArmHealth, PolicyStatus
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from chefmate_driver.arm.assembly import (
    open_servos,
    override_in_range,
    safety_filter,
    trajectory_from_message,
)
from chefmate_driver.arm.calibration import find_calibration, read_calibration
from chefmate_driver.arm.controller import SHADOW, ArmController, ArmState
from chefmate_driver.arm.errors import ArmError, TrajectoryRejectedError
from chefmate_driver.arm.health import diagnostics_message, health_message, time_message
from chefmate_driver.arm.loop import ArmLoop, Sample
from chefmate_driver.arm.model import JOINT_NAMES, LOWER, UPPER
from chefmate_driver.arm.parameters import PARAMETERS
from chefmate_driver.arm.safety import Limits, SafetyFilter
from chefmate_driver.arm.trajectory import Trajectory
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.errors import PortNotFoundError, ServoMissingError
from chefmate_ros.parameters import declare
from chefmate_ros.running import Signals

TRAJECTORY_TOPIC = "arm_controller/joint_trajectory"
RCLError = rclpy_implementation.RCLError  # rclpy has no public name for it
DRIVING = (PolicyStatus.DRIVING, PolicyStatus.DONE)
HOLD_DEADLINE = 3.0  # s for the arm to stand still when the node ends
PARK_MARGIN = 3.0  # s beyond the computed time of a park move
LATCHED = QoSProfile(
    depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
)


class ArmNode(LifecycleNode):
    """Lifecycle node `arm`. `stop` is set when the process was told to end: waits look at it."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("arm")
        self.add_on_set_parameters_callback(self._check_parameters)  # declaring sets, too
        declare(self, PARAMETERS)
        self.stop_requested = stop
        self.loop: ArmLoop | None = None
        self._units: ArmUnits | None = None
        self._rejection = ""
        # Until configure knows the calibration, nothing moves anyway; a latched e-stop outlives
        # reconfiguration.
        self._controller = ArmController(
            SafetyFilter(Limits(LOWER, UPPER, np.ones(6), np.ones(6), 0.0)),
            lease=self._value("lease"),
            execute=self._value("execute"),
        )
        self._joint_state = JointState(name=list(JOINT_NAMES))
        # Plain publishers: they speak in every lifecycle state.
        self._joint_states = self.create_publisher(JointState, "joint_states", 10)
        self._health = self.create_publisher(ArmHealth, "arm/health", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # In this order the executor takes what is there at once: stops first, and the policy's status before
        # the chunk that it was sent before.
        self.create_subscription(Bool, "estop", self._on_estop, 10)
        self.create_subscription(PolicyStatus, "policy/status", self._on_policy, LATCHED)
        self.create_subscription(JointTrajectory, TRAJECTORY_TOPIC, self._on_trajectory, 10)
        self.create_service(Trigger, "arm/estop", self._estop_service)
        self.create_service(Trigger, "arm/estop_release", self._release_service)
        self.create_service(SetBool, "arm/torque", self._torque_service)
        self.create_service(Trigger, "arm/home", lambda _, reply: self._move_service(reply, "home"))
        self.create_service(Trigger, "arm/park", lambda _, reply: self._move_service(reply, "park"))
        self.create_timer(1.0 / self._value("health_rate"), self._publish_health)
        self.create_timer(1.0, self._publish_diagnostics)
        self.add_post_set_parameters_callback(self._apply_parameters)
        if importlib.util.find_spec("control_msgs") is not None:
            from chefmate_driver.arm.action import FollowJointTrajectoryServer

            self._action = FollowJointTrajectoryServer(self, self.take_trajectory, self.carries, self.brake)

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finds the servos and begins to read them. Writes nothing."""
        try:
            self._connect()
        except DriverError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

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

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Brakes and holds; torque stays."""
        self._hold("the arm node was deactivated")
        with self._running().edit():
            self._controller.active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the port; the servos hold what they were told last."""
        self.disconnect()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        self.stand_down()
        return TransitionCallbackReturn.SUCCESS

    # Start and end

    def start(self) -> bool:
        """Configures and activates; the reason of a failure has been logged."""
        done = TransitionCallbackReturn.SUCCESS
        return bool(self.trigger_configure() == done and self.trigger_activate() == done)

    def stand_down(self) -> None:
        """Brakes, holds, parks if told so, and frees the port. Torque stays on unless the arm is parked."""
        if self.loop is None:
            return
        held = self._hold("the arm node ends")
        parked = held and self._value("park_on_shutdown") and self._controller.torque and self._park_now()
        if parked:
            self.get_logger().info("parked, torque is off")
        elif self._controller.torque:
            self.get_logger().info("holding, torque stays on" if held else "still moving, torque stays on")
        else:
            self.get_logger().info(f"{self._controller.state.value}: torque was not on, nothing to hold")
        self._publish_health()
        self.disconnect()

    def disconnect(self) -> None:
        """Ends the loop and frees the port."""
        if self.loop is not None:
            self.loop.stop()
            self.loop = None
            self._controller.disconnect()

    def _connect(self) -> None:
        if not self._value("port"):
            raise ArmError("the parameter `port` is empty; name the serial port of the servo bus")
        units = ArmUnits(read_calibration(find_calibration(self._value("calibration"))))
        self._controller.safety = safety_filter(self._value, units)
        loop = ArmLoop(
            self._controller,
            lambda: open_servos(self._value, units),
            rate=self._value("rate"),
            answer_timeout=self._value("answer_timeout"),
            on_sample=self._publish_sample,
        )
        deadline = time.monotonic() + self._value("port_timeout")
        while True:
            try:
                loop.connect()
                break
            except (PortNotFoundError, ServoMissingError):
                if time.monotonic() >= deadline or self.stop_requested.wait(0.05):
                    raise
        self._units, self.loop = units, loop
        loop.start()

    def _hold(self, reason: str) -> bool:
        """Brakes and waits until the arm stands. False if it could not be confirmed in time."""
        self.brake(reason)
        return self._until(lambda: self._controller.at_rest or not self._controller.torque, HOLD_DEADLINE)

    def _park_now(self) -> bool:
        with self._running().edit():
            try:
                duration = self._move("park")
            except ArmError as error:
                self.get_logger().warning(f"cannot park: {error}")
                return False
        arrived = self._until(lambda: self._controller.at_rest, duration + PARK_MARGIN)
        if not arrived or self._controller.reason:
            self.get_logger().warning(f"did not reach the park pose: {self._controller.reason or 'too slow'}")
            return False
        return self._switch_torque(False) == ""

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
                raise TrajectoryRejectedError("the arm node is not configured")
            with self.loop.edit():
                self._controller.accept(trajectory, now)
        except TrajectoryRejectedError as error:
            self._controller.reject()
            self._rejection = str(error)
            self.get_logger().warning(f"trajectory rejected: {error}", throttle_duration_sec=1.0)
            raise
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
        with self._editing():
            self._controller.heartbeat(message.state in DRIVING, said, time.monotonic())

    def _on_estop(self, message: Bool) -> None:
        if message.data:
            self._latch("e-stop: true on the topic estop")

    def _latch(self, reason: str) -> None:
        with self._editing():
            self._controller.latch_estop(reason)
        self.get_logger().warning(f"{reason}; release with arm/estop_release")

    def _estop_service(self, _: Trigger.Request, reply: Trigger.Response) -> Trigger.Response:
        self._latch("e-stop: arm/estop was called")
        reply.success, reply.message = True, "latched: braking, then holding; arm/estop_release clears it"
        return reply

    def _release_service(self, _: Trigger.Request, reply: Trigger.Response) -> Trigger.Response:
        with self._editing():
            self._controller.release_estop()
        reply.success, reply.message = True, f"released; the arm is {self._controller.state.value}"
        return reply

    def _torque_service(self, request: SetBool.Request, reply: SetBool.Response) -> SetBool.Response:
        problem = self._switch_torque(request.data)
        reply.success = not problem
        reply.message = problem or (
            "torque is on, the pose is held" if request.data else "torque is off, the arm is limp"
        )
        return reply

    def _move_service(self, reply: Trigger.Response, pose: str) -> Trigger.Response:
        if self.loop is None:
            reply.success, reply.message = False, "the arm node is not configured"
            return reply
        try:
            with self.loop.edit():
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
        home, park = self._value("home_pose"), self._value("park_pose")
        # Park is reached by way of home, so that the arm folds above the table and not across it.
        waypoints = [home] if pose == "home" else [home, park]
        return self._controller.move_slowly(waypoints, self._value("slow_speed"), time.monotonic())

    def _switch_torque(self, on: bool) -> str:
        """Empty, or why it did not work."""
        if self.loop is None:
            return "the arm node is not configured"
        try:
            self.loop.set_torque(on)
        except (DriverError, OSError) as error:
            return str(error)
        except FutureTimeoutError:
            return "the control loop did not answer; see /diagnostics"
        return ""

    def _check_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if isinstance(parameter.value, float) and not math.isfinite(parameter.value):
                return SetParametersResult(successful=False, reason=f"{parameter.name} must be finite")
        return SetParametersResult(successful=True)

    def _apply_parameters(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == "speed_override":
                self._controller.safety.speed_override = override_in_range(parameter.value)

    # Messages out

    def _publish_sample(self, sample: Sample) -> None:
        """In the loop's thread."""
        message = self._joint_state
        message.header.stamp = time_message(sample.stamp)
        message.position = array.array("d", sample.position.tobytes())
        message.velocity = array.array("d", sample.velocity.tobytes())
        message.effort = array.array("d", sample.load)
        self._joint_states.publish(message)

    def _publish_health(self) -> None:
        self._health.publish(health_message(self._controller, self.loop, self._units))

    def _publish_diagnostics(self) -> None:
        message = diagnostics_message(
            self.get_fully_qualified_name().lstrip("/"),
            health_message(self._controller, self.loop, self._units),
            port=self._value("port"),
            rate=self._value("rate"),
            publishers=self.count_publishers(TRAJECTORY_TOPIC),
            rejection=self._rejection,
            now=time.time_ns(),
        )
        self._diagnostics.publish(message)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _editing(self) -> AbstractContextManager[Any]:
        """To hold while the controller is changed, with or without a loop that runs it."""
        return nullcontext() if self.loop is None else self.loop.edit()

    def _running(self) -> ArmLoop:
        if self.loop is None:
            raise ArmError("the arm node is not configured")
        return self.loop


def main(args: list[str] | None = None) -> int:
    """Runs the node until a signal. 0: ended by a signal; 1: could not start, or the control loop died."""
    stop = threading.Event()
    # Further signals change nothing: the arm stands, and the port is freed, before the process ends.
    signals = Signals(stop.set)
    try:
        # rclpy's own handlers would end the context before the arm stands.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = ArmNode(stop)
    except (ParameterException, RCLError, DriverError) as error:
        rclpy.logging.get_logger("arm").fatal(f"cannot start: {' '.join(str(error).split())}")
        signals.ignore()
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=_spin, args=(executor,), name="arm-executor", daemon=True)
    spinner.start()
    code = 0
    try:
        if node.get_parameter("autostart").value and not node.start() and not stop.is_set():
            code = 1
            stop.set()
        while not stop.wait(0.2):
            if not spinner.is_alive() or (node.loop is not None and not node.loop.alive):
                node.get_logger().fatal("a thread of the arm node died; the servos hold their last goal")
                code = 1
                break
        node.stand_down()
    finally:
        signals.ignore()
        executor.shutdown(timeout_sec=1.0)
        spinner.join(2.0)
        node.destroy_node()
        rclpy.try_shutdown()
    return code


def _spin(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except ExternalShutdownException:
        return


if __name__ == "__main__":
    sys.exit(main())
