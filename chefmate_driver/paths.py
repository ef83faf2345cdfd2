# SPDX-License-Identifier: Apache-2.0
"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from chefmate_driver.errors import DriverError


def user_path(text: str, parameter: str) -> Path:
    """A path, in which ~ and ~name stand for a home folder. DriverError names the parameter if nobody has
    that name."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DriverError(
            f"the parameter `{parameter}` is {text!r}: {error}; name the folder itself"
        ) from error
