# SPDX-License-Identifier: Apache-2.0
"""safetensors files as one table of tensors, read block by block straight to where they are wanted.

A block is memory-mapped, copied into the tensor that will hold it (converted and moved to the device on the
way), checked to be finite, and unmapped. So loading needs the model's own size and one block.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chefmate_policy.groot.layouts import CheckpointError, listed, published_keys
from chefmate_policy.groot.model import SLOT_PREFIXES

__all__ = ["EMBODIMENTS", "StoredTensor", "Weights", "header", "open_weights", "stored_tensors"]

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
EMBODIMENTS = (
    "embodiments"  # in a file's header: the slots whose rows it holds, "31" or "17,31"; all if absent
)
BLOCK = 64 * 2**20  # bytes that are mapped at a time
DTYPES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}  # bytes per element


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, unread."""

    file: Path
    key: str  # in the file
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it
    slots: tuple[int, ...] | None = None  # embodiment slots of its rows, if it has such; None: all

    def read(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        rows: Sequence[int] | None = None,
    ) -> Tensor:
        """The tensor, or some of its rows, in `dtype` (None: the stored one) on `device`.

        Raises CheckpointError naming the file: unreadable, or a value is not finite.
        """
        runs = [(0, self.shape[0])] if rows is None else [(row, row + 1) for row in rows]
        count = sum(stop - start for start, stop in runs)
        target: Tensor | None = None
        at = 0
        for start, stop in (block for run in runs for block in self._blocks(*run)):
            with _opened(self.file) as file:
                block = file.get_slice(self.key)[start:stop]
                if target is None:
                    shape = (count, *self.shape[1:])
                    target = torch.empty(shape, dtype=dtype or block.dtype, device=device)
                part = target[at : at + stop - start]
                part.copy_(block)
                del block
            at += stop - start
            if not math.isfinite(float(part.sum(dtype=torch.float32))):
                raise CheckpointError(
                    f"{self.file}: {self.key} holds values that are not finite in {target.dtype}"
                    if dtype
                    else f"{self.file}: {self.key} holds values that are not finite; the file is damaged"
                )
        assert target is not None
        return target

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        step = max(1, BLOCK // max(1, math.prod(self.shape[1:]) * DTYPES[self.dtype]))
        for first in range(start, stop, step):
            yield first, min(stop, first + step)


@dataclass(frozen=True)
class Weights:
    """All tensors of a checkpoint, by published key."""

    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]


def open_weights(folder: Path) -> Weights:
    """The weights in a checkpoint's folder, one file or shards with an index; only headers are read.

    Raises CheckpointError naming the file that is missing, truncated or no safetensors file, or the keys that
    index and files do not agree on.
    """
    index = folder / INDEX
    if not index.is_file():
        files = [folder / SINGLE]
        if not files[0].is_file():
            raise CheckpointError(
                f"{folder} holds no weights: neither {SINGLE} nor {INDEX} is there{_hint(folder)}"
            )
        stored, aliases = stored_tensors(files)
    else:
        places = _weight_map(index)
        files = sorted({folder / name for name in places.values()})
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise CheckpointError(
                f"{index} names files that are missing: {', '.join(absent)}; download them again"
            )
        stored, aliases = stored_tensors(files)
        for what, keys in (
            ("the index names, but no file holds", set(places) - set(stored)),
            ("the files hold, but the index does not name", set(stored) - set(places)),
            (
                "are in another file than the index says",
                {key for key, name in places.items() if key in stored and stored[key].file.name != name},
            ),
        ):
            if keys:
                raise CheckpointError(f"{index} does not fit its files: {listed(keys)} ({what})")
    try:
        names = published_keys(stored.keys(), aliases)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    return Weights({name: stored[key] for name, key in names.items()}, tuple(files))


def stored_tensors(files: Iterable[Path]) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors by key in the files, and the aliases that the files record (left-out key -> kept key)."""
    found: dict[str, StoredTensor] = {}
    aliases: dict[str, str] = {}
    for path in files:
        metadata, tensors = header(path)
        slots = _slots(path, metadata)
        for key, (shape, dtype) in tensors.items():
            if dtype not in DTYPES:
                raise CheckpointError(f"{path}: {key} is {dtype}; weights are one of {', '.join(DTYPES)}")
            if key in found:
                raise CheckpointError(f"{key} is both in {found[key].file.name} and in {path}")
            of_slots = any(prefix in key for prefix in SLOT_PREFIXES)
            found[key] = StoredTensor(path, key, shape, dtype, slots if of_slots else None)
        aliases |= {name: kept for name, kept in metadata.items() if kept in tensors}
    return found, aliases


def header(path: Path) -> tuple[dict[str, str], dict[str, tuple[tuple[int, ...], str]]]:
    """A file's metadata, and shape and dtype of each tensor. Raises CheckpointError naming the file."""
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
        tensors = {}
        for key in file.keys():
            part = file.get_slice(key)
            tensors[key] = (tuple(part.get_shape()), str(part.get_dtype()))
    return metadata, tensors


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}{_diagnosis(path)}") from error


def _diagnosis(path: Path) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    if start.startswith(b"version https://git-lfs"):
        return "; it is a git-lfs pointer, not the file: fetch it with `git lfs pull`"
    return f"; it has {size} bytes and is truncated or damaged: download or copy it again"


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(key): str(name) for key, name in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of safetensors files: {error!r}") from error


def _slots(path: Path, metadata: dict[str, str]) -> tuple[int, ...] | None:
    if EMBODIMENTS not in metadata:
        return None
    try:
        return tuple(int(slot) for slot in metadata[EMBODIMENTS].split(","))
    except ValueError:
        raise CheckpointError(f"{path}: header entry {EMBODIMENTS} is {metadata[EMBODIMENTS]!r}") from None


def _hint(folder: Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return "; pickled weights (.bin, .pt) can run code and are not read: save them as safetensors"
    return ""
