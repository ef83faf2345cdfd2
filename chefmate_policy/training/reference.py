# SPDX-License-Identifier: Apache-2.0
"""What the reference's fine-tuning script trains under LoRA, rebuilt by its own rule, and what is wrong.

Its rule: every linear layer of the action head (with lora_full_model: of everything) whose name holds q_proj,
k_proj, v_proj, to_q, to_k or to_v gets an adapter, and everything else is frozen. The tune_* options are
applied before, to tensors that the adapters then freeze.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.model import SLOT_PREFIXES, Groot, Parts
from chefmate_policy.training.components import FLAGS, QKV, component_of
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.params import planned
from chefmate_policy.training.trainable import adapters

__all__ = ["ReferenceRun", "rebuild"]


@dataclass(frozen=True)
class ReferenceRun:
    """A configuration as the reference's script runs it."""

    options: TrainOptions
    trainable: int
    total: int  # adapters included
    layers: dict[str, int]  # adapted ones per component
    slot: int  # parameters of the embodiment's encoders and decoder, none of which train

    @property
    def printed(self) -> str:
        """The line that the script prints (peft's)."""
        share = 100 * self.trainable / self.total
        return (
            f"trainable params: {self.trainable:,} || all params: {self.total:,} || trainable%: {share:.4f}"
        )

    def faults(self) -> list[str]:
        """What its flags say and it does not do, and how the same options run here."""
        where = ", ".join(f"{count} in {name}" for name, count in self.layers.items())
        off = [f"--no-{flag}" for flag in FLAGS if not getattr(self.options, flag)]
        ours = planned(self.options).total
        return [
            "no tune_* option has an effect under LoRA: adapters are on the layers of queries, keys and"
            f" values of the action head ({where}), with {' '.join(off) or 'every option on'} as without;"
            " so the runs with and without --no-tune_diffusion_model printed the same numbers",
            f"the embodiment's slot ({self.slot:,} parameters of state encoder, action encoder and decoder)"
            " never trains, with tune_projector on neither; for a new robot it is not pretrained, and nothing"
            " else maps its joints",
            "no adapter is in the language model or the vision tower, and images stand before the words under"
            " causal attention: the words reach the actions through frozen features of some 16 tokens only",
            f"of the {self.total:,} parameters counted, the language head, the pooling head and the slots of"
            " other embodiments are read by nothing",
            f"the same options here train {ours.trainable:,} parameters: {ours.whole:,} of the slot,"
            f" {ours.lora:,} in adapters",
        ]


def rebuild(config: GrootConfig, options: TrainOptions, *, full_model: bool = False) -> ReferenceRun:
    """Runs the reference's rule on a model without numbers, whole as published. full_model: its
    lora_full_model."""
    with torch.device("meta"):
        model = Groot(config, Parts())
        layers = tuple(
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
            and any(part in name for part in QKV)
            and (full_model or name.startswith("action_head."))
        )
        adapters(model, layers, options)
    adapted: dict[str, int] = {}
    for name in layers:
        component = component_of(f"{name}.").name
        adapted[component] = adapted.get(component, 0) + 1
    rows = config.action_head.max_num_embodiments
    slots = sum(item.numel() for name, item in model.named_parameters() if name.startswith(SLOT_PREFIXES))
    return ReferenceRun(
        options,
        trainable=sum(item.numel() for item in model.parameters() if item.requires_grad),
        total=sum(item.numel() for item in model.parameters()),
        layers=adapted,
        slot=slots // rows,
    )
