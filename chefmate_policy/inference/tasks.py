# SPDX-License-Identifier: Apache-2.0
"""One adapter per task on one base: the engine changes task in place, in the time of a copy.

An engine joins and folds weights (groot/fused.py), so an adapter is not added to it: an engine of each task
is built once, and what differs from the base's is kept beside. To change task, the tensors that differ are
copied over, into the memory that CUDA graphs read. So a task's actions are bit for bit those of an engine of
its own, and nothing is left of it afterwards, however often tasks change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from chefmate_policy.groot.errors import InputError
from chefmate_policy.inference.backend import BackendError
from chefmate_policy.inference.engine import Engine

__all__ = ["TaskEngine", "task_folders", "task_of"]

STAGES = ("vision", "language", "features", "keys_values", "flow")


class TaskEngine:
    """`engine` runs the task that `use` chose last; None is the base without an adapter.

    build: makes the engine of a task, the base's for None, all with the same steps and settings. While tasks
    are added there are two engines in memory, afterwards one and, per task, the tensors that differ (on
    queries, keys and values of everything 0.8 GB at the published size in bf16). Do not change the engine's
    steps: its tables are part of what is kept.
    """

    def __init__(self, build: Callable[[str | None], Engine], tasks: Sequence[str]) -> None:
        self.engine = build(None)
        self.task: str | None = None
        self._tensors = list(_tensors(self.engine))
        self._kept: dict[str | None, dict[int, Tensor]] = {None: {}}
        for task in tasks:
            self._kept[task] = self._differences(task, build(task))
        touched = {index for kept in self._kept.values() for index in kept}
        self._kept[None] = {index: self._tensors[index].clone() for index in sorted(touched)}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for task in self._kept if task is not None)

    @property
    def bytes(self) -> int:
        """Memory beside the engine's own."""
        return sum(
            item.numel() * item.element_size() for kept in self._kept.values() for item in kept.values()
        )

    @torch.no_grad()
    def use(self, task: str | None) -> Engine:
        """Changes to a task, None: the base; returns the engine. Raises InputError: there is no such task."""
        if task not in self._kept:
            raise InputError(f"no task {task!r}; there are {', '.join(self.tasks)}")
        if task != self.task:
            wanted, base = self._kept[task], self._kept[None]
            for index in {**wanted, **self._kept[self.task]}:  # the new task's and the old one's
                self._tensors[index].copy_(wanted.get(index, base[index]))
            self.task = task
        return self.engine

    def _differences(self, task: str, other: Engine) -> dict[int, Tensor]:
        tensors = list(_tensors(other))
        if [item.shape for item in tensors] != [item.shape for item in self._tensors]:
            raise InputError(f"the engine of task {task!r} is built otherwise than the base's")
        return {
            index: item.clone()
            for index, (item, own) in enumerate(zip(tensors, self._tensors, strict=True))
            if not torch.equal(item, own)
        }


def task_folders(entries: Sequence[str]) -> dict[str, str]:
    """Adapter folder or hub id by task, from `task=adapter`. Raises BackendError."""
    folders: dict[str, str] = {}
    for entry in entries:
        task, equals, folder = (part.strip() for part in entry.partition("="))
        if not equals or not task or not folder or task in folders:
            raise BackendError(
                f"parameter model.tasks: {entry!r} must be task=adapter, each task once, for example"
                " cheese=adapters/cheese."
            )
        folders[task] = folder
    return folders


def task_of(instruction: str, tasks: Sequence[str]) -> str | None:
    """The task whose name stands in an instruction as whole words; None: no task's does.

    Raises InputError: several do.
    """
    text = " ".join(instruction.lower().split())
    named = [task for task in tasks if re.search(rf"\b{re.escape(task.lower())}\b", text)]
    if len(named) > 1:
        raise InputError(f"the instruction {instruction!r} names {len(named)} tasks: {', '.join(named)}")
    return named[0] if named else None


def _tensors(engine: Engine) -> Iterator[Tensor]:
    """All tensors of an engine's stages, each once, in an order that engines of one kind share."""
    seen: set[int] = set()

    def walk(value: Any) -> Iterator[Tensor]:
        if isinstance(value, partial):  # a compiled block
            value = list(value.args)
        if isinstance(value, Tensor):
            if id(value) not in seen:
                seen.add(id(value))
                yield value
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from walk(item)
        elif type(value).__module__.startswith("chefmate_policy.") and not isinstance(value, nn.Module):
            if id(value) not in seen:
                seen.add(id(value))
                for item in vars(value).values():
                    yield from walk(item)

    for stage in STAGES:
        yield from walk(getattr(engine, stage))
