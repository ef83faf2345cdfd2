# SPDX-License-Identifier: Apache-2.0
"""The nodes' executables. Importing this module is cheap; each function imports its own node."""

from __future__ import annotations

from chefmate_ros.entry import enter


def arm() -> int:
    """arm_node."""
    return enter("chefmate_driver.arm.node")


def camera() -> int:
    """camera_node."""
    return enter("chefmate_driver.camera.node")


def kitchen() -> int:
    """kitchen_node."""
    return enter("chefmate_driver.kitchen.node")


def teleop() -> int:
    """teleop_node."""
    return enter("chefmate_driver.teleop.node")
