# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a leader arm. Every message says what, where, and what to do."""

from __future__ import annotations

from chefmate_driver.errors import DriverError


class TeleopError(DriverError):
    """Base of every error of teleoperation."""


class LeaderSupplyError(TeleopError):
    """The servos' supply is not a leader's: probably the follower's port."""


class LeaderJumpError(TeleopError):
    """A joint's angle changed faster than a hand can turn it."""
