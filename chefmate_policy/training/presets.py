# SPDX-License-Identifier: Apache-2.0
"""Configurations by name: the one whose run was found not to train what its flags said (2025-10-19), and the
five that its authors then compared for memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chefmate_policy.training.errors import OptionError

__all__ = ["PRESETS", "SEEDS", "Preset", "preset"]

SEEDS = "seeds-2025-10-19"


@dataclass(frozen=True)
class Preset:
    """Options under a name."""

    description: str
    options: Mapping[str, Any]


_COMMON: dict[str, Any] = {
    "data_config": "so100_dualcam",
    "max_steps": 10_000,
    "batch_size": 16,
    "balance_dataset_weights": True,
    "balance_trajectory_weights": True,
    "tune_projector": True,
    "tune_diffusion_model": True,
}


def _memory(rank: int, llm: bool, visual: bool) -> dict[str, Any]:
    return _COMMON | {"lora_rank": rank, "lora_alpha": 2 * rank, "tune_llm": llm, "tune_visual": visual}


PRESETS: dict[str, Preset] = {
    SEEDS: Preset(
        "cheese and bread, adapters of rank 32, --no-tune_diffusion_model",
        _memory(32, False, False) | {"tune_diffusion_model": False},
    ),
    "seeds-frozen": Preset("memory 1 of 5: frozen backbone", _memory(32, False, False)),
    "seeds-llm-r16": Preset("memory 2 of 5: language model, rank 16", _memory(16, True, False)),
    "seeds-llm-r32": Preset("memory 3 of 5: language model, rank 32", _memory(32, True, False)),
    "seeds-llm-vision-r16": Preset("memory 4 of 5: language model and vision, 16", _memory(16, True, True)),
    "seeds-llm-vision-r32": Preset("memory 5 of 5: language model and vision, 32", _memory(32, True, True)),
}


def preset(name: str) -> Preset:
    """A preset by name. Raises OptionError naming those there are."""
    if name not in PRESETS:
        raise OptionError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
