# SPDX-License-Identifier: Apache-2.0
"""The diffusion transformer that turns noisy action tokens into velocities, and the self-attention over the
backbone's features that stands before it.

What depends on the time of the flow only (`Modulation`) and what depends on the observation only (keys and
values of the cross-attention) is computed apart from `DiT.forward`, so that neither is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from chefmate_policy.groot.attention import Attention, FeedForward, KeysValues
from chefmate_policy.groot.config import ActionHeadConfig, TransformerConfig

__all__ = ["DiT", "Modulation", "VisionLanguageSelfAttention"]

TIME_CHANNELS = 256  # sinusoids of the DiT's time, as in the reference
BLOCK_EPS, OUTPUT_EPS = 1e-5, 1e-6  # LayerNorm in the blocks, and of the output stage


@dataclass(frozen=True)
class Modulation:
    """Scale and shift of every adaptive LayerNorm at one time of the flow, each [B or 1, 1, dim]."""

    blocks: tuple[tuple[Tensor, Tensor], ...]
    output: tuple[Tensor, Tensor]

    def at(self, step: int) -> Modulation:
        """Of one step, where the leading axis counts steps."""
        one = slice(step, step + 1)
        return Modulation(
            tuple((scale[one], shift[one]) for scale, shift in self.blocks),
            (self.output[0][one], self.output[1][one]),
        )


class _TimestepEmbedder(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIME_CHANNELS, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return output


class TimestepEncoder(nn.Module):
    """Integer time -> embedding: cosines first, 128 frequencies from 1 down to 1e-4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder = _TimestepEmbedder(dim)

    def forward(self, buckets: Tensor) -> Tensor:
        """buckets [S] int64 -> [S, dim]."""
        waves = timestep_waves(buckets).to(self.timestep_embedder.linear_1.weight.dtype)
        output: Tensor = self.timestep_embedder(waves)
        return output


def timestep_waves(buckets: Tensor) -> Tensor:
    """Sinusoids of the DiT's integer time: buckets [S] -> [S, TIME_CHANNELS] float32."""
    half = TIME_CHANNELS // 2
    # in this order, as the reference: an angle of 999 turns one rounding of the frequency into 1e-4 rad
    exponent = torch.arange(half, dtype=torch.float32, device=buckets.device) * -math.log(10_000.0)
    angles = buckets.to(torch.float32).unsqueeze(-1) * torch.exp(exponent / (half - 1))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class _AdaptiveNorm(nn.Module):
    """LayerNorm whose scale and shift come from the time embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def modulation(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """embedding [S, dim] -> scale, shift [S, 1, dim]."""
        scale, shift = self.linear(F.silu(embedding)).unsqueeze(1).chunk(2, dim=-1)
        return scale, shift


class DiTBlock(nn.Module):
    """Adaptive norm, one attention (cross or self), residual, norm, feed-forward, residual."""

    def __init__(self, dim: int, config: TransformerConfig, context_dim: int | None) -> None:
        super().__init__()
        self.is_cross = context_dim is not None
        self.norm1 = _AdaptiveNorm(dim)
        self.attn1 = Attention(
            dim, config.num_attention_heads, config.attention_head_dim, config.dropout, context_dim
        )
        self.ff = FeedForward(dim, config.dropout, config.final_dropout)
        self.final_dropout = nn.Dropout(config.dropout if config.final_dropout else 0.0)

    def forward(
        self, x: Tensor, scale: Tensor, shift: Tensor, context: KeysValues | None, mask: Tensor | None
    ) -> Tensor:
        """x [B, T, dim]; context keys and values of a cross-attention block -> [B, T, dim]."""
        y = _norm(x, BLOCK_EPS) * (1 + scale) + shift
        attended = self.attn1(y, context or self.attn1.keys_values(y), mask if self.is_cross else None)
        x = x + self.final_dropout(attended)
        output: Tensor = x + self.ff(_norm(x, BLOCK_EPS))
        return output


class DiT(nn.Module):
    """Blocks with even index attend to the observation's features, odd ones among the tokens."""

    def __init__(self, head: ActionHeadConfig) -> None:
        super().__init__()
        dim, features = head.input_embedding_dim, head.backbone_embedding_dim
        self.timestep_encoder = TimestepEncoder(dim)
        self.transformer_blocks = nn.ModuleList(
            DiTBlock(dim, head.dit, features if index % 2 == 0 else None)
            for index in range(head.dit.num_layers)
        )
        self.proj_out_1 = nn.Linear(dim, 2 * dim)
        self.proj_out_2 = nn.Linear(dim, head.hidden_size)

    @property
    def blocks(self) -> list[DiTBlock]:
        return [block for block in self.transformer_blocks if isinstance(block, DiTBlock)]

    def modulation(self, buckets: Tensor) -> Modulation:
        """buckets [S] int64 (one per sample, or one per denoising step) -> scales and shifts [S, 1, dim]."""
        embedding = self.timestep_encoder(buckets)
        shift, scale = self.proj_out_1(F.silu(embedding)).unsqueeze(1).chunk(2, dim=-1)
        return Modulation(tuple(block.norm1.modulation(embedding) for block in self.blocks), (scale, shift))

    def keys_values(self, features: Tensor) -> list[KeysValues | None]:
        """features [B, L, D] -> per block what it attends to; None where it is self-attention."""
        return [block.attn1.keys_values(features) if block.is_cross else None for block in self.blocks]

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        context: Sequence[KeysValues | None],
        mask: Tensor | None = None,
    ) -> Tensor:
        """x [B, T, dim]; context of `keys_values`; mask [B, 1, 1, L] bool over features -> [B, T, output]."""
        for block, (scale, shift), keys_values in zip(self.blocks, modulation.blocks, context, strict=True):
            x = block(x, scale, shift, keys_values, mask)
        scale, shift = modulation.output
        output: Tensor = self.proj_out_2(_norm(x, OUTPUT_EPS) * (1 + scale) + shift)
        return output


class _FeatureBlock(nn.Module):
    """Pre-norm transformer block with affine norms."""

    def __init__(self, dim: int, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.attn1 = Attention(dim, config.num_attention_heads, config.attention_head_dim, config.dropout)
        self.norm3 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.ff = FeedForward(dim, config.dropout, config.final_dropout)
        self.final_dropout = nn.Dropout(config.dropout if config.final_dropout else 0.0)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.norm1(x)
        x = x + self.final_dropout(self.attn1(y, self.attn1.keys_values(y), mask))
        output: Tensor = x + self.ff(self.norm3(x))
        return output


class VisionLanguageSelfAttention(nn.Module):
    """Bidirectional self-attention over the backbone's features; no final norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(
            _FeatureBlock(config.inner_dim, config) for _ in range(config.num_layers)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, L, D]; mask [B, 1, 1, L] bool, true where a token counts -> [B, L, D]."""
        for block in self.transformer_blocks:
            x = block(x, mask)
        return x


def _norm(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps)
