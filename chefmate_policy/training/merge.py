# SPDX-License-Identifier: Apache-2.0
"""The end of a run as a plain checkpoint: adapters added to their weights, bf16, in the published layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from chefmate_policy.groot.checkpoint import Checkpoint
from chefmate_policy.groot.model import published_shapes
from chefmate_policy.groot.processor import Processor
from chefmate_policy.groot.saving import save_checkpoint
from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.trainable import Trainable

__all__ = ["write_merged"]


def write_merged(trainable: Trainable, processor: Processor, source: Checkpoint | None, folder: Path) -> Path:
    """Writes it and returns the folder; one that is there is replaced. The Trainable is used up.

    source: the base, from which come the tensors that a fine-tune does not load (unused heads, other slots),
    so that any loader of N1.5 takes the result; without it (a member from random weights) they are left out.
    Raises TrainingError: the disk is full.
    """
    model = trainable.merge(torch.bfloat16).to(torch.bfloat16)
    if folder.exists():
        shutil.rmtree(folder)
    complete = source is not None and _is_whole(source)
    try:
        save_checkpoint(
            model, folder, source=source if complete else None, processor=processor, complete=complete
        )
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{folder} cannot be written: {error}") from error
    return folder


def _is_whole(source: Checkpoint) -> bool:
    """Whether the base holds every published tensor with all its slots."""
    stored = [source.stored(key) for key in published_shapes(source.config)]
    return all(tensor is not None and tensor.slots is None for tensor in stored)
