# SPDX-License-Identifier: Apache-2.0
"""A run's checkpoints: `OUT/checkpoint-N`, each a policy that `chefmate up --policy` drives with, and beside
it in `training/` what a resumed run needs to go on as if it had not stopped.

A checkpoint is written into a hidden folder, brought to the disk, and renamed: it is there whole or not at
all, whatever ends the process. An older one is removed only when a newer one is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from chefmate_policy.groot.hub import REPOSITORY
from chefmate_policy.groot.metadata import write_metadata
from chefmate_policy.groot.processor import Processor
from chefmate_policy.groot.saving import save_checkpoint, whole_folder
from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.trainable import Trainable

__all__ = [
    "RUN",
    "STATE",
    "Origin",
    "Progress",
    "checkpoint_folders",
    "clean",
    "differences",
    "read_progress",
    "restore",
    "write_checkpoint",
]

NAME = re.compile(r"checkpoint-(\d+)")
LEFT = re.compile(r"\.+checkpoint-\d+\..*partial$|\.old-checkpoint-\d+$")  # half written, half removed
RUN, STATE = Path("training", "run.json"), Path("training", "state.safetensors")
# options that a resumed run may change: they do not enter the numbers of a step, or (data and base, which may
# have been moved) their contents are compared instead
FREE = {
    "hours", "output_dir", "save_steps", "save_total_limit", "log_steps", "eval_steps", "resume", "merge",
    "device", "compile", "dataloader_num_workers", "dataloader_prefetch_factor", "allow_shortcut",
    "dataset_path", "base_model_path", "base_revision",
}  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Where a run's weights come from; the hash tells whether a base found elsewhere is the same."""

    name: str  # hub id, member name, or folder
    kind: str  # hub, member or folder
    folder: Path | None
    sha256: str | None  # over the weight files, in the order of their names
    revision: str | None = None  # of a hub id

    @classmethod
    def of(cls, name: str, folder: Path | None, revision: str | None = None) -> Origin:
        """Reads all weight files once. folder: where the base is; None: random weights of a member."""
        if folder is None:
            return cls(name, "member", None, None)
        digest = hashlib.sha256()
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest() if DIGEST else _digest(stream))
        is_hub = not Path(name).expanduser().exists() and REPOSITORY.fullmatch(name) is not None
        return cls(name, "hub" if is_hub else "folder", folder, digest.hexdigest(), revision)

    def seen_from(self, folder: Path) -> str:
        """What an adapter in `folder` names as its base: the hub id, else a path relative to that folder, so
        that both can be moved together."""
        if self.kind != "folder" or self.folder is None:
            return self.name
        return os.path.relpath(self.folder.resolve(), folder.resolve())

    def to_dict(self, folder: Path) -> dict[str, Any]:
        return {
            "name": self.seen_from(folder),
            "kind": self.kind,
            "revision": self.revision,
            "sha256": self.sha256,
        }


DIGEST = hasattr(hashlib, "file_digest")  # from Python 3.11 on


def _digest(stream: Any) -> bytes:
    digest = hashlib.sha256()
    while block := stream.read(2**20):
        digest.update(block)
    return digest.digest()


@dataclass(frozen=True)
class Progress:
    """How far a run is, and what it is made of."""

    step: int
    seconds: float  # of training, over all sessions of the run
    options: dict[str, Any]
    base: dict[str, Any]
    data: dict[str, str]  # fingerprints by dataset
    software: dict[str, str]  # revision of this repository and versions of libraries
    figures: dict[str, Any]  # newest loss and evaluation
    made_of: dict[str, Any] = field(default_factory=dict)  # provenance.made_of

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def checkpoint_folders(output: Path) -> list[tuple[int, Path]]:
    """Whole checkpoints by step, oldest first."""
    found = [(NAME.fullmatch(path.name), path) for path in output.glob("checkpoint-*")]
    return sorted((int(match[1]), path) for match, path in found if match and (path / RUN).is_file())


def clean(output: Path) -> None:
    """Removes what a killed run left half written."""
    for path in output.glob(".*"):
        if LEFT.match(path.name):
            shutil.rmtree(path, ignore_errors=True)


