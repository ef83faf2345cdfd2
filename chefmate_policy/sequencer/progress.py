# SPDX-License-Identifier: Apache-2.0
"""Progress of a recipe on disk, so that a killed sequencer can go on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chefmate_policy.errors import PolicyError
from chefmate_policy.perception.workcell import HOLDER, Workcell
from chefmate_policy.sequencer.outcomes import OUTCOMES, StepResult

VERSION = 1


class ProgressError(PolicyError):
    """Progress cannot be written or read."""


class DamagedProgressError(ProgressError):
    """The progress file does not hold progress."""


@dataclass(frozen=True)
class Progress:
    """How far a recipe has come.

    Attributes:
        recipe: its name.
        instructions: of all its steps: a recipe whose file was changed since is another recipe.
        step: from 0, the one that runs or comes next.
        plate: classes on the plate when that step began, from the lowest up.
        holder: number of instances of each class in the holder when that step began.
        results: of the ended steps.
        finished: True: nothing to go on with.
    """

    recipe: str
    instructions: tuple[str, ...]
    step: int
    plate: tuple[str, ...] = ()
    holder: dict[str, int] = field(default_factory=dict)
    results: tuple[StepResult, ...] = ()
    finished: bool = False


def agrees(progress: Progress, workcell: Workcell, ingredient: str) -> bool:
    """Whether the visible top of the stack fits the history.

    It fits when the plate is as it was when the interrupted step began, or when that step's ingredient has
    come to lie on top of it meanwhile and the holder lost one. Where the layers below were not seen
    (perception was restarted too), the top and the holder decide.

    Args:
        progress: the interrupted run.
        workcell: what is seen now.
        ingredient: of the interrupted step.
    """
    if progress.finished or not workcell.visible:
        return False
    plate = workcell.plate()
    held = Counter(progress.holder)
    lost = held - workcell.classes(HOLDER)
    if workcell.plate_known():
        return plate == progress.plate or (plate == (*progress.plate, ingredient) and bool(lost[ingredient]))
    if not plate:
        return not progress.plate
    top = plate[-1]
    if lost[ingredient] and top == ingredient:
        return True
    return bool(progress.plate) and top == progress.plate[-1] and not lost


class ProgressFile:
    """One JSON file, replaced as a whole: a reader sees the old progress or the new, never half of one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, progress: Progress) -> None:
        """Writes, flushes to the disk, then renames.

        Raises:
            ProgressError: the disk is full, read-only, or the folder cannot be made.
        """
        partial: Path | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=self.path.name, suffix=".partial", dir=self.path.parent)
            partial = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"version": VERSION, **asdict(progress)}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            if partial is not None:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
            raise ProgressError(
                f"progress cannot be written to {self.path}: {error.strerror or error}. The recipe goes on, "
                "but could not be resumed after a crash; free some space or set the parameter progress_file."
            ) from error

    def load(self) -> Progress | None:
        """The last progress, or None where there is none.

        Raises:
            DamagedProgressError: the file does not hold progress of this version.
            ProgressError: the file is there but cannot be read.
        """
        try:
            return _checked(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProgressError(
                f"progress in {self.path} cannot be read: {error.strerror or error}. Remove the file."
            ) from error
        except (ValueError, RecursionError) as error:
            raise DamagedProgressError(
                f"progress in {self.path} cannot be used: {error}. An interrupted run cannot go on."
            ) from error

    def set_aside(self) -> Path:
        """Renames a damaged file, so that the next start does not meet it again. Returns its new path.

        Raises:
            ProgressError: it cannot be renamed.
        """
        aside = self.path.with_name(f"{self.path.name}.bad")
        try:
            os.replace(self.path, aside)
        except OSError as error:
            raise ProgressError(
                f"the damaged {self.path} cannot be renamed: {error.strerror or error}. Remove the file."
            ) from error
        return aside


def _checked(data: Any) -> Progress:
    """Progress from JSON; raises ValueError, which names the field."""
    if not isinstance(data, dict) or "version" not in data:
        raise ValueError("it has no version")
    if data["version"] != VERSION:
        raise ValueError(f"it has version {data['version']!r}, this sequencer reads {VERSION}")
    recipe = _field(data, "recipe", str)
    instructions = tuple(_items(data, "instructions", str))
    if not recipe or not instructions:
        raise ValueError("recipe and instructions must not be empty")
    steps = len(instructions)
    holder = {f"holder.{name}": count for name, count in _field(data, "holder", dict).items()}
    return Progress(
        recipe=recipe,
        instructions=instructions,
        step=_count(data, "step", steps - 1),
        plate=tuple(_items(data, "plate", str)),
        holder={name.removeprefix("holder."): _count(holder, name) for name in holder},
        results=tuple(_result(item, steps) for item in _items(data, "results", dict)),
        finished=_field(data, "finished", bool),
    )


def _result(data: dict[str, Any], steps: int) -> StepResult:
    seconds = data.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0.0 <= seconds < math.inf:
        raise ValueError(f"seconds must be a number from 0, not {seconds!r}")
    outcome = _field(data, "outcome", str)
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, not {outcome!r}")
    return StepResult(
        index=_count(data, "index", steps - 1),
        ingredient=_field(data, "ingredient", str),
        instruction=_field(data, "instruction", str),
        outcome=outcome,
        reason=_field(data, "reason", str),
        seconds=float(seconds),
        attempts=_count(data, "attempts"),
    )


def _field(data: dict[str, Any], key: str, kind: type) -> Any:
    value = data.get(key)
    if not isinstance(value, kind):
        raise ValueError(f"{key} must be a {kind.__name__}, not {value!r}")
    return value


def _items(data: dict[str, Any], key: str, kind: type) -> list[Any]:
    items: list[Any] = _field(data, key, list)
    for item in items:
        if not isinstance(item, kind):
            raise ValueError(f"{key} must be a list of {kind.__name__}, not {items!r}")
    return items


def _count(data: dict[str, Any], key: str, largest: int = 2**31 - 1) -> int:
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise ValueError(f"{key} must be a whole number from 0 to {largest}, not {value!r}")
    return value


def default_path(namespace: str, domain: int) -> Path:
    """State file of one sequencer: $XDG_STATE_HOME/chefmate/domain_N/NAMESPACE/progress.json.

    Args:
        namespace: of the node, "/" for none; a folder for each of its parts, so that no two share a file.
        domain: ROS_DOMAIN_ID. Graphs of two domains do not see each other, but they share this machine.
    """
    state = os.environ.get("XDG_STATE_HOME", "").strip()
    folder = Path(state) if state else Path.home() / ".local" / "state"
    return folder / "chefmate" / f"domain_{domain}" / namespace.strip("/") / "progress.json"
