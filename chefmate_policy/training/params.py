# SPDX-License-Identifier: Apache-2.0
"""What a run trains and what it costs to keep, per component: the first lines of every run, and
`chefmate params`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from chefmate_policy.groot.checkpoint import read_config
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.hub import locate
from chefmate_policy.groot.model import Groot, Parts, published_shapes
from chefmate_policy.groot.sizes import MEMBERS, PUBLISHED, member
from chefmate_policy.training.components import COMPONENTS, component_of
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.trainable import SIDES, Trainable, make_trainable, slot_of

__all__ = ["ComponentParameters", "Parameters", "count", "planned", "starting_config"]

PUBLISHED_ID = "nvidia/GR00T-N1.5-3B"  # its configuration is known without a download
# bytes per trained parameter: Adam's two moments, in float32 or in 8 bit with a float32 scale per 256 of each
MOMENTS = {"adamw": 8.0, "adamw-8bit": 2.0 + 2 * 4 / 256}


@dataclass(frozen=True)
class ComponentParameters:
    """One component, or the sum of all."""

    name: str
    flag: str
    on: bool  # its flag
    published: int  # parameters in a file of the published layout
    held: int  # of these in memory: without unused heads and other embodiments' slots
    whole: int  # trained as they are
    lora: int  # trained in adapters
    layers: int  # that have adapters
    dtype: str  # of what is held, apart from what trains, which is float32
    frozen_bytes: int
    trained_bytes: int
    gradient_bytes: int
    optimizer_bytes: int

    @property
    def trainable(self) -> int:
        return self.whole + self.lora

    @property
    def switch(self) -> str:
        return f"{self.flag} {'on' if self.on else 'off'}" if self.flag else ""


@dataclass(frozen=True)
class Parameters:
    """The table of a run."""

    options: TrainOptions
    components: tuple[ComponentParameters, ...]
    total: ComponentParameters

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [asdict(row) | {"trainable": row.trainable} for row in (*self.components, self.total)]
        return {"options": self.options.to_dict(), "components": rows[:-1], "total": rows[-1]}

    def lines(self) -> list[str]:
        """For a terminal or a log."""
        options, total = self.options, self.total
        how = "tensors train whole"
        if options.lora_rank:
            how = (
                f"LoRA rank {options.lora_rank}, alpha {options.alpha:g}, {options.lora_targets},"
                f" on {total.layers} layers; embodiment slots whole"
            )
        text = [
            f"{options.base_model_path}, embodiment {options.embodiment_tag}: {how}",
            f"{'component':<18} {'option':<24} {'in memory':>13} {'trainable':>13} {'LoRA':>11} dtype",
        ]
        text += [
            f"{row.name:<18} {row.switch:<24} {row.held:>13,} {row.trainable:>13,} {row.lora:>11,}"
            f" {row.dtype}"
            for row in (*self.components, total)
        ]
        share = 100.0 * total.trainable / total.published
        text.append(
            f"trainable: {total.trainable:,} of {total.published:,} ({share:.4f} %):"
            f" {total.whole:,} whole, {total.lora:,} in adapters"
        )
        text.append(
            f"GB: frozen {total.frozen_bytes / 1e9:.2f}, trained {total.trained_bytes / 1e9:.2f},"
            f" gradients {total.gradient_bytes / 1e9:.2f}, optimizer {total.optimizer_bytes / 1e9:.2f}"
        )
        if options.lora_rank and not total.layers:
            text.append("note: lora_rank is set, but no option that is on has layers for adapters")
        return text


def count(trainable: Trainable) -> Parameters:
    """The table of a model made trainable; it may be on the meta device."""
    model, options = trainable.model, trainable.options
    published = dict.fromkeys((component.name for component in COMPONENTS), 0)
    for key, shape in published_shapes(model.config).items():
        published[component_of(key).name] += shape.numel()
    parameters: dict[str, list[tuple[str, torch.nn.Parameter]]] = {name: [] for name in published}
    for name, parameter in model.named_parameters():
        parameters[component_of(name).name].append((name, parameter))
    rows = []
    for component in COMPONENTS:
        inside = parameters[component.name]
        trained = [item for name, item in inside if name in trainable.parameters]
        lora = [item.numel() for name, item in inside if name.endswith(SIDES)]
        frozen = [item for name, item in inside if name not in trainable.parameters]
        sizes = sum(item.numel() for item in trained)
        rows.append(
            ComponentParameters(
                name=component.name,
                flag=component.flag,
                on=bool(getattr(options, component.flag)),
                published=published[component.name],
                held=sum(item.numel() for _, item in inside) - sum(lora),
                whole=sizes - sum(lora),
                lora=sum(lora),
                layers=len(lora) // 2,
                dtype=_dtypes(frozen or trained),
                frozen_bytes=sum(item.numel() * item.element_size() for item in frozen),
                trained_bytes=sum(item.numel() * item.element_size() for item in trained),
                gradient_bytes=sum(item.numel() * item.element_size() for item in trained),
                optimizer_bytes=round(sizes * MOMENTS[options.optimizer]),
            )
        )
    return Parameters(options, tuple(rows), _sum(rows))


def planned(options: TrainOptions, dtype: torch.dtype = torch.bfloat16) -> Parameters:
    """The table of a run that has not started: no weights are read. dtype: of the frozen ones."""
    config = starting_config(options.base_model_path, options.base_revision)
    slot = slot_of(config, options.embodiment_tag)
    with torch.device("meta"):
        model = Groot(config, Parts.used(slot)).to(dtype)
        return count(make_trainable(model, options))


def starting_config(name: str, revision: str | None = None) -> GrootConfig:
    """The configuration of what a run starts from: a member's name, a folder or a hub id.

    Raises GrootError: there is no such checkpoint.
    """
    if name in MEMBERS or name == PUBLISHED:
        return member(name)
    if name == PUBLISHED_ID and revision is None:
        return member(PUBLISHED)
    folder = Path(name)
    return read_config(folder if folder.is_dir() else locate(name, ("config.json",), revision))


def _sum(rows: Sequence[ComponentParameters]) -> ComponentParameters:
    kinds = (f"{what}_bytes" for what in ("frozen", "trained", "gradient", "optimizer"))
    numbers = ("published", "held", "whole", "lora", "layers", *kinds)
    sums = {name: sum(getattr(row, name) for row in rows) for name in numbers}
    dtypes = sorted({name for row in rows for name in row.dtype.split("+") if name})
    return ComponentParameters(
        name="total", flag="", on=any(row.on for row in rows), dtype="+".join(dtypes), **sums
    )


def _dtypes(tensors: Sequence[torch.Tensor]) -> str:
    return "+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))
