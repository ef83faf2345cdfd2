# SPDX-License-Identifier: Apache-2.0
"""Errors of the front door."""

from __future__ import annotations


class ChefmateError(Exception):
    """Something the caller can mend; the message says what, where and how."""


class ArgumentError(ChefmateError):
    """A launch argument has a value that the graph cannot use."""


class WorkspaceError(ChefmateError):
    """The package is not built, or the shell has not sourced it."""
