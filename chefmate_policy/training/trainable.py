# SPDX-License-Identifier: Apache-2.0
"""Makes a model trainable as the options say: whole tensors, or LoRA adapters by peft beside whole slots.

`selection` says what trains, from names alone; `make_trainable` does it. Trained tensors are float32 whatever
the frozen ones are: an Adam step of 1e-4 is below half the spacing of bf16 at 0.06 and would be lost. With
bf16 frozen weights the passes therefore run under autocast.

Under LoRA the linear layers of a component whose option is on get adapters (`qkv`: those that make queries,
keys and values); its other tensors stay frozen. The encoders and decoder of an embodiment are no linear
layers but one matrix per embodiment slot: they train whole, and of the slots the model holds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from chefmate_policy.groot.adapter import save_adapter
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.embodiment import EMBODIMENT_IDS
from chefmate_policy.groot.layouts import listed
from chefmate_policy.groot.model import Groot
from chefmate_policy.training.components import COMPONENTS, QKV, component_of
from chefmate_policy.training.errors import OptionError, TrainingError
from chefmate_policy.training.options import TrainOptions

__all__ = ["Selection", "Trainable", "adapters", "make_trainable", "selection", "slot_of"]

ADAPTER = "default"  # peft's name of the one adapter
SIDES = (f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight")


@dataclass(frozen=True)
class Selection:
    """What trains: published keys that train as they are, and linear layers that get adapters."""

    whole: tuple[str, ...]
    adapted: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """Names of the parameters that train, as the model has them once adapters are in."""
        return frozenset(self.whole) | {module + side for module in self.adapted for side in SIDES}


def selection(model: Groot, options: TrainOptions) -> Selection:
    """What the options train of a model that has no adapters yet; it may be on the meta device."""
    trained = {component.name for component in COMPONENTS if getattr(options, component.flag)}
    keys = [name for name, _ in model.named_parameters()]
    of = {key: component_of(key) for key in keys}
    chosen = [key for key in keys if of[key].name in trained]
    if not options.lora_rank:
        return Selection(tuple(chosen), ())
    adapted = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or (component := of[f"{name}.weight"]).name not in trained:
            continue
        fits = options.lora_targets == "all-linear" or name.rpartition(".")[2] in QKV
        if component.used and fits:
            adapted.append(name)
    return Selection(tuple(key for key in chosen if of[key].slots), tuple(adapted))


def slot_of(config: GrootConfig, tag: str) -> int:
    """The slot of an embodiment tag, by config.json or as published. Raises OptionError: there is none."""
    slots: Mapping[str, int] = config.raw.get("embodiment_ids", EMBODIMENT_IDS)
    if tag not in slots:
        raise OptionError(f"embodiment_tag {tag!r} does not exist; there are {', '.join(slots)}")
    return slots[tag]


class Trainable:
    """A model of which exactly `selected` trains."""

    def __init__(self, model: Groot, options: TrainOptions, selected: Selection) -> None:
        self.model, self.options, self.selected = model, options, selected
        names = selected.names
        self.parameters: dict[str, Parameter] = {
            name: parameter for name, parameter in model.named_parameters() if name in names
        }
        self._active = {component_of(name).name for name in names}

    @property
    def uses_lora(self) -> bool:
        return bool(self.selected.adapted)

    def train(self) -> None:
        """Training mode; components that are frozen whole stay in evaluation, without dropout."""
        self.model.train()
        for name, module in self.model.named_modules():
            component = next((part for part in COMPONENTS if part.holds(f"{name}.")), None)
            if component is not None and component.name not in self._active:
                module.training = False

    def state(self) -> dict[str, Tensor]:
        """The trained tensors by name, as they are in the model (no copies)."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts trained tensors back in place. Raises TrainingError naming those that do not fit."""
        odd = set(state) ^ set(self.parameters)
        if odd:
            raise TrainingError(f"the saved state and this run train different tensors: {listed(odd)}")
        for name, parameter in self.parameters.items():
            if state[name].shape != parameter.shape:
                raise TrainingError(
                    f"the saved {name} has shape {tuple(state[name].shape)}, here it is"
                    f" {tuple(parameter.shape)}"
                )
            parameter.copy_(state[name])

    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Adapters: layer -> A [r, in], B [out, r]."""
        state = self.state()
        return {
            module: (state[module + SIDES[0]], state[module + SIDES[1]]) for module in self.selected.adapted
        }

    def whole(self) -> dict[str, Tensor]:
        """What trains without an adapter, by published key."""
        state = self.state()
        return {key: state[key] for key in self.selected.whole}

    def save_adapter(self, folder: Path, base: str) -> None:
        """Writes adapters and the whole slot in peft's files, which `open_checkpoint` reads.

        base: folder or hub id of the checkpoint that they belong to. Raises TrainingError: there are none.
        """
        if not self.uses_lora:
            raise TrainingError(f"no adapter to save in {folder}: this run trains tensors whole")
        save_adapter(
            folder,
            base,
            self.pairs(),
            rank=self.options.lora_rank,
            alpha=self.options.alpha,
            trained=self.whole(),
            embodiments=self.model.parts.embodiments,
        )

    @torch.no_grad()
    def merge(self, dtype: torch.dtype | None = None) -> Groot:
        """Adds the adapters to their layers and takes them out: the model has its published keys again.

        W + scale B A is summed in float32 and rounded once. dtype: of the trained tensors afterwards; None:
        adapted layers as they were, whole ones float32. The Trainable must not be used any more.
        """
        scale = self.options.alpha / self.options.lora_rank if self.uses_lora else 0.0
        for module, (a, b) in self.pairs().items():
            layer = self.model.get_submodule(module)
            base = layer.get_submodule("base_layer")
            assert isinstance(base, nn.Linear)
            base.weight.copy_(base.weight.float().addmm_(b.float(), a.float(), alpha=scale))
            parent, _, name = module.rpartition(".")
            self.model.get_submodule(parent).register_module(name, base)
        if dtype is not None:
            for key in self.selected.whole:
                self.parameters[key].data = self.parameters[key].data.to(dtype)
        return self.model


def make_trainable(model: Groot, options: TrainOptions) -> Trainable:
    """Freezes everything, then makes trainable what the options say; in place.

    Build the model with `Parts.used(slot)`: where the projector trains, it must hold that slot alone. Raises
    TrainingError: it holds more, or the options select nothing.
    """
    selected = selection(model, options)
    if not selected.names:
        raise TrainingError(f"nothing of the model trains with {', '.join(options.flags_on)}")
    rows = model.action_head.slots.rows
    if options.tune_projector and rows != 1:
        raise TrainingError(
            f"the model holds {rows} embodiment slots, and all would train with"
            f" {options.embodiment_tag!r}; load it with Parts.used(slot)"
        )
    model.requires_grad_(False)
    if selected.adapted:
        adapters(model, selected.adapted, options)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in selected.names)
        if name in selected.names:
            parameter.data = parameter.data.to(torch.float32)
    trainable = Trainable(model, options, selected)
    missing = selected.names - set(trainable.parameters)
    if missing:
        raise TrainingError(f"the model lacks {len(missing)} tensors that should train: {listed(missing)}")
    return trainable


def adapters(model: nn.Module, layers: tuple[str, ...], options: TrainOptions) -> None:
    """Puts LoRA into linear layers, in place: B is zero, A is drawn from the run's seed."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # peft divides it by r; fractions are fine
        lora_dropout=options.lora_dropout,
        target_modules=list(layers),
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        inject_adapter_in_model(config, model, ADAPTER)
