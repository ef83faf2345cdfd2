# SPDX-License-Identifier: Apache-2.0
"""Flow matching: from noise at time 0 to actions at time 1 along a straight line.

x_t = (1 - t) noise + t actions; the model learns the velocity actions - noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chefmate_policy.groot.config import ActionHeadConfig
from chefmate_policy.groot.errors import InputError

__all__ = ["FlowSample", "denoising_buckets", "flow_loss", "interpolate", "sample_time", "time_buckets"]


@dataclass(frozen=True)
class FlowSample:
    """A point on the way, and what the model should say there."""

    x_t: Tensor  # [B, H, A]
    velocity: Tensor  # [B, H, A]
    buckets: Tensor  # [B] int64


def sample_time(
    head: ActionHeadConfig,
    batch: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Times [B] float32 of a training batch: t = (s - b) / s with b ~ Beta(alpha, 1), s = noise_s.

    The second parameter of the Beta distribution is 1 in every published configuration, so that
    b = u^(1/alpha) for u uniform, which a generator can seed. t may be slightly negative.
    """
    if head.noise_beta_beta != 1.0:
        raise InputError(f"noise_beta_beta is {head.noise_beta_beta}; only 1.0, as published, is supported")
    where = generator.device if generator is not None else device
    uniform = torch.rand(batch, generator=generator, device=where)
    beta = uniform ** (1.0 / head.noise_beta_alpha)
    return ((head.noise_s - beta) / head.noise_s).to(device or beta.device)


def time_buckets(time: Tensor, head: ActionHeadConfig) -> Tensor:
    """t [B] -> integer time [B] int64, rounded towards zero."""
    return (time * head.num_timestep_buckets).long()


def interpolate(actions: Tensor, noise: Tensor, time: Tensor, head: ActionHeadConfig) -> FlowSample:
    """actions, noise [B, H, A], time [B] -> the training sample."""
    t = time[:, None, None]
    return FlowSample((1 - t) * noise + t * actions, actions - noise, time_buckets(time, head))


def flow_loss(predicted: Tensor, target: Tensor, action_mask: Tensor) -> Tensor:
    """Mean squared error over the elements that count: all [B, H, A], mask 0 or 1 -> scalar float32."""
    weight = action_mask.to(torch.float32)
    error = (predicted.float() - target.float()) ** 2
    return (error * weight).sum() / weight.sum()


def denoising_buckets(steps: int, head: ActionHeadConfig) -> list[int]:
    """Integer times at the start of each of `steps` Euler steps: for 4 of them 0, 250, 500, 750."""
    if steps < 1:
        raise InputError(f"denoising steps must be at least 1, got {steps}")
    return [int(step / float(steps) * head.num_timestep_buckets) for step in range(steps)]
