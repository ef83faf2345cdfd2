# SPDX-License-Identifier: Apache-2.0
"""Optimizer and schedule: AdamW over float32 tensors, cosine with a linear start, as the reference's."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.options import TrainOptions

__all__ = ["decays", "learning_rate", "make_optimizer", "rate_at", "set_rate"]


def learning_rate(step: int, options: TrainOptions) -> float:
    """Rate of step `step` (from 0): up from 0 over `warmup_ratio` of the steps, then half a cosine to 0."""
    rise = math.ceil(options.warmup_ratio * options.max_steps)
    if step < rise:
        return options.learning_rate * step / rise
    share = (step - rise) / max(1, options.max_steps - rise)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def rate_at(share: float, options: TrainOptions) -> float:
    """The same over a share of the run, 0..1, for a run that ends by the clock."""
    if share < options.warmup_ratio:
        return options.learning_rate * share / options.warmup_ratio
    done = (share - options.warmup_ratio) / max(1e-9, 1.0 - options.warmup_ratio)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def decays(name: str, tensor: Tensor) -> bool:
    """Whether weight decay applies: to matrices, not to norms, biases and the slots' `b` (which the reference
    lets decay, since its rule looks for the word bias)."""
    return tensor.ndim >= 2 and not name.endswith((".b", ".bias")) and "norm" not in name.split(".")[-2]


def make_optimizer(
    parameters: Mapping[str, Parameter], options: TrainOptions, *, on_graph: bool = False
) -> Optimizer:
    """AdamW over these, fused into one kernel where there is one.

    on_graph: for a CUDA graph; the rate is then a tensor on the GPU. Raises TrainingError: 8-bit moments are
    wanted and bitsandbytes is not there.
    """
    groups = [
        {
            "params": [tensor for name, tensor in parameters.items() if decays(name, tensor) is decay],
            "weight_decay": options.weight_decay if decay else 0.0,
        }
        for decay in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    betas = (options.adam_beta1, options.adam_beta2)
    first = next(iter(parameters.values()))
    if options.optimizer == "adamw-8bit":
        try:
            from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]
        except ImportError as error:
            raise TrainingError(
                f"optimizer adamw-8bit needs bitsandbytes ({error}); pip install bitsandbytes, or use adamw"
            ) from error
        made: Optimizer = AdamW8bit(groups, lr=options.learning_rate, betas=betas, eps=options.adam_epsilon)
        return made
    rate: float | Tensor = options.learning_rate
    if on_graph:
        rate = torch.tensor(rate, device=first.device)
    return torch.optim.AdamW(
        groups,
        lr=rate,
        betas=betas,
        eps=options.adam_epsilon,
        fused=first.device.type in ("cuda", "cpu"),
        capturable=on_graph,
    )


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the rate of every group, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
