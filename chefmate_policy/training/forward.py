# SPDX-License-Identifier: Apache-2.0
"""The training pass: the loss of a batch without anything that waits for the device.

`Groot.forward` checks its inputs by looking at numbers, which stops the CPU until the GPU is there, and pads
prompts on the left. Here prompts come from a table made once per run and are padded on the right: under
causal attention no word then sees a pad, the language model needs no mask, and only the action head's
attention over the features leaves pads out. Both give the same loss; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chefmate_policy.groot.action_head import Observed
from chefmate_policy.groot.flow import interpolate, sample_time
from chefmate_policy.groot.model import Groot
from chefmate_policy.groot.prompt import Prompts

__all__ = ["FlowLoss", "Prepared", "PromptTable", "checkpoint_layers", "freeze_embeddings", "keep_dtype"]


@dataclass(frozen=True)
class Prepared:
    """A batch on the device, ready for the model."""

    pixel_values: Tensor  # [B*V, 3, S, S] float32 in [-1, 1], sample-major, then camera
    prompt: Tensor  # [B] int64, rows of the prompt table
    state: Tensor  # [B, 1, state_dim] float32, normalised and padded
    action: Tensor  # [B, H, A] float32, normalised and padded
    mask: Tensor  # [B, H, A] float32, 1 where the loss counts


class PromptTable(nn.Module):
    """Every prompt of a run as token numbers, padded on the right; the last row is the null prompt."""

    ids: Tensor  # [K, L] int64
    keep: Tensor  # [K, L] bool, false at pads
    images: Tensor  # [K, V*T] int64: where the image tokens are, in order

    def __init__(self, rows: Sequence[Sequence[int]], image_id: int, pad_id: int) -> None:
        super().__init__()
        longest = max(map(len, rows))
        if min(map(len, rows)) < longest:  # there are pads: a few more suit the attention kernels
            longest = -(-longest // 8) * 8
        ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
        keep = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
        places = [((ids[number] == image_id) & keep[number]).nonzero()[:, 0] for number in range(len(rows))]
        self.padded = not bool(keep.all())
        for name, value in (("ids", ids), ("keep", keep), ("images", torch.stack(places))):
            self.register_buffer(name, value, persistent=False)
        self.embedded: Tensor | None = None  # [K, L, D], where the embeddings do not train

    @classmethod
    def of(cls, prompts: Prompts, instructions: Sequence[str], cameras: int, null: bool) -> PromptTable:
        """Of a run's instructions, in their order. null: with the null prompt behind them."""
        texts: list[str | None] = [*instructions, *([None] if null else [])]
        tokenizer = prompts.tokenizer
        rows = [prompts.prompt(text, cameras).ids for text in texts]
        return cls(rows, tokenizer.image_id, tokenizer.pad_id)

    @torch.no_grad()
    def embed(self, table: nn.Embedding, device: torch.device) -> None:
        """Looks the embeddings up once, so that the vocabulary's table need not be on the device."""
        self.embedded = table(self.ids.to(table.weight.device)).to(device)


