# SPDX-License-Identifier: Apache-2.0
"""The life of a node's process: from its arguments to exit status 0, whatever signals come in between."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from chefmate_ros.executor import LightExecutor
from chefmate_ros.share import ShareFileError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """SIGINT and SIGTERM as the wish to end, from here to the end of the process. Main thread only.

    Each signal sets `told` and calls `wake` in a thread of its own: rclpy waits outside Python, where no
    handler runs, and a handler must not take locks that the interrupted code may hold. While `interrupts` is
    true, the first signal also raises KeyboardInterrupt. Later ones, which a terminal or `ros2 launch` may
    well send, do nothing more.
    """

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self.told = False
        self.interrupts = False
        self.wake = wake
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def ignore(self) -> None:
        """No signal has any effect from here on, also while the interpreter ends."""
        self.interrupts = False
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self._mouth.close()
        self._thread.join()
        self._ear.close()

    def _on_signal(self, number: int, frame: Any) -> None:
        self.told = True
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt

    def _listen(self) -> None:
        while self._ear.recv(64):
            if self.wake is not None:
                self.wake()


def run(
    make: Callable[[], Any],
    args: list[str] | None,
    name: str,
    errors: tuple[type[Exception], ...] = (),
    started: Callable[[Any], None] | None = None,
) -> int:
    """Makes a node and runs it until SIGINT, SIGTERM or the end of its context; then closes it.

    Args:
        make: the node. A signal during it counts afterwards, so that nothing is left half open.
        args: command line with --ros-args; None: the process's own.
        name: of the logger, for an error that leaves no node to log it.
        errors: families of errors that end the node, from `make`, `started` or a callback: one FATAL line. A
            parameter of the wrong type or out of its range is one for every node.
        started: called with the node before it spins; a signal interrupts it.

    Returns:
        Exit status: 0, or 1 after an error.

    The node's `close()`, if it has one, is called before it is destroyed, with its context still alive.
    """
    family: tuple[type[Exception], ...] = (ShareFileError, ParameterException, *errors)
    signals = Signals()
    node: Node | None = None
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make()
        executor = LightExecutor()
        executor.add_node(node)
        signals.wake = executor.wake
        signals.interrupts = True
        if started is not None and not signals.told:
            started(node)
        # Not spin(): an interrupt that Python swallows, as in a finaliser, still ends this.
        while not signals.told and executor.context.ok():
            executor.spin_once()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except family as error:
        signals.interrupts = False
        rclpy.logging.get_logger(name).fatal(" ".join(str(error).split()))
        return 1
    except RuntimeError:
        if not signals.told:  # rclpy's C++ side makes this of an interrupt that reaches it
            raise
    finally:
        signals.ignore()
        if node is not None:
            if hasattr(node, "close"):
                node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def autostart(node: LifecycleNode) -> None:
    """`started` of a lifecycle node: configures and activates it if its parameter `autostart` says so."""
    if node.get_parameter("autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()
