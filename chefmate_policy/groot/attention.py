# SPDX-License-Identifier: Apache-2.0
"""Attention and feed-forward of the action head's blocks, with the key names of the published checkpoint."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["Attention", "FeedForward", "KeysValues"]

KeysValues = tuple[Tensor, Tensor]  # [B, heads, S, head_dim] each


class Attention(nn.Module):
    """Multi-head attention with biases everywhere; keys and values may come from elsewhere and be kept."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, dropout: float, context_dim: int | None = None
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads, self.head_dim = heads, head_dim
        self.to_q = nn.Linear(dim, inner)
        self.to_k = nn.Linear(context_dim or dim, inner)
        self.to_v = nn.Linear(context_dim or dim, inner)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def keys_values(self, context: Tensor) -> KeysValues:
        """context [B, S, context_dim] -> keys and values of this block."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None) -> Tensor:
        """x [B, T, dim]; mask [B, 1, 1 or T, S] bool, true where a key counts -> [B, T, dim]."""
        queries = self._split(self.to_q(x))
        mixed = F.scaled_dot_product_attention(queries, *keys_values, attn_mask=mask)
        output: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return output

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, self.head_dim).transpose(1, 2)


class _GELUProjection(nn.Module):
    """Linear, then GELU in its tanh form; a module of its own because its key is `net.0.proj`."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """dim -> 4 dim -> dim."""

    def __init__(self, dim: int, dropout: float, final_dropout: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(
            _GELUProjection(dim, 4 * dim),
            nn.Dropout(dropout),
            nn.Linear(4 * dim, dim),
            nn.Dropout(dropout if final_dropout else 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] -> [B, T, dim]."""
        output: Tensor = self.net(x)
        return output
