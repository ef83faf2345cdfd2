# SPDX-License-Identifier: Apache-2.0
"""The check before the first step finds what is frozen and should not be, and what is not and should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.training.components import FLAGS
from chefmate_policy.training.errors import TrainingError, VerificationError
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.trainable import Trainable, make_trainable
from chefmate_policy.training.verify import verify, verify_optimizer

EVERYTHING = dict.fromkeys(FLAGS, True)
QUERY = "action_head.model.transformer_blocks.1.attn1.to_q"
FROZEN = "backbone.eagle_model.language_model.model.norm.weight"


def prepared(config: GrootConfig, dtype: torch.dtype = torch.float32, **options: object) -> Trainable:
    model = initialise(Groot(config, Parts.used(0)), 0).to(dtype)
    return make_trainable(model, TrainOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("on", [*FLAGS, "everything"])
@pytest.mark.parametrize("rank", [0, 4])
def test_what_the_options_say_is_what_trains(small: GrootConfig, on: str, rank: int) -> None:
    flags = {flag: on in (flag, "everything") for flag in FLAGS}
    trainable = prepared(small, lora_rank=rank, **flags)
    found = verify(trainable)
    assert found.tensors == len(trainable.parameters)
    assert found.frozen == len(list(trainable.model.parameters())) - found.tensors


@pytest.mark.parametrize(
    "options",
    [{"lora_rank": 4, "lora_targets": "all-linear"}, {"lora_rank": 4}, {}],
    ids=["all-linear", "qkv", "whole"],
)
def test_bf16_with_float32_masters_is_verified_under_autocast(
    small: GrootConfig, options: dict[str, object]
) -> None:
    found = verify(prepared(small, torch.bfloat16, **EVERYTHING, **options))
    keys = [name for name in found.excused if name.endswith(("k_proj.bias", "to_k.bias"))]
    assert len(found.excused) == len(keys) == (0 if options else 1 + 1 + 2)  # vision, vl_self_attention, DiT


def test_nothing_is_left_of_a_verification(small: GrootConfig) -> None:
    trainable = prepared(small, lora_rank=4, **EVERYTHING)
    trainable.model.eval()
    before = {name: item.clone() for name, item in trainable.model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    verify(trainable)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], item) for name, item in trainable.model.state_dict().items())
    assert all(item.grad is None for item in trainable.model.parameters())
    assert not trainable.model.training


def freeze(trainable: Trainable) -> None:
    trainable.parameters[f"{QUERY}.lora_A.default.weight"].requires_grad_(False)


def detach(trainable: Trainable) -> None:
    """The forward pass cuts a gradient off: requires_grad says nothing of it."""
    layer = trainable.model.action_head.state_encoder
    layer.register_forward_hook(lambda module, args, output: output.detach())


def unfreeze(trainable: Trainable) -> None:
    trainable.model.get_parameter(FROZEN).requires_grad_(True)


def overwrite(trainable: Trainable) -> None:
    """Something changes a frozen tensor without a gradient."""
    weight = trainable.model.get_parameter(FROZEN)

    def hook(module: nn.Module, args: object) -> None:
        with torch.no_grad():
            weight[0] += 1e-3

    trainable.model.register_forward_pre_hook(hook)


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (freeze, rf"1 tensors should train and get no gradient: {QUERY}\.lora_A"),
        (detach, r"4 tensors should train and get no gradient: action_head\.state_encoder"),
        (unfreeze, f"1 tensors are frozen and get a gradient: {FROZEN}"),
        (overwrite, f"1 tensors are frozen and change: {FROZEN}"),
    ],
)
def test_planted_faults_stop_the_run(
    small: GrootConfig, plant: Callable[[Trainable], None], what: str
) -> None:
    trainable = prepared(small, lora_rank=4)
    verify(trainable)
    plant(trainable)
    with pytest.raises(VerificationError, match=what):
        verify(trainable)


def test_what_the_optimizer_is_given_is_verified_not_what_is_meant(small: GrootConfig) -> None:
    trainable = prepared(small, lora_rank=4)
    name = f"{QUERY}.lora_B.default.weight"
    fewer = {key: item for key, item in trainable.parameters.items() if key != name}
    with pytest.raises(VerificationError, match=f"1 tensors should train and do not change: {name}"):
        verify(trainable, optimised=fewer)
    trainable.model.get_parameter(FROZEN).requires_grad_(True)
    more = trainable.parameters | {FROZEN: trainable.model.get_parameter(FROZEN)}
    with pytest.raises(VerificationError, match=f"are frozen and change: {FROZEN}"):
        verify(trainable, optimised=more)


def test_an_optimizer_of_other_tensors_is_refused(small: GrootConfig) -> None:
    trainable = prepared(small)
    tensors = list(trainable.parameters.values())
    verify_optimizer(trainable, torch.optim.SGD([{"params": tensors[:3]}, {"params": tensors[3:]}], lr=0.1))
    with pytest.raises(VerificationError, match=f"it lacks: {next(iter(trainable.parameters))}"):
        verify_optimizer(trainable, torch.optim.SGD(tensors[1:], lr=0.1))
    more = [*tensors, trainable.model.get_parameter(FROZEN)]
    with pytest.raises(VerificationError, match=f"it holds besides: {FROZEN}"):
        verify_optimizer(trainable, torch.optim.SGD(more, lr=0.1))
    with pytest.raises(VerificationError, match="not the model's"):
        verify_optimizer(trainable, torch.optim.SGD([*tensors, torch.zeros(1)], lr=0.1))


def test_a_rate_of_zero_trains_nothing_and_is_caught(small: GrootConfig) -> None:
    with pytest.raises(VerificationError, match="should train and do not change"):
        verify(prepared(small, learning_rate=0.0))


def test_a_model_without_numbers_cannot_be_verified(small: GrootConfig) -> None:
    with torch.device("meta"):
        trainable = make_trainable(Groot(small), TrainOptions())
    with pytest.raises(TrainingError, match="meta device"):
        verify(trainable)
