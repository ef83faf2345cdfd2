# SPDX-License-Identifier: Apache-2.0
"""The exception family of chefmate_driver."""


class DriverError(Exception):
    """Something that senses or moves does not work. The message says what, where, and what to do."""
