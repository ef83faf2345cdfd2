# SPDX-License-Identifier: Apache-2.0
"""Parameters `model.*` of backends, and the map of cameras that several of them share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from chefmate_policy.inference.backend import BackendError

__all__ = ["camera_map", "options_of", "read_calibration"]

Options = TypeVar("Options")


def options_of(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """A dataclass of defaults, from the node's parameters. Raises BackendError naming one that is unknown or
    of another type."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise BackendError(f"parameter model.{name} is unknown; known are {', '.join(known)}.")
        default: Any = known[name].default
        try:
            values[name] = tuple(value) if isinstance(default, tuple) else type(default)(value)
        except (TypeError, ValueError):
            raise BackendError(
                f"parameter model.{name} is {value!r}, expected {type(default).__name__}."
            ) from None
    return kind(**values)


def read_calibration(path: str) -> Any:
    """LeRobot's calibration file as parsed; None without one. Raises BackendError."""
    if not path:
        return None
    file = Path(path).expanduser()
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(f"parameter model.calibration: {file} cannot be read: {error}") from error


def camera_map(
    wanted: tuple[str, ...], given: tuple[str, ...], entries: tuple[str, ...], who: str = "checkpoint"
) -> dict[str, str]:
    """The policy's camera -> the node's input.

    entries: camera=input; without them the names must be equal. who: whose cameras `wanted` are. Raises
    BackendError naming what is left over.
    """
    pairs = dict.fromkeys(wanted, "") | {name: name for name in wanted if name in given}
    for entry in entries:
        camera, equals, source = (part.strip() for part in entry.partition("="))
        if not equals or camera not in wanted or source not in given:
            raise BackendError(
                f"parameter model.cameras: {entry!r} must be camera=input, with a camera of the {who}"
                f" ({', '.join(wanted)}) and an input of the node ({', '.join(given) or 'none'})."
            )
        pairs[camera] = source
    lacking = [name for name, source in pairs.items() if not source]
    if lacking:
        raise BackendError(
            f"the {who} looks through {', '.join(wanted)}; the node has"
            f" {', '.join(given) or 'no camera'}: set parameter model.cameras, for example"
            f" [{lacking[0]}={(given or ('scene',))[0]}]."
        )
    return pairs