def write_checkpoint(
    output: Path,
    trainable: Trainable,
    processor: Processor,
    optimizer: Optimizer,
    progress: Progress,
    origin: Origin,
    keep: int,
) -> Path:
    """Writes `checkpoint-<step>` and then removes the oldest beyond `keep`; returns its folder.

    Raises TrainingError: the disk is full or cannot be written; earlier checkpoints are as they were.
    """
    folder = output / f"checkpoint-{progress.step}"
    if (folder / RUN).is_file():
        return folder
    state = state_of(trainable, optimizer)
    try:
        with whole_folder(folder) as partial:
            if trainable.uses_lora:
                trainable.save_adapter(partial, origin.seen_from(folder))
                write_metadata(partial, processor.metadata)
                processor.settings.write(partial)
                processor.tokenizer.save(partial)
            else:
                save_checkpoint(trainable.model, partial, processor=processor, complete=False)
            (partial / RUN).parent.mkdir()
            save_file(state, str(partial / STATE))
            report = progress.to_dict() | {"base": origin.to_dict(folder)}
            (partial / RUN).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise TrainingError(_cannot_write(folder, state, error)) from error
    for _, old in checkpoint_folders(output)[:-keep]:
        hidden = old.with_name(f".old-{old.name}")
        old.rename(hidden)  # so that nobody sees half of it
        shutil.rmtree(hidden, ignore_errors=True)
    return folder


def state_of(trainable: Trainable, optimizer: Optimizer) -> dict[str, Tensor]:
    """Trained tensors and the optimizer's, on the CPU: `parameter.NAME`, `optimizer.KEY.NAME`."""
    names = {id(tensor): name for name, tensor in trainable.parameters.items()}
    state = {f"parameter.{name}": tensor.cpu().contiguous() for name, tensor in trainable.state().items()}
    for tensor, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                state[f"optimizer.{key}.{names[id(tensor)]}"] = value.detach().cpu().contiguous()
    return state


def read_progress(folder: Path) -> Progress:
    """Of a checkpoint. Raises TrainingError: it cannot be read."""
    file = folder / RUN
    try:
        return Progress(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{file} cannot be read ({error}); resume from an older checkpoint") from error


def restore(folder: Path, trainable: Trainable, optimizer: Optimizer) -> None:
    """Puts the trained tensors and the optimizer's state back. Raises TrainingError: they do not fit."""
    try:
        state = load_file(str(folder / STATE))
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{folder / STATE} cannot be read ({error}); remove {folder} to resume from an older checkpoint"
        ) from error
    prefix = "parameter."
    trainable.load_state(
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    )
    names = {id(tensor): name for name, tensor in trainable.parameters.items()}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(order))}
    index_of = {names[id(parameter)]: index for index, parameter in enumerate(order)}
    for name, value in state.items():
        if name.startswith("optimizer."):
            _, key, parameter_name = name.split(".", 2)
            entries[index_of[parameter_name]][key] = value
    groups = optimizer.state_dict()["param_groups"]
    kept = {index: entry for index, entry in entries.items() if entry}
    optimizer.load_state_dict({"state": kept, "param_groups": groups})


def differences(before: Mapping[str, Any], options: TrainOptions) -> list[str]:
    """Options that a resumed run must not change and did, as `name: before -> now`. An option that the
    run's version did not have was at what is the default now."""
    now, then = options.to_dict(), TrainOptions().to_dict() | dict(before)
    return [
        f"{name}: {then[name]!r} -> {value!r}"
        for name, value in now.items()
        if name not in FREE and then[name] != value
    ]


def _cannot_write(folder: Path, state: Mapping[str, Tensor], error: Exception) -> str:
    needed = 2 * sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    free = shutil.disk_usage(folder.parent).free
    older = [path.name for _, path in checkpoint_folders(folder.parent)]
    return (
        f"{folder} cannot be written ({error}): about {needed / 1e9:.3g} GB are needed, {free / 1e9:.3g} GB"
        f" are free on that disk. Whole checkpoints there: {', '.join(older) or 'none'}; free some space and"
        " start again with --resume"
    )
