# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in peft's files: adapter_config.json and adapter_model.safetensors.

They are merged into the weights while these are loaded: W + scale * B A, in float32. What was trained whole
beside them (an embodiment slot's encoders and decoder) is in the same file under its own key and replaces
those rows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from chefmate_policy.groot.layouts import CheckpointError, listed, published_key
from chefmate_policy.groot.weights import EMBODIMENTS, StoredTensor, stored_tensors

__all__ = ["ADAPTER_CONFIG", "Adapter", "LoraPair", "open_adapter", "save_adapter"]

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
# settings that change the formula, and the values at which they do not
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "layer_replication": (None,),
    "use_qalora": (False, None),
}


@dataclass(frozen=True)
class LoraPair:
    """The two factors of one module: A [r, in], B [out, r], and the factor before B A."""

    a: StoredTensor
    b: StoredTensor
    scale: float

    def merge(self, weight: Tensor) -> None:
        """Adds scale * B A to a weight [out, in], in place."""
        a, b = (factor.read(weight.device, torch.float32) for factor in (self.a, self.b))
        weight.copy_(weight.to(torch.float32).addmm_(b, a, alpha=self.scale))


@dataclass(frozen=True)
class Adapter:
    """An adapter's files, unread."""

    folder: Path
    base: str  # folder or hub id that it was trained on, as its configuration says
    pairs: dict[str, LoraPair]  # by published key of the weight
    trained: dict[str, StoredTensor]  # whole tensors (or rows of embodiment slots) that replace the base's

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises CheckpointError naming what does not fit the base model's published shapes."""
        unknown = {key for key in (*self.pairs, *self.trained) if key not in shapes}
        if unknown:
            raise CheckpointError(f"{self.folder}: the model has no {listed(unknown)}")
        for key, pair in self.pairs.items():
            expected, given = tuple(shapes[key]), (pair.b.shape[0], pair.a.shape[1])
            if given != expected or pair.a.shape[0] != pair.b.shape[1]:
                raise CheckpointError(
                    f"{self.folder}: the factors of {key} are {pair.b.shape} and {pair.a.shape};"
                    f" the weight is {expected}"
                )


def open_adapter(folder: Path) -> Adapter:
    """The adapter in a folder. Raises CheckpointError: another kind than LoRA, or damaged files."""
    file = folder / ADAPTER_CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{file}: peft_type is {config.get('peft_type')!r}; only LORA is supported")
    for name, allowed in PLAIN.items():
        if config.get(name, allowed[0]) not in allowed:
            raise CheckpointError(f"{file}: {name} is {config[name]!r}, which is not supported")
    stored, _ = stored_tensors([folder / ADAPTER_WEIGHTS])
    sides: dict[str, dict[str, StoredTensor]] = {}
    trained: dict[str, StoredTensor] = {}
    for key, tensor in stored.items():
        name = key.removeprefix(PREFIX)
        match = LORA.fullmatch(name)
        if match:
            sides.setdefault(match["module"], {})[match["side"]] = tensor
        elif "lora_" in name:
            raise CheckpointError(
                f"{tensor.file}: {key} is not of a linear layer's LoRA; it is not supported"
            )
        else:
            trained[published_key(name)] = tensor
    halves = [module for module, pair in sides.items() if len(pair) != 2]
    if halves:
        raise CheckpointError(f"{folder / ADAPTER_WEIGHTS}: only one of two factors for {listed(halves)}")
    pairs = {
        published_key(f"{module}.weight"): LoraPair(pair["A"], pair["B"], _scale(config, module, pair["A"]))
        for module, pair in sides.items()
    }
    return Adapter(folder, str(config.get("base_model_name_or_path") or ""), pairs, trained)


def save_adapter(
    folder: Path,
    base: str,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    *,
    rank: int,
    alpha: float,
    trained: Mapping[str, Tensor] | None = None,
    embodiments: tuple[int, ...] | None = None,
) -> None:
    """Writes an adapter in peft's files.

    base: folder or hub id. pairs: module path -> (A [r, in], B [out, r]). trained: published key -> tensor;
    those of embodiment slots with the rows of `embodiments`.
    """
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in pairs.items():
        tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
    tensors |= {f"{PREFIX}{key}": tensor for key, tensor in (trained or {}).items()}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "target_modules": sorted(pairs),
        "inference_mode": True,
    }
    slots = {} if embodiments is None else {EMBODIMENTS: ",".join(map(str, embodiments))}
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    save_file(contiguous, str(folder / ADAPTER_WEIGHTS), metadata={"format": "pt", **slots})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _scale(config: Mapping[str, Any], module: str, a: StoredTensor) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA; a pattern's own numbers where one fits."""
    rank = int(_of_pattern(config.get("rank_pattern"), module, config.get("r", a.shape[0])))
    alpha = float(_of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", rank)))
    if rank != a.shape[0]:
        raise CheckpointError(f"{a.file}: {module} has rank {a.shape[0]}; {ADAPTER_CONFIG} says {rank}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
