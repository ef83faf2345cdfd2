# SPDX-License-Identifier: Apache-2.0
"""teleop_node: publishes a leader arm's pose as the follower's angles. It commands nothing by itself: the arm
listens only while teleoperation is engaged (service arm/teleop)."""

from __future__ import annotations

import array
import sys
import time
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from chefmate_driver.arm.calibration import find_calibration, read_calibration
from chefmate_driver.arm.health import time_message
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.errors import PortNotFoundError, ServoMissingError
from chefmate_driver.feetech.ports import stable_name
from chefmate_driver.teleop.errors import TeleopError
from chefmate_driver.teleop.leader import Leader, LeaderPort, Reading
from chefmate_driver.teleop.reader import LeaderReader, ReaderState, ReaderStatus
from chefmate_ros.parameters import Parameter, declare
from chefmate_ros.running import run

COMMAND_TOPIC = "teleop/joint_command"
SLOW_SHARE = 0.9  # of the wanted rate, below which a warning is due

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("autostart", True, "Configure and activate by itself; false: wait for lifecycle services."),
    Parameter("port", "", "Serial port of the leader arm, for example a link in /dev/serial/by-id."),
    Parameter("baudrate", 1_000_000, "Speed of the bus, bit/s.", (38_400, 1_000_000)),
    Parameter("port_timeout", 0.0, "How long configure waits for port and servos, s.", (0.0, 600.0)),
    Parameter("reply_timeout", 0.01, "Silence after which a servo's reply counts as lost, s.", (0.001, 0.5)),
    Parameter("retries", 2, "How often a request on the bus is repeated.", (0, 5)),
    Parameter("answer_timeout", 0.1, "Silence after which the leader counts as lost, s.", (0.02, 5.0)),
    Parameter("calibration", "", "LeRobot calibration of the leader: path of the JSON file, or its id."),
    Parameter("rate", 100.0, "Readings and messages per second, Hz.", (50.0, 100.0)),
    Parameter(
        "max_voltage",
        9.0,
        "Highest supply of a leader's servos, V (0: any); refuses a follower, which would go limp.",
        (0.0, 15.0),
    ),
)


class TeleopNode(LifecycleNode):  # type: ignore[misc]
    """Reads the leader once configured, publishes while active. Diagnostics flow in every lifecycle state."""

    def __init__(self, name: str = "teleop", **arguments: Any) -> None:
        super().__init__(name, **arguments)
        declare(self, PARAMETERS)
        self._reader: LeaderReader | None = None
        self._active = False
        self.fault = ""  # why the last configure failed; empty: it did not
        self._message = JointState(name=list(JOINT_NAMES))
        self._commands = self.create_publisher(JointState, COMMAND_TOPIC, QoSProfile(depth=1))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._publish_diagnostics)

    def value(self, name: str) -> Any:
        """Value of a declared parameter."""
        return self.get_parameter(name).value

    def status(self) -> ReaderStatus | None:
        """Figures of the leader's readings; None while not configured."""
        return None if self._reader is None else self._reader.status()

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finds the leader, makes it limp and begins to read it."""
        try:
            self._connect()
        except DriverError as error:
            self.fault = str(error)
            self.get_logger().error(self.fault)
            return TransitionCallbackReturn.FAILURE
        self.fault = ""
        self.get_logger().info(f"leader found on {self.value('port')}, its torque is off")
        return TransitionCallbackReturn.SUCCESS

    def _connect(self) -> None:
        if not self.value("port"):
            raise TeleopError("the parameter `port` is empty; name the serial port of the leader arm")
        path = find_calibration(self.value("calibration"), leader=True)
        units = ArmUnits(read_calibration(path))
        place = LeaderPort(
            *(self.value(name) for name in ("port", "baudrate", "reply_timeout", "retries", "max_voltage"))
        )

        def open_leader() -> Leader:
            nonlocal place
            leader = Leader(place, units)
            # After a loss it is looked for under the name that stays, whatever number the kernel gives it.
            place = replace(place, port=stable_name(place.port))
            return leader

        reader = LeaderReader(
            open_leader,
            rate=self.value("rate"),
            answer_timeout=self.value("answer_timeout"),
            deliver=self._publish,
            say=self._say,
        )
        deadline = time.monotonic() + self.value("port_timeout")
        while True:
            try:
                reader.connect()
                break
            except (PortNotFoundError, ServoMissingError):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
        reader.start()
        self._reader = reader

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publishes from now on."""
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Falls silent; an engaged arm brakes and holds."""
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the port."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        self._active = False
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Ends the reading thread and frees the port. Call before the node is destroyed."""
        if self._reader is not None:
            self._reader.stop()
            self._reader = None

    # In the reader's thread

    def _publish(self, reading: Reading) -> None:
        if not self._active:
            return
        self._message.header.stamp = time_message(reading.stamp)
        self._message.position = array.array("d", reading.position.tobytes())
        self._commands.publish(self._message)

    def _say(self, good: bool, text: str) -> None:
        if good:
            self.get_logger().info(text)
        else:
            self.get_logger().error(f"leader lost, nothing is published: {text}")

    # Diagnostics

    def _publish_diagnostics(self) -> None:
        status = self.status()
        level, text = self._judge(status)
        figures: dict[str, object] = {}
        if status is not None:
            figures = {
                "state": status.state.value,
                "active": self._active,
                "rate_hz": f"{status.rate:.1f}",
                "age_s": "" if status.age is None else f"{status.age:.3f}",
                "readings": status.readings,
                "reply_errors": status.errors,
                "losses": status.losses,
            }
        report = DiagnosticStatus(
            level=level,
            name=f"{self.get_fully_qualified_name().lstrip('/')}: leader",
            hardware_id=self.value("port"),
            message=text,
            values=[KeyValue(key=key, value=str(value)) for key, value in figures.items()],
        )
        message = DiagnosticArray(status=[report])
        message.header.stamp = time_message(time.time_ns())
        self._diagnostics.publish(message)

    def _judge(self, status: ReaderStatus | None) -> tuple[bytes, str]:
        """Level and text of the diagnostic."""
        if status is None:
            if self.fault:
                return DiagnosticStatus.ERROR, self.fault
            return DiagnosticStatus.WARN, "not configured"
        if status.state is not ReaderState.READING:
            return DiagnosticStatus.ERROR, f"leader lost, nothing is published: {status.reason}"
        if not self._active:
            return DiagnosticStatus.WARN, "inactive, nothing is published"
        if 0.0 < status.rate < SLOW_SHARE * self.value("rate"):
            return DiagnosticStatus.WARN, f"{status.rate:.1f} of {self.value('rate'):g} Hz"
        return DiagnosticStatus.OK, f"{status.rate:.1f} Hz"


def start(node: TeleopNode) -> None:
    """Configures and activates the node if its parameter `autostart` says so. TeleopError if that fails."""
    if not node.value("autostart"):
        return
    if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
        raise TeleopError("the leader cannot be used, see the error above")
    node.trigger_activate()


def main(args: list[str] | None = None) -> int:
    """Runs the node until ctrl-C or SIGTERM (0); 1: the leader cannot be used."""
    return run(TeleopNode, args, "teleop", (DriverError,), started=start)


if __name__ == "__main__":
    sys.exit(main())
