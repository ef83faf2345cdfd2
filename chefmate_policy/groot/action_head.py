# SPDX-License-Identifier: Apache-2.0
"""The action head: features of an observation -> velocities of the flow.

In three parts, so that each runs as seldom as it can: `observe` once per observation, `steps` once per number
of denoising steps, `velocity` once per denoising step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chefmate_policy.groot.attention import KeysValues
from chefmate_policy.groot.config import ActionHeadConfig
from chefmate_policy.groot.dit import DiT, Modulation, VisionLanguageSelfAttention
from chefmate_policy.groot.embodiment import (
    ActionEncoder,
    EmbodimentMLP,
    EmbodimentSlots,
    action_time_embedding,
)
from chefmate_policy.groot.flow import denoising_buckets

__all__ = ["ActionHead", "Observed", "Times"]


@dataclass(frozen=True)
class Observed:
    """What the denoising needs of one batch of observations."""

    prefix: Tensor  # [B, 1 + F, E]: state token and learned tokens
    context: list[KeysValues | None]  # per DiT block
    mask: Tensor | None  # [B, 1, 1, L] bool over features
    rows: Tensor  # [B] int64, embodiment rows


@dataclass(frozen=True)
class Times:
    """What the denoising needs of points in time: one per sample in training, one per step in inference."""

    modulation: Modulation
    embedding: Tensor  # [S, E] float32, of the action encoder

    def __len__(self) -> int:
        return self.embedding.shape[0]

    def at(self, step: int) -> Times:
        return Times(self.modulation.at(step), self.embedding[step : step + 1])


class ActionHead(nn.Module):
    """Keys start with `action_head.`; `model` is the DiT."""

    def __init__(self, config: ActionHeadConfig, slots: EmbodimentSlots | None = None) -> None:
        super().__init__()
        self.config = config
        self.slots = slots or EmbodimentSlots(config.max_num_embodiments)
        rows, width, hidden = self.slots.rows, config.input_embedding_dim, config.hidden_size
        self.model = DiT(config)
        self.state_encoder = EmbodimentMLP(rows, config.state_dim, hidden, width)
        self.action_encoder = ActionEncoder(rows, config.action_dim, width)
        self.action_decoder = EmbodimentMLP(rows, hidden, hidden, config.action_dim)
        self.future_tokens = nn.Embedding(config.num_target_vision_tokens, width)
        self.position_embedding = nn.Embedding(config.max_seq_len, width)
        self.vlln = nn.LayerNorm(config.backbone_embedding_dim)  # eps 1e-5
        self.vl_self_attention = VisionLanguageSelfAttention(config.vl_self_attention)

    def features(self, backbone_features: Tensor, mask: Tensor | None = None) -> Tensor:
        """backbone_features [B, L, D], mask [B, 1, 1, L] bool -> [B, L, D]."""
        output: Tensor = self.vl_self_attention(self.vlln(backbone_features), mask)
        return output

    def observe(
        self, backbone_features: Tensor, state: Tensor, rows: Tensor, mask: Tensor | None = None
    ) -> Observed:
        """backbone_features [B, L, D], state [B, 1, S], rows [B] -> all that depends on the observation only.

        mask: [B, L] bool, true at tokens that count; None: all.
        """
        keys = None if mask is None else mask[:, None, None, :]
        features = self.features(backbone_features, keys)
        state_token = self.state_encoder(state.to(features.dtype), rows)
        learned = self.future_tokens.weight.expand(state.shape[0], -1, -1)
        return Observed(
            torch.cat([state_token, learned.to(state_token.dtype)], dim=1),
            self.model.keys_values(features),
            keys,
            rows,
        )

    def times(self, buckets: Tensor) -> Times:
        """Integer times [S] int64 -> modulation and embeddings of each."""
        embedding = action_time_embedding(buckets, self.config.input_embedding_dim)
        return Times(self.model.modulation(buckets), embedding)

    def steps(self, count: int) -> Times:
        """The times at which `count` Euler steps start."""
        buckets = denoising_buckets(count, self.config)
        return self.times(torch.tensor(buckets, device=self.position_embedding.weight.device))

    def velocity(self, x: Tensor, observed: Observed, times: Times) -> Tensor:
        """Noisy actions x [B, H, A] at `times` (one, or one per sample) -> velocity [B, H, A] of the weights'
        dtype."""
        horizon = x.shape[1]
        tokens = self.action_encoder(x.to(observed.prefix.dtype), times.embedding, observed.rows)
        tokens = tokens + self.position_embedding.weight[:horizon]
        sequence = torch.cat([observed.prefix, tokens], dim=1)  # [B, 1 + F + H, E]
        output = self.model(sequence, times.modulation, observed.context, observed.mask)
        decoded: Tensor = self.action_decoder(output, observed.rows)
        return decoded[:, -horizon:]

    def denoise(self, noise: Tensor, observed: Observed, times: Times) -> Tensor:
        """Euler from noise [B, H, A] at time 0 to actions [B, H, A] at time 1, the state in float32."""
        x = noise.float()
        for step in range(len(times)):
            x = x + self.velocity(x, observed, times.at(step)).float() / len(times)
        return x
