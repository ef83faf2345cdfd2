# SPDX-License-Identifier: Apache-2.0
"""rclpy for commands: the front door handles signals itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.signals import SignalHandlerOptions


@contextmanager
def joined() -> Iterator[None]:
    """Takes part in the graph of the current ROS_DOMAIN_ID for the length of the block."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield
    finally:
        rclpy.try_shutdown()
