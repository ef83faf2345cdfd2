# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: NVIDIA's shards, LeRobot's saves, our own, and adapters on these; from a folder or the hub.

`open_checkpoint` reads headers only and says what is wrong; `load_model` then brings the weights straight to
the device. Missing and unexpected keys are errors; what the model leaves out by `Parts` is not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chefmate_policy.groot.adapter import ADAPTER_CONFIG, Adapter, open_adapter
from chefmate_policy.groot.backbone import PadRows
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.errors import ConfigurationError
from chefmate_policy.groot.hub import HubError, locate
from chefmate_policy.groot.layouts import CheckpointError, explain, listed
from chefmate_policy.groot.metadata import METADATA, read_metadata
from chefmate_policy.groot.model import Groot, Parts, published_shapes
from chefmate_policy.groot.processor import PROCESSOR, Processor, read_settings
from chefmate_policy.groot.published import CONFIG
from chefmate_policy.groot.tokenizer import load_tokenizer
from chefmate_policy.groot.weights import StoredTensor, Weights, open_weights

__all__ = ["Checkpoint", "load_model", "load_processor", "open_checkpoint"]

FILES = ("*.json", "*.safetensors", "experiment_cfg/*", "*.txt")  # of a repository on the hub


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's files, unread but for their headers."""

    name: str  # as it was asked for
    folder: Path  # that has the metadata: an adapter's own, else the base's
    base: Path  # that has config.json and the weights
    config: GrootConfig
    weights: Weights
    adapter: Adapter | None = None

    def stored(self, key: str) -> StoredTensor | None:
        """Where a published key's tensor is; what an adapter trained whole comes from the adapter, unless it
        is rows of a bigger one."""
        trained = self.adapter.trained.get(key) if self.adapter else None
        return trained if trained is not None and trained.slots is None else self.weights.tensors.get(key)

    def read(
        self,
        key: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        slots: tuple[int, ...] | None = None,
    ) -> Tensor:
        """A published key's tensor, adapters merged. slots: the embodiments whose rows are wanted; None: all.

        Raises CheckpointError naming the file.
        """
        stored = self.stored(key)
        if stored is None:
            raise CheckpointError(f"{self.base} holds no {key}")
        tensor = stored.read(device, dtype, _rows(stored, slots))
        if self.adapter is None:
            return tensor
        if key in self.adapter.pairs:
            self.adapter.pairs[key].merge(tensor)
        trained = self.adapter.trained.get(key)
        if trained is not None and trained.slots is not None:
            wanted = slots if slots is not None else tuple(range(tensor.shape[0]))
            for row, slot in enumerate(wanted):
                if slot in trained.slots:
                    source = trained.read(device, dtype, [trained.slots.index(slot)])
                    tensor[row].copy_(source[0])
        return tensor


def open_checkpoint(
    name: str | Path,
    *,
    base: str | Path | None = None,
    config: GrootConfig | None = None,
    revision: str | None = None,
) -> Checkpoint:
    """Opens a folder or a hub id.

    base: of an adapter, where the one that it names is not on this machine. config: in place of the folder's
    config.json. Raises GrootError: what is missing, where, and the mend.
    """
    folder = locate(name, FILES, revision)
    adapter = open_adapter(folder) if (folder / ADAPTER_CONFIG).is_file() else None
    root = folder
    if adapter is not None:
        root = _base_of(adapter, base)
    config = config or read_config(root)
    weights = open_weights(root)
    checkpoint = Checkpoint(str(name), folder, root, config, weights, adapter)
    _check(checkpoint)
    return checkpoint


def read_config(folder: Path) -> GrootConfig:
    """The model's configuration. LeRobot's config.json does not say it: its model is the published one.

    Raises ConfigurationError.
    """
    file = folder / "config.json"
    try:
        raw: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{folder} has no config.json; it is no checkpoint of GR00T N1.5") from None
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON: {error}") from error
    if not isinstance(raw, Mapping):
        raise ConfigurationError(f"{file} is no table")
    if raw.get("type") == "groot":
        return GrootConfig.from_dict(CONFIG)
    if "action_head_cfg" not in raw:
        kind = raw.get("model_type") or raw.get("type") or "unknown"
        raise ConfigurationError(f"{file} is of a {kind!r} model, not of GR00T N1.5 (model_type gr00t_n1_5)")
    try:
        return GrootConfig.from_dict(raw)
    except ConfigurationError as error:
        raise ConfigurationError(f"{folder}: {error}") from error