class FlowLoss(nn.Module):
    """Loss of the flow, of a model and a prompt table; the module that several GPUs share."""

    def __init__(self, model: Groot, prompts: PromptTable) -> None:
        super().__init__()
        self.model, self.prompts = model, prompts

    def observe(self, batch: Prepared) -> Observed:
        """What the flow needs of the observations."""
        backbone, prompts, chosen = self.model.backbone, self.prompts, batch.prompt
        images = backbone.image_features(batch.pixel_values)
        if prompts.embedded is None:
            x = backbone.language.embed_tokens(prompts.ids[chosen])
        else:
            x = prompts.embedded[chosen]
        count, length, width = x.shape
        places = prompts.images[chosen] + length * torch.arange(count, device=chosen.device)[:, None]
        x = x.reshape(-1, width).index_copy(0, places.flatten(), images.to(x.dtype)).view(count, length, -1)
        positions = torch.arange(length, device=chosen.device).unsqueeze(0)
        features = backbone.language_features(x, positions, None)
        keep = prompts.keep[chosen] if prompts.padded else None
        rows = torch.zeros_like(chosen)
        return self.model.action_head.observe(features, batch.state, rows, keep)

    def forward(
        self, batch: Prepared, noise: Tensor | None = None, time: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The batch's loss, and that of each sample [B], both float32.

        noise [B, H, A] and time [B] are drawn from the device's random numbers where they are not given.
        """
        head = self.model.action_head
        if noise is None:
            noise = torch.randn_like(batch.action)
        if time is None:
            time = sample_time(head.config, batch.action.shape[0], None, batch.action.device)
        sample = interpolate(batch.action, noise, time, head.config)
        predicted = head.velocity(sample.x_t, self.observe(batch), head.times(sample.buckets))
        error = (predicted.float() - sample.velocity) ** 2 * batch.mask
        each, weights = error.sum((1, 2)), batch.mask.sum((1, 2))
        return each.sum() / weights.sum(), each.detach() / weights.clamp(min=1.0)


def keep_dtype(model: nn.Module) -> None:
    """Adapters take their input as it is: autocast brings it to bf16, while peft would first copy it to the
    adapter's float32."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010  # peft's attribute


def freeze_embeddings(model: Groot, prompts: PromptTable, device: torch.device) -> None:
    """Embeddings that do not train are looked up once; their table then leaves the GPU (0.62 GB at full
    size)."""
    table = model.backbone.language.embed_tokens
    if table.weight.requires_grad:
        return
    prompts.embed(table, device)
    if device.type == "cuda":
        table.to("cpu")
        torch.cuda.empty_cache()


def passes_of(model: Groot) -> list[tuple[nn.Module, str]]:
    """What a checkpointed step computes again: modules and the names of their methods."""
    vision: Any = model.backbone.vision.encoder
    head = model.action_head
    layers = (
        *vision.layers,
        *model.backbone.language.layers,
        *head.vl_self_attention.transformer_blocks,
        *head.model.blocks,
    )
    contexts = [(block.attn1, "keys_values") for block in head.model.blocks if block.is_cross]
    return [*((layer, "forward") for layer in layers), *contexts]


def checkpoint_layers(model: Groot, *, compiled: bool = False) -> int:
    """Layers compute their activations again in the backward pass instead of keeping them; in place.

    Returns how many. compiled: each is one compiled piece, with the checkpoint around it. A layer without
    gradients (frozen, and nothing before it trains) costs nothing more. Dropout keeps its masks (a byte per
    number) instead of the random state, so that a step can be recorded.
    """
    passes = passes_of(model)
    for layer, name in passes:
        for module in layer.modules():
            if type(module) is nn.Dropout:
                module.__class__ = _KeptDropout
        plain = getattr(layer, name)
        setattr(layer, name, _Again(torch.compile(plain, dynamic=False) if compiled else plain))
    return len(passes)


class _Masks:
    """The dropout masks of one layer's pass, for its second run."""

    open: _Masks | None = None  # of the layer that runs now

    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self.next: int | None = None  # None: masks are drawn

    @contextmanager
    def during(self, again: bool) -> Iterator[None]:
        """The layer's pass, or its second run."""
        outer, _Masks.open = _Masks.open, self
        self.next = 0 if again else None
        try:
            yield
        finally:
            _Masks.open = outer

    def mask(self, like: Tensor, keep: float) -> Tensor:
        if self.next is not None:
            self.next += 1
            return self.kept[self.next - 1]
        mask = torch.empty_like(like, dtype=torch.uint8).bernoulli_(keep)
        self.kept.append(mask)
        return mask


class _KeptDropout(nn.Dropout):
    """Dropout that a second run repeats."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        keep = 1.0 - self.p
        return x * _mask(x, keep) * (1.0 / keep)


@torch.library.custom_op("chefmate::dropout_mask", mutates_args=())
def _mask(like: Tensor, keep: float) -> Tensor:
    """A mask like `like`, uint8: drawn, in a second run the first one's. Opaque to the compiler."""
    return (_Masks.open or _Masks()).mask(like, keep)


@_mask.register_fake
def _(like: Tensor, keep: float) -> Tensor:
    return torch.empty_like(like, dtype=torch.uint8)


class _Again:
    """A layer's forward under `torch.utils.checkpoint`."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.plain(*arguments, **named)
        masks = _Masks()
        return checkpoint(
            self.plain,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (masks.during(False), masks.during(True)),
            **named,
        )
