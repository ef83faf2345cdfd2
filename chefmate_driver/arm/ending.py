# SPDX-License-Identifier: Apache-2.0
"""The arm node's process: how it runs, and how it ends so that the arm stands before the process goes."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions

from chefmate_driver.errors import DriverError
from chefmate_ros.executor import LightExecutor
from chefmate_ros.running import Signals
from chefmate_ros.spinning import SpinningThread

if TYPE_CHECKING:
    from chefmate_driver.arm.node import ArmNode

RCLError = rclpy_implementation.RCLError  # rclpy has no public name for it
# s after the first signal from which another one counts as a second wish. A terminal and `ros2 launch` may
# both pass the same ctrl-C on; launch's SIGTERM comes 5 s later.
SAME_WISH = 0.5
# s that another Python thread may keep the interpreter while the control loop waits for it; 5 ms by default.
SWITCH_INTERVAL = 2e-4


class EndRequest:
    """The wish to end, and a second one: at once. Called by `Signals` in its thread."""

    def __init__(self) -> None:
        self.told, self.again = threading.Event(), threading.Event()
        self._first = 0.0

    def __call__(self) -> None:
        if not self.told.is_set():
            self._first = time.monotonic()
            self.told.set()
        elif time.monotonic() - self._first > SAME_WISH:
            self.again.set()


def run(make: Callable[[EndRequest], ArmNode], args: list[str] | None) -> int:
    """Runs the arm node until a signal. 0: ended by a signal; 1: could not start, or a thread died."""
    end = EndRequest()
    # The arm stands, and the port is freed, before the process ends.
    signals = Signals(end)
    try:
        # rclpy's own handlers would end the context before the arm stands.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make(end)
    except (ParameterException, RCLError, DriverError) as error:
        rclpy.logging.get_logger("arm").fatal(f"cannot start: {' '.join(str(error).split())}")
        signals.ignore()
        rclpy.try_shutdown()
        return 1
    sys.setswitchinterval(SWITCH_INTERVAL)
    executor = LightExecutor()
    executor.add_node(node)
    spinner = SpinningThread(executor, "arm-executor")
    code = 0
    try:
        if node.get_parameter("autostart").value and not node.start() and not end.told.is_set():
            code = 1
            end.told.set()
        # What has been made by now lives as long as the node: the collector need not look at it again, which
        # would stop the control loop for tens of milliseconds.
        gc.collect()
        gc.freeze()
        while not end.told.wait(0.2):
            if not (spinner.alive and node.ears.alive) or (node.loop is not None and not node.loop.alive):
                node.get_logger().fatal("a thread of the arm node died; the servos hold their last goal")
                code = 1
                break
        node.stand_down()
    finally:
        signals.ignore()
        spinner.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return code