def load_model(
    checkpoint: Checkpoint,
    parts: Parts | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    pad_rows: PadRows = PadRows.MASKED,
) -> Groot:
    """The model on `device`, in evaluation mode, in `dtype` (None: as stored).

    parts: what to hold; None: everything that is published. Raises CheckpointError: a needed key is missing,
    or a file is damaged.
    """
    with torch.device("meta"):
        model = Groot(checkpoint.config, parts, pad_rows)
    wanted = model.state_dict()
    missing = {key for key in wanted if checkpoint.stored(key) is None}
    if missing:
        raise CheckpointError(
            f"{checkpoint.base} lacks {len(missing)} of {len(wanted)} tensors: {listed(missing)}."
            f"{explain(missing)}"
        )
    _check_slots(checkpoint, model.parts)
    state = {key: checkpoint.read(key, device, dtype, model.parts.rows(key)) for key in wanted}
    model.load_state_dict(state, assign=True)
    return model.eval()


def load_processor(
    checkpoint: Checkpoint,
    embodiment: str = "new_embodiment",
    *,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> Processor:
    """The processor of a checkpoint. `changes`: settings in place of the recorded ones (prompt, joints, ...).

    Raises GrootError: no metadata of that embodiment, no tokenizer, or parts that contradict each other.
    """
    own, root = checkpoint.folder, checkpoint.base
    metadata = read_metadata(own if (own / METADATA).is_file() else root, embodiment)
    settings = read_settings(own if (own / PROCESSOR).is_file() else root, metadata)
    tokenizer = load_tokenizer(own if (own / "tokenizer.json").is_file() else root)
    return Processor(checkpoint.config, metadata, replace(settings, **changes), tokenizer, device)


def _base_of(adapter: Adapter, given: str | Path | None) -> Path:
    wanted = str(given or adapter.base)
    if not wanted:
        raise CheckpointError(f"adapter {adapter.folder} names no base checkpoint; give its folder as base")
    try:
        beside = adapter.folder / wanted  # a path from the adapter's folder, so that both move together
        root = beside.resolve() if not given and beside.is_dir() else locate(wanted, FILES)
    except HubError as error:
        raise CheckpointError(
            f"adapter {adapter.folder} was trained on {wanted}, which is not here; give that base's"
            f" folder as base ({error})"
        ) from error
    if (root / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{root}, the base of adapter {adapter.folder}, is an adapter itself")
    return root


def _check(checkpoint: Checkpoint) -> None:
    """Keys and shapes against the published layout."""
    shapes = {key: tuple(shape) for key, shape in published_shapes(checkpoint.config).items()}
    stored = checkpoint.weights.tensors
    unexpected = set(stored) - set(shapes)
    if unexpected:
        raise CheckpointError(
            f"{checkpoint.base} holds {len(unexpected)} tensors that GR00T N1.5 with this config.json lacks:"
            f" {listed(unexpected)}"
        )
    tensors = [(key, tensor) for key, tensor in stored.items()]
    if checkpoint.adapter is not None:
        checkpoint.adapter.check(shapes)
        tensors += list(checkpoint.adapter.trained.items())
    for key, tensor in tensors:
        expected = shapes[key]
        if tensor.slots is not None:
            expected = (len(tensor.slots), *expected[1:])
        if tensor.shape != expected:
            raise CheckpointError(
                f"{tensor.file}: {tensor.key} has shape {tensor.shape}, config.json makes it {expected}"
            )


def _check_slots(checkpoint: Checkpoint, parts: Parts) -> None:
    """That the files hold the embodiment slots that the model wants."""
    count = checkpoint.config.action_head.max_num_embodiments
    wanted = parts.embodiments if parts.embodiments is not None else tuple(range(count))
    for tensor in checkpoint.weights.tensors.values():
        lacking = [] if tensor.slots is None else [slot for slot in wanted if slot not in tensor.slots]
        if lacking:
            raise CheckpointError(
                f"{tensor.file} was saved with embodiment slots {list(tensor.slots or ())} only;"
                f" slots {lacking} are wanted"
            )


def _rows(stored: StoredTensor, slots: tuple[int, ...] | None) -> list[int] | None:
    if slots is None:
        return None
    return list(slots) if stored.slots is None else [stored.slots.index(slot) for slot in slots]
