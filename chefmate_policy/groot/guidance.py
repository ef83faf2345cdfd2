# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking: the flow is led to a chunk that goes on from the one that the arm executes.

After Black, Galliker and Levine, "Real-time execution of action chunking flow policies" (arXiv 2506.07339):
the actions that will be past or under way when the new chunk arrives are held to the old chunk with weight
1, those that both chunks hold with a weight that falls, the others not at all. At time t of the flow the
velocity is corrected by min(most, (1 - t) / (t r^2)) times the weighted error of the actions that it would
lead to, pulled back through the model, with r^2 = (1 - t)^2 / (t^2 + (1 - t)^2).

The hard prefix instead lays the first actions on the straight line from their noise to the old chunk: the
model sees them on their way, and they come out exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from chefmate_policy.groot.errors import InputError

__all__ = ["MOST", "Prefix", "PrefixGuide", "guidance_weight", "prefix_weights", "pull_back"]

MOST = 5.0  # limit of the guidance weight, as in the paper


@dataclass(frozen=True)
class Prefix:
    """What is left of the chunk before, on the new chunk's steps."""

    actions: Tensor  # [M, D], normalised; M at most the horizon
    frozen: int  # how many of them will be past or under way when the new chunk arrives
    hard: bool = False  # only the frozen ones, exactly; else all of them, softly
    most: float = MOST
    jacobian: bool = True  # pull errors back through the model; False: as if it were the identity


def prefix_weights(horizon: int, frozen: int, overlap: int, hard: bool = False) -> Tensor:
    """Weights [horizon] float32: 1 for the frozen steps, then falling to 0 at `overlap` (hard: at once).

    With c = (overlap - i) / (overlap - frozen + 1), the weight of step i is c (e^c - 1) / (e - 1). Raises
    InputError unless 0 <= frozen <= overlap <= horizon.
    """
    if not 0 <= frozen <= overlap <= horizon:
        raise InputError(
            f"a prefix of {overlap} steps, {frozen} of them frozen, does not fit a chunk of {horizon}"
        )
    weights = torch.zeros(horizon)
    weights[:frozen] = 1.0
    if not hard:
        for step in range(frozen, overlap):
            share = (overlap - step) / (overlap - frozen + 1)
            weights[step] = share * math.expm1(share) / math.expm1(1.0)
    return weights


def guidance_weight(time: float, most: float = MOST) -> float:
    """min(most, (1 - t) / (t r^2)), which is (t^2 + (1 - t)^2) / (t (1 - t)); time in [0, 1)."""
    rest = 1.0 - time
    if time <= 0.0:
        return most
    return min(most, (time * time + rest * rest) / (time * rest))


class PrefixGuide:
    """A prefix for a model of H steps and A dimensions. Called as the engine's `Guide` it corrects a velocity
    as if the model were the identity; `pulled` says whether it is to be pulled back through the model."""

    def __init__(self, prefix: Prefix, horizon: int, width: int, device: torch.device | str = "cpu") -> None:
        """Raises InputError for a prefix that does not fit [horizon, width] or is not finite."""
        overlap, dimensions = prefix.actions.shape
        if dimensions > width:
            raise InputError(f"the prefix has {dimensions} dimensions, the model {width}")
        if not bool(torch.isfinite(prefix.actions).all()):
            raise InputError("the prefix holds values that are not finite")
        target, weights = torch.zeros(1, horizon, width), torch.zeros(1, horizon, width)
        falling = prefix_weights(horizon, prefix.frozen, overlap, prefix.hard)
        target[0, :overlap, :dimensions] = prefix.actions.to("cpu", torch.float32)
        weights[0, :, :dimensions] = falling[:, None]
        self.target, self.weights = target.to(device), weights.to(device)  # [1, H, A]
        self.hard, self.most = prefix.hard, prefix.most
        self.idle = not bool(weights.any())
        self.pulled = prefix.jacobian and not prefix.hard and not self.idle

    def __call__(self, x: Tensor, velocity: Tensor, time: float) -> Tensor:
        """State and velocity [1, H, A] float32 at a time of the flow -> the velocity that leads to the
        prefix."""
        if self.idle:
            return velocity
        rest = 1.0 - time
        if self.hard:
            return torch.where(self.weights > 0.0, (self.target - x) / rest, velocity)
        return velocity + self.strength(time) * (self.target - (x + rest * velocity))

    def strength(self, time: float) -> Tensor:
        """[1, H, A]: the guidance weight at a time, times the steps' weights."""
        return guidance_weight(time, self.most) * self.weights


def pull_back(x: Tensor, velocity: Tensor, target: Tensor, strength: Tensor, rest: float) -> Tensor:
    """The corrected velocity, the error pulled back through the model by its vector-Jacobian product.

    x requires a gradient and `velocity` was worked from it under autograd; all [1, H, A]. With the actions
    X = x + rest velocity(x) that x leads to, the correction is (dX/dx)^T strength (target - X).
    """
    error = strength * (target - (x + rest * velocity)).detach()
    (pulled,) = torch.autograd.grad(velocity, x, error)
    return velocity.detach() + error + rest * pulled
