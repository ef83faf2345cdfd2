# SPDX-License-Identifier: Apache-2.0
"""Message definitions for bags: those that the rosbags library knows, and chefmate_msgs from the installed
files."""

from __future__ import annotations

import re
from pathlib import Path

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from chefmate_policy.errors import PolicyError

CONSTANT_COMMENT = re.compile(r"^(\s*string\s+\w+\s*=[^#\n]*?)[ \t]*#.*$", re.MULTILINE)
"""ROS 2 ends a string constant at its comment; rosbags takes the comment for a part of the constant."""


class RecordingError(PolicyError):
    """Something cannot be recorded or read back."""


def jazzy_types() -> Typestore:
    """The messages of ROS 2 Jazzy's own packages."""
    return get_typestore(Stores.ROS2_JAZZY)


def add_type(types: Typestore, name: str) -> None:
    """Adds a message type, for example chefmate_msgs/msg/ActionChunk, with all types that it needs.

    Source: share/PACKAGE/msg/NAME.msg of the package in the ament index.

    Raises:
        RecordingError: no such package or file, or the definition cannot be parsed.
    """
    pending = [name]
    while pending:
        wanted = pending.pop()
        if wanted in types.fielddefs:
            continue
        parsed = get_types_from_msg(_definition(wanted), wanted)
        types.register(parsed)
        for _, fields in parsed.values():
            pending += [used for _, description in fields for used in _messages_in(description)]


def _messages_in(description: object) -> list[str]:
    """Names of the messages in one field's description, as rosbags nests it."""
    if isinstance(description, str):
        return [description] if "/msg/" in description else []
    if isinstance(description, tuple):
        return [name for part in description for name in _messages_in(part)]
    return []


def _definition(name: str) -> str:
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    package, _, message = name.partition("/msg/")
    if not package or not message:
        raise RecordingError(f"message type {name!r} must look like package/msg/Name.")
    try:
        file = Path(get_package_share_directory(package)) / "msg" / f"{message}.msg"
        return CONSTANT_COMMENT.sub(r"\1", file.read_text(encoding="utf-8"))
    except (PackageNotFoundError, ValueError, OSError) as error:
        raise RecordingError(f"message type {name!r}: its definition is not installed ({error}).") from error
