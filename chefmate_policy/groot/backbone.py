# SPDX-License-Identifier: Apache-2.0
"""The Eagle 2.5 backbone: images and prompt to one feature per token.

SigLIP's and Qwen3's layers are those of transformers, assembled here without the wrappers around them, so
that the keys are the published ones in every version of transformers, nothing lives in buffers (a model
cast to bf16 keeps exact rotary angles), and the unused language and pooling heads cost nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, SiglipMultiheadAttentionPoolingHead

from chefmate_policy.groot.config import GrootConfig, TextConfig, VisionConfig
from chefmate_policy.groot.errors import InputError

__all__ = ["Backbone", "PadRows"]


class PadRows(Enum):
    """What the pad rows of a left-padded batch do.

    The reference lets them into vl_self_attention and the DiT, and what they hold depends on its attention
    kernel: a sample's actions then depend on the length of its neighbours' prompts.
    """

    MASKED = "masked"  # nowhere: every sample is computed as if alone
    ZERO = "zero"  # attention output 0 in the language model: FlashAttention-2, the stock reference
    UNIFORM = "uniform"  # even attention to all keys, later ones too: transformers 4.51.3 eager and CPU sdpa


class _Sub(nn.Module):
    """A named level of the published keys; holds modules and computes nothing."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class SiglipTower(nn.Module):
    """SigLIP's vision transformer up to its last LayerNorm."""

    def __init__(self, vision: VisionConfig, pooling_head: bool) -> None:
        super().__init__()
        config = SiglipVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_hidden_layers,
            num_attention_heads=vision.num_attention_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            layer_norm_eps=vision.layer_norm_eps,
            hidden_act="gelu_pytorch_tanh",
        )
        _use_sdpa(config)
        width, patch = vision.hidden_size, vision.patch_size
        self.embeddings = _Sub(
            patch_embedding=nn.Conv2d(3, width, kernel_size=patch, stride=patch),
            position_embedding=nn.Embedding(vision.tokens, width),
        )
        self.encoder = _Sub(
            layers=nn.ModuleList(SiglipEncoderLayer(config) for _ in range(vision.num_hidden_layers))
        )
        self.post_layernorm = nn.LayerNorm(width, eps=vision.layer_norm_eps)
        if pooling_head:  # read by nothing; kept for files in the published layout
            self.head = SiglipMultiheadAttentionPoolingHead(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [N, 3, S, S] in [-1, 1] -> [N, tokens, width]."""
        embeddings: Any = self.embeddings
        layers: Any = self.encoder
        patches = embeddings.patch_embedding(pixel_values.to(embeddings.patch_embedding.weight.dtype))
        x = patches.flatten(2).transpose(1, 2) + embeddings.position_embedding.weight
        for layer in layers.layers:
            x = layer(x, None)
        output: Tensor = self.post_layernorm(x)
        return output


class Qwen3Stack(nn.Module):
    """The first layers of Qwen3 and its final RMSNorm."""

    def __init__(self, text: TextConfig) -> None:
        super().__init__()
        config = Qwen3Config(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
            rms_norm_eps=text.rms_norm_eps,
            attention_bias=False,
            use_cache=False,
        )
        _use_sdpa(config)
        self.text = text
        self.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size)
        self.layers = nn.ModuleList(
            Qwen3DecoderLayer(config, index) for index in range(text.num_hidden_layers)
        )
        self.norm = Qwen3RMSNorm(text.hidden_size, eps=text.rms_norm_eps)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, L, D]; positions [B or 1, L] int64; mask [B, 1, L, L], None: causal -> [B, L, D]."""
        rotary = rotary_angles(positions, self.text.head_dim, self.text.rope_theta, x.dtype)
        for layer in self.layers:
            x = layer(x, attention_mask=mask, position_embeddings=rotary)
        output: Tensor = self.norm(x)
        return output


class Backbone(nn.Module):
    """Keys start with `eagle_model.`: vision_model, mlp1 (the connector), language_model."""

    def __init__(self, config: GrootConfig, *, lm_head: bool = True, pooling_head: bool = True) -> None:
        super().__init__()
        vision, text = config.vision, config.text
        self.image_token_index, self.tokens_per_image = config.image_token_index, vision.tokens
        language = _Sub(model=Qwen3Stack(text))
        if lm_head:  # read by nothing; kept for files in the published layout
            language.add_module("lm_head", nn.Linear(text.hidden_size, text.vocab_size, bias=False))
        self.eagle_model = _Sub(
            vision_model=_Sub(vision_model=SiglipTower(vision, pooling_head)),
            mlp1=nn.Sequential(nn.Linear(vision.hidden_size, text.hidden_size)),
            language_model=language,
        )

    @property
    def vision(self) -> SiglipTower:
        eagle: Any = self.eagle_model
        tower: SiglipTower = eagle.vision_model.vision_model
        return tower

    @property
    def connector(self) -> nn.Module:
        eagle: Any = self.eagle_model
        module: nn.Module = eagle.mlp1
        return module

    @property
    def language(self) -> Qwen3Stack:
        eagle: Any = self.eagle_model
        stack: Qwen3Stack = eagle.language_model.model
        return stack

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [B*V, 3, S, S], sample-major, then camera -> [B*V*tokens, D], in prompt order."""
        features: Tensor = self.connector(self.vision(pixel_values))
        return features.flatten(0, 1)

    def embed(self, input_ids: Tensor, image_features: Tensor) -> Tensor:
        """Token embeddings [B, L, D] whose rows at image tokens are the image features, in order.

        Raises InputError when their numbers differ (the reference then silently uses a part).
        """
        embeddings: Tensor = self.language.embed_tokens(input_ids)
        image = input_ids == self.image_token_index
        expected, given = int(image.sum()), image_features.shape[0]
        if expected != given:
            raise InputError(
                f"the prompts hold {expected} image tokens, the images give {given}"
                f" ({given // self.tokens_per_image} images of {self.tokens_per_image} tokens);"
                " every camera needs its image and its place in the prompt"
            )
        return embeddings.masked_scatter(image.unsqueeze(-1), image_features.to(embeddings.dtype))

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pad_rows: PadRows = PadRows.MASKED,
    ) -> Tensor:
        """pixel_values [B*V, 3, S, S], input_ids [B, L] int64, attention_mask [B, L] (0 at left pads; None:
        no pads) -> features [B, L, D]."""
        embeddings = self.embed(input_ids, self.image_features(pixel_values))
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        if attention_mask is None:
            return self.language_features(embeddings, positions, None)
        keep = attention_mask.bool()
        if (
            pad_rows is PadRows.MASKED
        ):  # rotary angles are relative; this way they are those of the sample alone
            positions = (keep.cumsum(-1) - 1).clamp(min=0)
        mask = language_mask(keep, pad_rows, embeddings.dtype)
        return self.language_features(embeddings, positions, mask)

    def language_features(self, embeddings: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """The language model over embeddings [B, L, D] -> [B, L, D]."""
        features: Tensor = self.language(embeddings, positions, mask)
        return features


def language_mask(keep: Tensor, pad_rows: PadRows, dtype: torch.dtype) -> Tensor:
    """Causal mask of left-padded prompts: keep [B, L] bool -> [B, 1, L, L].

    bool (true: attend) for MASKED, where a pad row sees itself only, and for ZERO, where it sees nothing;
    additive for UNIFORM, where the lowest number everywhere leaves all keys equal.
    """
    length = keep.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=keep.device).tril()
    seen = causal & keep[:, None, None, :]  # [B, 1, L, L]
    if pad_rows is PadRows.MASKED:
        return seen | torch.eye(length, dtype=torch.bool, device=keep.device)
    if pad_rows is PadRows.ZERO:
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def rotary_angles(
    positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B or 1, L, head_dim] of the rotary embedding, computed in float32."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions.to(torch.float32).unsqueeze(-1) / theta ** (steps / head_dim)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _use_sdpa(config: Any) -> None:
    config._attn_implementation = "sdpa"
