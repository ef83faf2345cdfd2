# SPDX-License-Identifier: Apache-2.0
"""What can go wrong on a servo bus. Every message says what, where, and what to do."""

from __future__ import annotations

from chefmate_driver.errors import DriverError


class FeetechError(DriverError):
    """Base of every error of the servo bus."""


class PortNotFoundError(FeetechError):
    """The serial port's path does not exist."""


class BusPortBusyError(FeetechError):
    """Another process holds the serial port."""


class BusLostError(FeetechError):
    """The port worked and now fails: unplugged, or the twin ended."""


class BusProtocolError(FeetechError):
    """Bytes arrive that are no valid reply: wrong baud rate, or no servo bus at all."""


class ServoMissingError(FeetechError):
    """One or more servos do not answer."""


class RegisterError(FeetechError):
    """A register is unknown, read-only, cannot hold the value, or is EEPROM and locked."""


class EepromError(FeetechError):
    """A servo's EEPROM cannot be written now, or did not keep what was written."""
