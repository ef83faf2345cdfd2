# SPDX-License-Identifier: Apache-2.0
"""The model's blocks as plain functions over joined weights: the arithmetic of `Groot` in fewer operations.

- Query, key and value projections are one product; so are gate and up of the language model, and the keys and
  values of all cross-attention blocks.
- The time of the flow is known beforehand: scale and shift of every adaptive norm become that norm's affine
  weights, and the action encoder's first two layers, linear with nothing between, become one.
- The last DiT block and all after it work on the action tokens only.

A weight leaves the model as it is joined, so that there never are two copies: the model cannot run after.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from chefmate_policy.groot.action_head import ActionHead
from chefmate_policy.groot.attention import KeysValues
from chefmate_policy.groot.backbone import Qwen3Stack, SiglipTower
from chefmate_policy.groot.dit import BLOCK_EPS, OUTPUT_EPS, DiT, VisionLanguageSelfAttention, timestep_waves
from chefmate_policy.groot.embodiment import EmbodimentLinear, action_time_embedding
from chefmate_policy.groot.flow import denoising_buckets

__all__ = [
    "FusedFlow",
    "FusedKeysValues",
    "FusedLanguage",
    "FusedSelfAttention",
    "FusedVision",
    "compile_blocks",
]


class Linear:
    """x @ weight.T + bias, of one or several linear layers joined along their outputs."""

    def __init__(self, *layers: nn.Module) -> None:
        parts: list[Any] = list(layers)
        self.weight: Tensor = (
            torch.cat([part.weight.detach() for part in parts]) if parts[1:] else parts[0].weight
        )
        self.weight = self.weight.detach()
        biases = [part.bias for part in parts]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        for part in parts if len(parts) > 1 else []:
            part.weight = part.bias = None  # joined: the model's own copy goes
        if len(parts) > 1 and self.weight.is_cuda:
            torch.cuda.empty_cache()  # what went is too small a piece for the next joined weight

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Norm:
    """LayerNorm with an affine part."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        self.weight, self.bias, self.eps = layer.weight.detach(), layer.bias.detach(), layer.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class _EncoderBlock:
    """Pre-norm self-attention and feed-forward, GELU in its tanh form: SigLIP's and vl_self_attention's."""

    def __init__(
        self, norms: Sequence[Any], qkv: Sequence[Any], out: Any, up: Any, down: Any, heads: int
    ) -> None:
        self.norm1, self.norm2 = (Norm(norm) for norm in norms)
        self.qkv, self.out, self.up, self.down = Linear(*qkv), Linear(out), Linear(up), Linear(down)
        self.heads = heads

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = _heads(self.qkv(self.norm1(x)), 3 * self.heads).chunk(3, dim=1)
        x = x + self.out(_merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


def compile_blocks(stage: Any) -> None:
    """Has torch.compile make one program for all blocks of a stage (any of the classes here), at their first
    call."""
    for kind in {type(block) for block in stage.blocks}:
        program = torch.compile(kind.__call__, fullgraph=True, dynamic=False)
        stage.blocks = [partial(program, block) if type(block) is kind else block for block in stage.blocks]


class FusedVision:
    """Tower and connector: pixel_values [V, 3, S, S] -> image features [V*tokens, D]."""

    def __init__(self, tower: SiglipTower, connector: nn.Module) -> None:
        embeddings: Any = tower.embeddings
        encoder: Any = tower.encoder
        convolution: nn.Conv2d = embeddings.patch_embedding
        self.patch = convolution.kernel_size[0]
        self.patches = Linear(_Flat(convolution.weight.detach().flatten(1), convolution.bias))
        self.positions: Tensor = embeddings.position_embedding.weight.detach()
        self.blocks = [
            _EncoderBlock(
                (layer.layer_norm1, layer.layer_norm2),
                (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                layer.self_attn.out_proj,
                layer.mlp.fc1,
                layer.mlp.fc2,
                layer.self_attn.num_heads,
            )
            for layer in encoder.layers
        ]
        self.norm = Norm(tower.post_layernorm)
        (linear,) = connector.children()
        self.connector = Linear(linear)

    def __call__(self, pixel_values: Tensor) -> Tensor:
        side, cells = self.patch, pixel_values.shape[-1] // self.patch
        x = pixel_values.to(self.positions.dtype).view(-1, 3, cells, side, cells, side)
        x = (
            self.patches(x.permute(0, 2, 4, 1, 3, 5).reshape(-1, cells * cells, 3 * side * side))
            + self.positions
        )
        for block in self.blocks:
            x = block(x)
        return self.connector(self.norm(x)).flatten(0, 1)


class _LanguageBlock:
    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.head_dim = int(attention.head_dim)
        self.queries = attention.q_proj.out_features // self.head_dim
        self.keys = attention.k_proj.out_features // self.head_dim
        self.norm1, self.norm2 = (
            layer.input_layernorm.weight.detach(),
            layer.post_attention_layernorm.weight.detach(),
        )
        self.eps = float(layer.input_layernorm.variance_epsilon)
        self.qkv = Linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.down = Linear(attention.o_proj), Linear(mlp.down_proj)
        self.gate_up = Linear(mlp.gate_proj, mlp.up_proj)
        gains = [attention.q_norm.weight] * self.queries + [attention.k_norm.weight] * self.keys
        self.gain = torch.stack([gain.detach() for gain in gains]).unsqueeze(
            1
        )  # [queries + keys, 1, head_dim]

    def __call__(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor | None) -> Tensor:
        y = self.qkv(F.rms_norm(x, x.shape[-1:], self.norm1, self.eps))
        heads = _heads(y, self.queries + 2 * self.keys)  # [B, heads, L, head_dim]
        turning = self.queries + self.keys
        qk = F.rms_norm(heads[:, :turning], (self.head_dim,), None, self.eps) * self.gain
        half = self.head_dim // 2
        qk = qk * cosine + torch.cat([qk[..., half:], qk[..., :half]], dim=-1) * sine
        q, k = qk[:, : self.queries], qk[:, self.queries :]
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            heads[:, turning:],
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.queries > self.keys,
        )
        x = x + self.out(_merge(mixed))
        gate, up = self.gate_up(F.rms_norm(x, x.shape[-1:], self.norm2, self.eps)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class FusedLanguage:
    """Embeddings [B, L, D] -> features [B, L, D]."""

    def __init__(self, stack: Qwen3Stack) -> None:
        self.blocks = [_LanguageBlock(layer) for layer in stack.layers]
        norm: Any = stack.norm
        self.norm, self.eps = norm.weight.detach(), float(norm.variance_epsilon)

    def __call__(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor | None = None) -> Tensor:
        """cosine, sine [B or 1, 1, L, head_dim] of `rotary_tables`; mask [B, 1, L, L] bool, None: causal."""
        for block in self.blocks:
            x = block(x, cosine, sine, mask)
        return F.rms_norm(x, x.shape[-1:], self.norm, self.eps)


def rotary_tables(cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Angles' cosines and sines [B, L, head_dim] -> tables [B, 1, L, head_dim] for halves swapped without a
    sign: the sign of the first half is in the table."""
    half = sine.shape[-1] // 2
    return cosine.unsqueeze(1), torch.cat([-sine[..., :half], sine[..., half:]], dim=-1).unsqueeze(1)


class FusedSelfAttention:
    """vlln and vl_self_attention: [B, L, D] -> [B, L, D]."""

    def __init__(self, norm: nn.LayerNorm, attention: VisionLanguageSelfAttention) -> None:
        self.norm = Norm(norm)
        blocks: list[Any] = list(attention.transformer_blocks)
        self.blocks = [
            _EncoderBlock(
                (block.norm1, block.norm3),
                (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v),
                block.attn1.to_out[0],
                block.ff.net[0].proj,
                block.ff.net[2],
                block.attn1.heads,
            )
            for block in blocks
        ]

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, mask)
        return x


class FusedKeysValues:
    """Keys and values of every cross-attention block from the features, in one product."""

    def __init__(self, dit: DiT) -> None:
        cross = [block.attn1 for block in dit.blocks if block.is_cross]
        self.heads = cross[0].heads
        self.count = len(cross)
        self.linear = Linear(*(layer for block in cross for layer in (block.to_k, block.to_v)))

    def __call__(self, features: Tensor) -> list[KeysValues]:
        """features [B, L, D] -> per cross-attention block keys and values [B, heads, L, head_dim]."""
        parts = _heads(self.linear(features), 2 * self.count * self.heads).chunk(2 * self.count, dim=1)
        return list(zip(parts[0::2], parts[1::2], strict=True))


class _FlowBlock:
    def __init__(self, block: Any, eps: float = BLOCK_EPS) -> None:
        attention, self.is_cross = block.attn1, bool(block.is_cross)
        self.heads, self.eps = int(attention.heads), eps
        self.project = (
            Linear(attention.to_q)
            if self.is_cross
            else Linear(attention.to_q, attention.to_k, attention.to_v)
        )
        self.out = Linear(attention.to_out[0])
        self.up, self.down = Linear(block.ff.net[0].proj), Linear(block.ff.net[2])

    def __call__(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        kv: KeysValues | None,
        mask: Tensor | None,
        last: int | None,
    ) -> Tensor:
        """x [B, T, E]; scale, shift [E]; last: how many tokens at the end go on (None: all)."""
        width = x.shape[-1:]
        y = F.layer_norm(x, width, scale, shift, self.eps)
        if kv is not None:
            y = y if last is None else y[:, -last:]
            mixed = F.scaled_dot_product_attention(_heads(self.project(y), self.heads), *kv, attn_mask=mask)
        else:
            q, k, v = _heads(self.project(y), 3 * self.heads).chunk(3, dim=1)
            mixed = F.scaled_dot_product_attention(q if last is None else q[:, :, -last:], k, v)
        x = (x if last is None else x[:, -last:]) + self.out(_merge(mixed))
        return x + self.down(
            F.gelu(self.up(F.layer_norm(x, width, None, None, self.eps)), approximate="tanh")
        )


class FusedFlow:
    """Velocities of one embodiment at the times of a fixed number of Euler steps."""

    def __init__(self, head: ActionHead, slot: int, steps: int) -> None:
        self.row, config = head.slots.row(slot), head.config
        self.horizon = config.action_horizon
        self.state1, self.state2 = (self._slot(layer) for layer in _layers(head.state_encoder))
        self.out1, self.out2 = (self._slot(layer) for layer in _layers(head.action_decoder))
        self.learned = head.future_tokens.weight.detach()
        first, second, third = (
            self._slot(layer)
            for layer in (head.action_encoder.W1, head.action_encoder.W2, head.action_encoder.W3)
        )
        self.set_steps = self._time_tables(head, first, second)
        # W1 and the action half of W2: nothing stands between them
        width = config.input_embedding_dim
        self.enter = (first[0].float() @ second[0][:width].float()).to(self.learned.dtype)  # [A, E]
        self.leave = third[0]
        self.position = (third[1].float() + head.position_embedding.weight[: self.horizon].float()).to(
            self.learned.dtype
        )
        self.blocks = [_FlowBlock(block) for block in head.model.blocks]
        self.plain_blocks = self.blocks  # the same, whatever compile_blocks makes of them
        self.is_cross = [block.is_cross for block in self.blocks]
        self.output = Linear(head.model.proj_out_2)
        self.set_steps(steps)

    def prefix(self, state: Tensor) -> Tensor:
        """state [B, 1, S] -> state token and learned tokens [B, 1 + F, E]."""
        hidden = F.relu(state.to(self.learned.dtype) @ self.state1[0] + self.state1[1])
        token = hidden @ self.state2[0] + self.state2[1]
        return torch.cat([token, self.learned.expand(state.shape[0], -1, -1)], dim=1)

    def velocity(
        self,
        x: Tensor,
        step: int,
        prefix: Tensor,
        context: Sequence[KeysValues],
        mask: Tensor | None = None,
        plain: bool = False,
    ) -> Tensor:
        """x [B, H, A] float32 at the time of a step -> velocity [B, H, A] float32. plain: by the blocks that
        are not compiled, for a pass under autograd."""
        hidden = F.silu(x.to(self.enter.dtype) @ self.enter + self.entering[step])
        tokens = torch.cat([prefix, hidden @ self.leave + self.position], dim=1)
        cross = iter(context)
        for index, block in enumerate(self.plain_blocks if plain else self.blocks):
            last = self.horizon if index == len(self.blocks) - 1 else None
            scale, shift = self.modulation[step][index]
            tokens = block(tokens, scale, shift, next(cross) if self.is_cross[index] else None, mask, last)
        scale, shift = self.modulation[step][-1]
        tokens = self.output(F.layer_norm(tokens, tokens.shape[-1:], scale, shift, OUTPUT_EPS))
        hidden = F.relu(tokens @ self.out1[0] + self.out1[1])
        return (hidden @ self.out2[0] + self.out2[1]).float()

    def _slot(self, layer: EmbodimentLinear) -> tuple[Tensor, Tensor]:
        return layer.W.detach()[self.row], layer.b.detach()[self.row]

    def _time_tables(
        self, head: ActionHead, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
    ) -> Any:
        """A function that prepares the tables of a number of steps, in float32, then of the weights' type."""
        width, dtype, device = head.config.input_embedding_dim, self.learned.dtype, self.learned.device
        timing = _TimeWeights(head.model)

        @torch.no_grad()
        def set_steps(steps: int) -> None:
            buckets = torch.tensor(denoising_buckets(steps, head.config), device=device)
            waves = action_time_embedding(buckets, width)
            bias = first[1].float() @ second[0][:width].float() + second[1].float()
            self.entering = (waves @ second[0][width:].float() + bias).to(dtype)  # [steps, E]
            self.modulation = [
                [((1 + scale).to(dtype), shift.to(dtype)) for scale, shift in of_step]
                for of_step in timing(buckets)
            ]
            self.steps = steps

        return set_steps


class _TimeWeights:
    """Layers that depend on the time only, worked in float32 whatever the model's type; they may rest on the
    CPU."""

    def __init__(self, dit: DiT) -> None:
        embedder: Any = dit.timestep_encoder.timestep_embedder
        self.embedder: list[nn.Linear] = [embedder.linear_1, embedder.linear_2]
        self.norms: list[nn.Linear] = [block.norm1.linear for block in dit.blocks]
        self.output = dit.proj_out_1

    def __call__(self, buckets: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
        """Per step, per block and for the output stage: scale and shift [E]."""
        first, second = self.embedder
        embedding = F.silu(_float(second, F.silu(_float(first, timestep_waves(buckets)))))
        pairs = [_float(norm, embedding).chunk(2, dim=-1) for norm in self.norms]
        shift, scale = _float(self.output, embedding).chunk(2, dim=-1)  # the other order, as published
        pairs.append((scale, shift))
        return [[(scale[step], shift[step]) for scale, shift in pairs] for step in range(len(buckets))]


def _float(layer: nn.Linear, x: Tensor) -> Tensor:
    where: dict[str, Any] = {"device": x.device, "dtype": torch.float32}
    return F.linear(x, layer.weight.to(**where), layer.bias.to(**where))


class _Flat(nn.Module):
    """A convolution over patches as a linear layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, False), bias


def _layers(mlp: nn.Module) -> tuple[EmbodimentLinear, EmbodimentLinear]:
    both: Any = mlp
    return both.layer1, both.layer2


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads * d] -> [B, heads, T, d]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """[B, heads, T, d] -> [B, T, heads * d]."""
    return x.transpose(1, 2).flatten(2)
