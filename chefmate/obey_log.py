# SPDX-License-Identifier: Apache-2.0
"""Outcomes of trials on disk: what was planned, and one line for each trial that is done.

A trial counts once its line is whole, so whatever ends the work, the next start goes on with the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from chefmate.errors import ChefmateError
from chefmate_policy.locking import held_alone
from chefmate_policy.obedience.trial import Outcome

__all__ = ["TrialLog", "policy_digest"]

PLAN, OUTCOMES, LOCK = "plan.json", "outcomes.jsonl", "lock"
WHOLE = 64 << 20  # bytes; of larger files the ends count
END = 4 << 20  # bytes


class TrialLog:
    """The folder of one run's outcomes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / OUTCOMES

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes away. Raises ChefmateError: one is at work already."""
        busy = ChefmateError(f"another process runs trials in {self.folder} already")
        return held_alone(self.folder / LOCK, busy)

    def plan(self) -> dict[str, Any] | None:
        """What this folder's outcomes were made with; None: a new folder."""
        file = self.folder / PLAN
        return json.loads(file.read_text("utf-8")) if file.exists() else None

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Notes the plan, or goes on with an equal one. Raises ChefmateError: the folder holds another's."""
        wanted, found = json.loads(json.dumps(plan)), self.plan()
        if found is None:
            part = self.folder / f"{PLAN}.part"
            part.write_text(json.dumps(wanted, indent=2), "utf-8")
            os.replace(part, self.folder / PLAN)
            return
        different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if different:
            key = different[0]
            raise ChefmateError(
                f"{self.folder} holds trials with {key} = {found.get(key)!r}, not {wanted.get(key)!r};"
                " give the same policy and options to go on, another --report, or remove that folder"
            )

    def outcomes(self) -> dict[int, Outcome]:
        """By trial number. What a killed process left half-written is cut off."""
        if not self._file.exists():
            return {}
        content = self._file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._file, whole)
        found: dict[int, Outcome] = {}
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                outcome = Outcome.from_dict(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ChefmateError(f"{self._file}:{number} is not an outcome: {error!r}") from error
            found[outcome.number] = outcome
        return found

    def append(self, outcome: Outcome) -> None:
        """Keeps an outcome for good."""
        line = json.dumps(outcome.to_dict()) + "\n"
        with self._file.open("ab", buffering=0) as file:
            file.write(line.encode())
            os.fsync(file.fileno())


def policy_digest(backend: str, checkpoint: str) -> str:
    """SHA-256 of a checkpoint's files; of what else there is to tell policies apart where it is no folder."""
    told = hashlib.sha256(f"{backend}\0".encode())
    folder = Path(checkpoint)
    if not checkpoint or not folder.is_dir():
        told.update(checkpoint.encode())
        return told.hexdigest()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = file.stat().st_size
        told.update(f"{file.relative_to(folder)}\0{size}\0".encode())
        with file.open("rb") as content:
            if size <= WHOLE:
                told.update(content.read())
                continue
            told.update(content.read(END))
            content.seek(-END, os.SEEK_END)
            told.update(content.read(END))
    return told.hexdigest()
