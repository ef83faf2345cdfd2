# SPDX-License-Identifier: Apache-2.0
"""What can go wrong above the servo bus. Every message says what, where, and what to do."""

from __future__ import annotations

from chefmate_driver.errors import DriverError


class ArmError(DriverError):
    """Base of every error of the arm."""


class CalibrationError(ArmError):
    """The calibration file is missing, malformed, or not the one that the servos hold."""


class TrajectoryRejectedError(ArmError):
    """A trajectory breaks the contract of the trajectory topic."""


class TransitionError(ArmError):
    """The arm's present state does not allow what was asked."""
