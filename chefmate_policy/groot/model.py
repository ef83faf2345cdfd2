# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5 whole: observation and instruction in, a chunk of normalised actions out.

`Groot(config)` has the published parameters, 899 tensors at full size. `Parts` leaves out what inference or a
fine-tune of one robot does not use; `missing_shapes` says what a file in the published layout needs besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from chefmate_policy.groot.action_head import ActionHead, Observed
from chefmate_policy.groot.backbone import Backbone, PadRows
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.embodiment import EmbodimentSlots
from chefmate_policy.groot.errors import InputError
from chefmate_policy.groot.flow import flow_loss, interpolate, sample_time

__all__ = ["Groot", "Inputs", "Parts", "TrainingOutput"]

# tensors of which every embodiment slot has one row
SLOT_PREFIXES = ("action_head.state_encoder.", "action_head.action_encoder.", "action_head.action_decoder.")
LM_HEAD = "backbone.eagle_model.language_model.lm_head."
POOLING_HEAD = "backbone.eagle_model.vision_model.vision_model.head."


@dataclass(frozen=True)
class Parts:
    """Which of the published tensors a model holds."""

    lm_head: bool = True
    pooling_head: bool = True
    embodiments: tuple[int, ...] | None = None  # published slots kept, in the order of rows; None: all

    @classmethod
    def used(cls, *embodiments: int) -> Parts:
        """What inference and fine-tuning of these embodiments read."""
        return cls(lm_head=False, pooling_head=False, embodiments=embodiments or None)

    def holds(self, key: str) -> bool:
        """Whether a published key is in the model."""
        if key.startswith(LM_HEAD):
            return self.lm_head
        return self.pooling_head or not key.startswith(POOLING_HEAD)

    def rows(self, key: str) -> tuple[int, ...] | None:
        """Rows (first axis) of the published tensor that the model holds; None: all."""
        return self.embodiments if key.startswith(SLOT_PREFIXES) else None


@dataclass(frozen=True)
class Inputs:
    """A batch as the processor makes it."""

    pixel_values: Tensor  # [B*V, 3, S, S] float, sample-major, then camera, in [-1, 1]
    input_ids: Tensor  # [B, L] int64
    state: Tensor  # [B, 1, state_dim] float, normalised and padded
    embodiment_id: Tensor  # [B] int64, published slots
    attention_mask: Tensor | None = None  # [B, L], 0 at left pads; None: no pads
    action: Tensor | None = None  # [B, H, A] float, normalised and padded; training
    action_mask: Tensor | None = None  # [B, H, A], 1 where the loss counts; training

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Inputs:
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if value is not None
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class TrainingOutput:
    """Result of a training pass."""

    loss: Tensor  # scalar float32
    predicted: Tensor  # [B, H, A] velocity
    target: Tensor  # [B, H, A] velocity
    buckets: Tensor  # [B] int64


class Groot(nn.Module):
    """The model. Build it under `torch.device("meta")` to load a checkpoint without a second copy."""

    def __init__(
        self, config: GrootConfig, parts: Parts | None = None, pad_rows: PadRows = PadRows.MASKED
    ) -> None:
        super().__init__()
        self.config, self.parts, self.pad_rows = config, parts or Parts(), pad_rows
        self.backbone = Backbone(config, lm_head=self.parts.lm_head, pooling_head=self.parts.pooling_head)
        slots = EmbodimentSlots(config.action_head.max_num_embodiments, self.parts.embodiments)
        self.action_head = ActionHead(config.action_head, slots)

    def observe(self, inputs: Inputs) -> Observed:
        """Everything that depends on the observation only."""
        self._check(inputs)
        mask = inputs.attention_mask
        features = self.backbone(inputs.pixel_values, inputs.input_ids, mask, self.pad_rows)
        keep = mask.bool() if mask is not None and self.pad_rows is PadRows.MASKED else None
        rows = self.action_head.slots.to_rows(inputs.embodiment_id)
        return self.action_head.observe(features, inputs.state, rows, keep)

    @torch.inference_mode()
    def get_action(
        self,
        inputs: Inputs,
        *,
        steps: int | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A chunk of normalised actions [B, H, A] float32.

        steps: Euler steps; by default the configuration's number. noise: the start [B, H, A]; else drawn from
        `generator`, on its device.
        """
        observed = self.observe(inputs)
        if noise is None:
            noise = self.start_noise(inputs.state.shape[0], generator)
        times = self.action_head.steps(steps or self.config.action_head.num_inference_timesteps)
        return self.action_head.denoise(noise.to(inputs.state.device), observed, times)

    def start_noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal start of the flow [B, H, A] float32; equal seeds on the CPU give equal starts
        whatever device the model is on."""
        head = self.config.action_head
        shape = (batch, head.action_horizon, head.action_dim)
        return torch.randn(
            shape, generator=generator, device="cpu" if generator is None else generator.device
        )

    def forward(
        self,
        inputs: Inputs,
        *,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> TrainingOutput:
        """The flow-matching loss of a batch with `action` and `action_mask`.

        noise [B, H, A] and time [B] may be given (parity, paired evaluation); else they are drawn.
        """
        if inputs.action is None or inputs.action_mask is None:
            raise InputError("training needs `action` and `action_mask` in the inputs")
        head, action = self.action_head, inputs.action.float()
        if noise is None:
            noise = self.start_noise(action.shape[0], generator)
        if time is None:
            time = sample_time(head.config, action.shape[0], generator, action.device)
        sample = interpolate(action, noise.to(action.device), time.to(action.device), head.config)
        predicted = head.velocity(sample.x_t, self.observe(inputs), head.times(sample.buckets))
        loss = flow_loss(predicted, sample.velocity, inputs.action_mask)
        return TrainingOutput(loss, predicted, sample.velocity, sample.buckets)

    def _check(self, inputs: Inputs) -> None:
        head, image = self.config.action_head, self.config.vision.image_size
        batch = inputs.input_ids.shape[0]
        expected: Mapping[str, tuple[Tensor | None, tuple[int | None, ...]]] = {
            "pixel_values": (inputs.pixel_values, (None, 3, image, image)),
            "input_ids": (inputs.input_ids, (batch, None)),
            "attention_mask": (inputs.attention_mask, tuple(inputs.input_ids.shape)),
            "state": (inputs.state, (batch, 1, head.state_dim)),
            "embodiment_id": (inputs.embodiment_id, (batch,)),
            "action": (inputs.action, (batch, None, head.action_dim)),
            "action_mask": (inputs.action_mask, (batch, None, head.action_dim)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is None:
                continue
            if len(tensor.shape) != len(shape) or any(
                want not in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
            ):
                wanted = ", ".join("any" if size is None else str(size) for size in shape)
                raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected ({wanted})")


def published_shapes(config: GrootConfig) -> dict[str, torch.Size]:
    """Keys and shapes of a complete file in the published layout."""
    with torch.device("meta"):
        return {key: tensor.shape for key, tensor in Groot(config).state_dict().items()}
