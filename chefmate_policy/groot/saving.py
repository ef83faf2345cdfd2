# SPDX-License-Identifier: Apache-2.0
"""Saves a model in the published layout: shards with an index, config.json, metadata, processor, tokenizer.

What the model left out at load (lm_head, pooling head, other embodiment slots) is copied from the checkpoint
that it came from. A folder appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from chefmate_policy.groot.checkpoint import Checkpoint
from chefmate_policy.groot.layouts import CheckpointError, listed
from chefmate_policy.groot.metadata import METADATA, write_metadata
from chefmate_policy.groot.model import Groot, published_shapes
from chefmate_policy.groot.processor import PROCESSOR, Processor
from chefmate_policy.groot.weights import DTYPES, EMBODIMENTS, INDEX, SINGLE

__all__ = ["save_checkpoint", "whole_folder"]

SHARD = 2 * 10**9  # bytes at most, as the published shards
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def save_checkpoint(
    model: Groot,
    folder: Path | str,
    *,
    source: Checkpoint | None = None,
    processor: Processor | None = None,
    complete: bool = True,
    shard_bytes: int = SHARD,
) -> None:
    """Writes the model to a new folder.

    source: the checkpoint it was loaded from, needed when the model left parts out and `complete` is
    wanted. complete=False saves what the model holds, which is what inference reads. processor: its metadata,
    settings and tokenizer are saved; without it the source's files are copied. Raises CheckpointError: the
    folder holds something already, or parts are missing.
    """
    plan = _plan(model, source, complete)
    with whole_folder(Path(folder)) as partial:
        _write_shards(partial, plan, model, source, complete, shard_bytes)
        config = json.dumps(model.config.to_dict(), indent=2) + "\n"
        (partial / "config.json").write_text(config, encoding="utf-8")
        if processor is not None:
            write_metadata(partial, processor.metadata)
            processor.settings.write(partial)
            processor.tokenizer.save(partial)
        elif source is not None:
            for name in (str(METADATA), PROCESSOR, "tokenizer.json"):
                for origin in (source.folder, source.base):
                    if (origin / name).is_file() and not (partial / name).exists():
                        (partial / name).parent.mkdir(exist_ok=True)
                        shutil.copyfile(origin / name, partial / name)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes its name, with everything on the disk, only when it is complete.

    Raises CheckpointError when `folder` exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists; nothing is overwritten: choose another name or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield partial
        for file in partial.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # temporary folders and safetensors keep others out
            _sync(file)
        partial.chmod(0o755)
        _sync(partial)
        partial.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@dataclass(frozen=True)
class _Planned:
    """A tensor to write."""

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[NAMES[self.dtype]]


def _plan(model: Groot, source: Checkpoint | None, complete: bool) -> list[_Planned]:
    held = model.state_dict()
    if not complete:
        return [_Planned(key, tuple(tensor.shape), tensor.dtype) for key, tensor in held.items()]
    shapes = published_shapes(model.config)
    unknown = set(held) - set(shapes)
    if unknown:
        raise CheckpointError(
            f"the model holds tensors that are not published: {listed(unknown)}; merge adapters"
        )
    partly = {key for key in held if held[key].shape != shapes[key]}
    needed = (set(shapes) - set(held)) | partly
    absent = {key for key in needed if source is None or source.stored(key) is None}
    if absent:
        where = "no source checkpoint was given" if source is None else f"{source.base} lacks them"
        raise CheckpointError(
            f"a complete checkpoint needs {len(absent)} tensors that the model left out, and {where}:"
            f" {listed(absent)}"
        )
    names = {name: dtype for dtype, name in NAMES.items()}
    plan = []
    for key, shape in shapes.items():
        stored = source.stored(key) if source is not None and key not in held else None
        dtype = held[key].dtype if stored is None else names[stored.dtype]
        plan.append(_Planned(key, tuple(shape), dtype))
    return plan


def _write_shards(
    folder: Path,
    plan: list[_Planned],
    model: Groot,
    source: Checkpoint | None,
    complete: bool,
    shard_bytes: int,
) -> None:
    """Shard after shard, so that one shard of tensors from elsewhere is in memory at a time."""
    shards: list[list[_Planned]] = [[]]
    for planned in plan:
        if shards[-1] and sum(other.bytes for other in shards[-1]) + planned.bytes > shard_bytes:
            shards.append([])
        shards[-1].append(planned)
    kept = None if complete else model.parts.embodiments
    metadata = {"format": "pt"} | ({} if kept is None else {EMBODIMENTS: ",".join(map(str, kept))})
    held = model.state_dict()
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            planned.key: _tensor(planned, held.get(planned.key), model, source, complete) for planned in shard
        }
        save_file(tensors, str(folder / name), metadata=metadata)
        weight_map |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        total = sum(planned.bytes for planned in plan)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tensor(
    planned: _Planned, held: Tensor | None, model: Groot, source: Checkpoint | None, complete: bool
) -> Tensor:
    """What to write for a key, on the CPU."""
    if held is not None and tuple(held.shape) == planned.shape:
        whole = held.detach().to("cpu")
        rows = model.parts.rows(planned.key) if complete else None
        if rows is not None:  # every slot, in an order of the model's own
            whole = whole[torch.tensor(rows).argsort()]
        return whole.contiguous()
    assert source is not None
    tensor = source.read(planned.key, "cpu", planned.dtype)
    if held is not None:
        for row, slot in enumerate(model.parts.embodiments or ()):
            tensor[slot].copy_(held[row])
    return tensor


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
