# SPDX-License-Identifier: Apache-2.0
"""Encoders and decoder of which every embodiment has its own weights ("slots").

The published checkpoint has 32 slots; a robot uses one. A module may be built with a few of them: its
tensors then have fewer rows, and `EmbodimentSlots` says which published slot each row is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from chefmate_policy.groot.errors import InputError

__all__ = [
    "EMBODIMENT_IDS",
    "ActionEncoder",
    "EmbodimentLinear",
    "EmbodimentMLP",
    "EmbodimentSlots",
    "action_time_embedding",
]

# embodiment tag -> slot of the published checkpoint; 31 is the slot for new robots, not pretrained
EMBODIMENT_IDS = {"new_embodiment": 31, "oxe_droid": 17, "gr1": 24, "agibot_genie1": 26}


@dataclass(frozen=True)
class EmbodimentSlots:
    """Which of the checkpoint's slots a model holds: all `count` of them, or `kept` in this order."""

    count: int
    kept: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for slot in self.kept or ():
            if not 0 <= slot < self.count:
                raise InputError(
                    f"embodiment slot {slot} does not exist: the model has slots 0..{self.count - 1}"
                )
        if self.kept is not None and (not self.kept or len(set(self.kept)) != len(self.kept)):
            raise InputError(f"embodiment slots to keep must be distinct and at least one, got {self.kept}")

    @property
    def rows(self) -> int:
        """Rows of the tensors."""
        return self.count if self.kept is None else len(self.kept)

    def row(self, slot: int) -> int:
        """Row that holds a published slot. Raises InputError when it was dropped or never was."""
        held: Sequence[int] = range(self.count) if self.kept is None else self.kept
        if slot not in held:
            raise InputError(
                f"embodiment slot {slot} is not in this model, which holds {list(held)};"
                " load the checkpoint with that slot kept"
            )
        return list(held).index(slot)

    def to_rows(self, slots: Tensor) -> Tensor:
        """Published slots [B] int64 -> rows [B] int64 on the same device."""
        return torch.tensor([self.row(int(slot)) for slot in slots.tolist()], device=slots.device)


class EmbodimentLinear(nn.Module):
    """x @ W[row] + b[row]."""

    def __init__(self, rows: int, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.W = nn.Parameter(0.02 * torch.randn(rows, input_dim, output_dim))
        self.b = nn.Parameter(torch.zeros(rows, output_dim))

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """x [B, T, input], rows [B] int64 -> [B, T, output]."""
        if self.W.shape[0] == 1:  # one slot kept: no weights to gather
            return x @ self.W[0] + self.b[0]
        return torch.baddbmm(self.b[rows].unsqueeze(1), x, self.W[rows])


class EmbodimentMLP(nn.Module):
    """Two layers with a ReLU between: state encoder and action decoder."""

    def __init__(self, rows: int, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.layer1 = EmbodimentLinear(rows, input_dim, hidden_dim)
        self.layer2 = EmbodimentLinear(rows, hidden_dim, output_dim)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """x [B, T, input], rows [B] -> [B, T, output]."""
        hidden: Tensor = F.relu(self.layer1(x, rows))
        output: Tensor = self.layer2(hidden, rows)
        return output


class ActionEncoder(nn.Module):
    """Noisy actions and the time of the flow -> one token per action step."""

    def __init__(self, rows: int, action_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.W1 = EmbodimentLinear(rows, action_dim, hidden_dim)
        self.W2 = EmbodimentLinear(rows, 2 * hidden_dim, hidden_dim)
        self.W3 = EmbodimentLinear(rows, hidden_dim, hidden_dim)

    def forward(self, actions: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        """actions [B, H, A], time [B or 1, W] of `action_time_embedding`, rows [B] -> [B, H, W]."""
        tokens: Tensor = self.W1(actions, rows)
        times = time.to(tokens.dtype).unsqueeze(1).expand(*tokens.shape[:2], self.hidden_dim)
        hidden: Tensor = F.silu(self.W2(torch.cat([tokens, times], dim=-1), rows))
        output: Tensor = self.W3(hidden, rows)
        return output


def action_time_embedding(buckets: Tensor, width: int) -> Tensor:
    """Sinusoids of the integer time: buckets [S] -> [S, width] float32, sines first, up to 1e4 a radian."""
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=buckets.device) * (math.log(10_000.0) / half)
    angles = buckets.to(torch.float32).unsqueeze(-1) * torch.exp(-exponent)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
