# SPDX-License-Identifier: Apache-2.0
"""What a configuration needs on a GPU: predicted from counts, and what to set on a GPU of a given size.

Memory is weights, gradients and Adam's moments, which `params` counts, and activations per sample, which were
measured on one H200 with this repository's bench (`chefmate_policy/training/bench.py`, two cameras, a prompt
of some 560 tokens; table in docs/training.md). Times are those of that GPU; another one's are measured on it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.params import planned

__all__ = ["CONTEXT_GB", "Need", "advise", "predict"]

CONTEXT_GB = 0.5  # CUDA's context and libraries, which torch does not count
BATCH = 32  # samples of an optimizer step that advice keeps to, as the reference's default
EMBEDDING_GB = 0.621  # bf16 table of the language model, which stays off the GPU while it does not train
FIXED_GB = 0.35  # measured: work space, and what batch size does not change
# GB per sample, measured (H200, 2026-11-21 and 22, docs/training.md): activations of the parts that need
# gradients; kept, and with checkpointing. Vision and language model were measured together; their split is by
# size, and unproven
KEPT_GB = {"vision": 0.62, "language": 0.575, "head": 0.3075}
AGAIN_GB = {"vision": 0.0875, "language": 0.064, "head": 0.1475}
# ms on that GPU, recorded step, bf16: of a step whatever its batch, and per sample and part; the last for
# computing activations again
STEP_MS = 22.0
FORWARD_MS = {"vision": 1.2, "language": 1.3, "head": 0.9}
BACKWARD_MS = {"vision": 2.5, "language": 2.95, "head": 1.56}
AGAIN_MS = {"vision": 2.6, "language": 3.0, "head": 1.81}
# An update reads weight, gradient and two moments and writes all but the gradient, 28 bytes a parameter of
# float32 (4 of weight), at 4.3 TB/s; autocast keeps a bf16 copy of what trains
UPDATE_MS_PER_GB = 7.0 / 4.3
COPY = 0.5
# compiled layers against others, batch 16 of everything at rank 32; not known for other configurations
COMPILED = {False: (0.82, 0.74), True: (0.74, 0.61)}  # by checkpointing: activations, time


@dataclass(frozen=True)
class Need:
    """Of one configuration."""

    options: TrainOptions
    static_gb: float  # weights, gradients, moments
    activations_gb: float
    ms: float | None  # a step's time on an H200; None: not known for this size

    @property
    def peak_gb(self) -> float:
        """What torch reserves at most, GB = 1e9 bytes."""
        return self.static_gb + self.activations_gb

    def to_dict(self) -> dict[str, Any]:
        return {
            "batch_size": self.options.batch_size,
            "gradient_accumulation_steps": self.options.gradient_accumulation_steps,
            "gradient_checkpointing": self.options.gradient_checkpointing,
            "compile": self.options.compile,
            "optimizer": self.options.optimizer,
            "static_gb": round(self.static_gb, 2),
            "activations_gb": round(self.activations_gb, 2),
            "peak_gb": round(self.peak_gb, 2),
            "ms_per_step_h200": None if self.ms is None else round(self.ms, 1),
        }


def predict(options: TrainOptions) -> Need:
    """Of a full-size configuration with bf16 frozen weights; no weights are read."""
    return _scaled(options, _static(_batchless(options)))


def advise(options: TrainOptions, gpu_gb: float) -> Need | None:
    """The fastest way to train what these options train on a GPU of so many GB: the largest batch that fits,
    accumulated to 32 samples, with checkpointing where it allows a larger batch, and compiled layers where
    they are faster; None: nothing fits."""
    room, static = gpu_gb - CONTEXT_GB, _static(_batchless(options))
    best: Need | None = None
    for again, compiled in itertools.product((False, True), {options.compile, True}):
        for batch in (32, 16, 8, 4, 2, 1):
            tried = replace(
                options,
                batch_size=batch,
                gradient_accumulation_steps=BATCH // batch,
                gradient_checkpointing=again,
                compile=compiled,
            )
            need = _scaled(tried, static)
            if need.peak_gb > room:
                continue
            if best is None or (need.ms or 0.0) < (best.ms or 0.0):
                best = need
            break
    return best


def _batchless(options: TrainOptions) -> TrainOptions:
    return replace(
        options, batch_size=1, gradient_accumulation_steps=1, gradient_checkpointing=False, compile=False
    )


@lru_cache(maxsize=64)
def _static(options: TrainOptions) -> tuple[float, float]:
    """GB of weights, gradients, moments and copies; GB of what trains."""
    total = planned(options, torch.bfloat16).total
    summed = (total.frozen_bytes + total.trained_bytes + total.gradient_bytes + total.optimizer_bytes) / 1e9
    embedded = options.tune_llm and not options.lora_rank
    trained = total.trained_bytes / 1e9
    return summed + COPY * trained - (0.0 if embedded else EMBEDDING_GB), trained


def _scaled(options: TrainOptions, static: tuple[float, float]) -> Need:
    """Activations begin at the first part that trains: what stands before it keeps none."""
    parts = ["head"]
    if options.tune_llm or options.tune_visual:
        parts.append("language")
    if options.tune_visual:
        parts.append("vision")
    again = options.gradient_checkpointing
    space, speed = COMPILED[again] if options.compile else (1.0, 1.0)
    table = AGAIN_GB if again else KEPT_GB
    activations = FIXED_GB + options.batch_size * space * sum(table[part] for part in parts)
    sample = sum(FORWARD_MS.values()) + sum(BACKWARD_MS[part] for part in parts)
    sample += sum(AGAIN_MS[part] for part in parts) if again else 0.0
    one = speed * (STEP_MS + options.batch_size * sample)
    step = one * options.gradient_accumulation_steps + UPDATE_MS_PER_GB * static[1]
    return Need(options, static[0], activations, step)
