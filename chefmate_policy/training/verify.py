# SPDX-License-Identifier: Apache-2.0
"""Proves what trains before the first step: which tensors get a gradient, and which an optimizer changes.

Every adapter's B is moved off zero (at zero its A has no gradient), then two passes and two Adam steps at the
full rate follow, without weight decay, which would also move tensors that no gradient reaches. The tensors
with a gradient, and those with a change, must be the selected ones, but for `STRUCTURALLY_ZERO`, of which
nothing is asked. Frozen tensors are compared by fingerprints. Afterwards trained tensors, gradients, modes
and random numbers are as before, bit for bit.

Rows that a batch does not use (other tokens' embeddings, positions behind the chunk, unused state and action
dimensions) have no gradient either; the tensor that they are in has one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.layouts import listed
from chefmate_policy.groot.model import Inputs
from chefmate_policy.training.components import structurally_zero
from chefmate_policy.training.errors import TrainingError, VerificationError
from chefmate_policy.training.trainable import SIDES, Trainable, slot_of

__all__ = ["Verified", "sample_inputs", "verify", "verify_optimizer"]

PERTURBATION = 0.02  # standard deviation of B for the check; of the order that training reaches
STEPS = 2
BLOCK = 2**18  # numbers of a fingerprint taken at a time: 2 MB as int64


@dataclass(frozen=True)
class Verified:
    """What a verification found, where it found nothing wrong."""

    tensors: int  # that train
    parameters: int
    frozen: int  # tensors
    excused: tuple[str, ...]  # trained tensors whose gradient is zero by construction
    loss: float  # of the last pass
    seconds: float

    def __str__(self) -> str:
        return (
            f"verified in {self.seconds:.1f} s: {self.tensors} tensors with {self.parameters:,} parameters"
            f" get gradients and change, {self.frozen} do not"
            + (f"; {len(self.excused)} are zero by construction" if self.excused else "")
        )


def verify(
    trainable: Trainable,
    inputs: Inputs | None = None,
    *,
    optimised: Mapping[str, Parameter] | None = None,
    autocast: torch.dtype | None = None,
) -> Verified:
    """Raises VerificationError naming the tensors that should train and do not, or that do and should not.

    inputs: a batch with actions; None: a random one. optimised: what the run gives to its optimizer; None:
    `trainable.parameters`. autocast: dtype of the passes; None: bf16 where frozen weights are bf16.
    """
    started = time.perf_counter()
    model = trainable.model
    named = dict(model.named_parameters())
    device = next(iter(named.values())).device
    if device.type == "meta":
        raise TrainingError("a model on the meta device has no numbers to verify; load it first")
    given = dict(trainable.parameters if optimised is None else optimised)
    moving = {name: item for name, item in (named | given).items() if item.requires_grad or name in given}
    still = {name: item for name, item in _tensors(model) if name not in moving}
    if inputs is None:
        inputs = sample_inputs(model.config, slot_of(model.config, trainable.options.embodiment_tag))
    inputs = inputs.to(device)
    if autocast is None and any(item.dtype is torch.bfloat16 for item in named.values()):
        autocast = torch.bfloat16

    def loss_of_a_pass() -> Tensor:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            return model(inputs).loss

    graded: set[str] = set()
    with _undone(model, moving, device):
        _perturb(moving)
        before = {name: item.detach().to("cpu", copy=True) for name, item in moving.items()}
        prints = _fingerprints(still)
        trainable.train()
        optimizer = torch.optim.AdamW(
            list(given.values()), lr=trainable.options.learning_rate, weight_decay=0
        )
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of_a_pass()
            if not bool(torch.isfinite(loss)):
                raise VerificationError(f"the loss of a verification pass is {float(loss)}")
            loss.backward()  # type: ignore[no-untyped-call]
            graded |= {
                name for name, item in named.items() if item.grad is not None and bool(item.grad.any())
            }
            optimizer.step()
        changed = {
            name for name, item in moving.items() if not torch.equal(item.detach().cpu(), before[name])
        }
        changed |= {name for name, value in _fingerprints(still).items() if value != prints[name]}
    expected = trainable.selected.names
    excused = {name for name in expected if structurally_zero(name)}
    _compare(expected, excused, graded, changed)
    return Verified(
        len(expected),
        sum(item.numel() for item in trainable.parameters.values()),
        len(named) - len(expected),
        tuple(sorted(excused)),
        float(loss.detach()),
        time.perf_counter() - started,
    )


def verify_optimizer(trainable: Trainable, optimizer: torch.optim.Optimizer) -> None:
    """That an optimizer was given what was verified. Raises VerificationError naming the tensors."""
    names = {id(item): name for name, item in trainable.model.named_parameters()}
    given = {
        names.get(id(item), "a tensor that is not the model's")
        for group in optimizer.param_groups
        for item in group["params"]
    }
    found = [
        f"{what}: {listed(odd)}"
        for what, odd in (
            ("lacks", set(trainable.parameters) - given),
            ("holds besides", given - set(trainable.parameters)),
        )
        if odd
    ]
    if found:
        raise VerificationError(f"the optimizer is not given what trains; it {'; '.join(found)}")


def sample_inputs(
    config: GrootConfig, slot: int, batch: int = 1, cameras: int = 2, words: int = 40
) -> Inputs:
    """A random batch of real shapes on the CPU: images, a prompt of `words` tokens besides them, a state, and
    actions of which six dimensions count."""
    random = torch.Generator().manual_seed(0)
    head, image, tokens = config.action_head, config.vision.image_size, cameras * config.vision.tokens
    ids = torch.randint(config.text.vocab_size, (batch, words + tokens), generator=random)
    ids[ids == config.image_token_index] = (config.image_token_index + 1) % config.text.vocab_size
    ids[:, words // 2 : words // 2 + tokens] = config.image_token_index
    steps = (batch, head.action_horizon, head.action_dim)
    mask = torch.zeros(steps)
    mask[..., :6] = 1.0
    return Inputs(
        pixel_values=2 * torch.rand(batch * cameras, 3, image, image, generator=random) - 1,
        input_ids=ids,
        state=2 * torch.rand(batch, 1, head.state_dim, generator=random) - 1,
        embodiment_id=torch.full((batch,), slot),
        action=(2 * torch.rand(steps, generator=random) - 1) * mask,
        action_mask=mask,
    )


def _compare(expected: frozenset[str], excused: set[str], graded: set[str], changed: set[str]) -> None:
    faults = {
        "should train and get no gradient": expected - excused - graded,
        "should train and do not change": expected - excused - changed,
        "are frozen and get a gradient": graded - expected,
        "are frozen and change": changed - expected,
    }
    found = [f"{len(names)} tensors {what}: {listed(names)}" for what, names in faults.items() if names]
    if found:
        raise VerificationError(
            "what trains is not what the options say; the run does not start. " + "; ".join(found)
        )


@contextmanager
def _undone(model: nn.Module, moving: Mapping[str, Parameter], device: torch.device) -> Iterator[None]:
    """Puts values, gradients, modes and random states back, however the block ends."""
    values = {name: item.detach().to("cpu", copy=True) for name, item in moving.items()}
    gradients = {name: item.grad for name, item in moving.items()}
    modes = [(module, module.training) for module in model.modules()]
    for item in moving.values():
        item.grad = None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, item in moving.items():
                    item.copy_(values[name])
                    item.grad = gradients[name]
            for module, mode in modes:
                module.training = mode


@torch.no_grad()
def _perturb(moving: Mapping[str, Parameter]) -> None:
    for name, item in moving.items():
        if name.endswith(SIDES[1]):
            item.normal_(std=PERTURBATION)


def _tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@torch.no_grad()
def _fingerprints(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """A number per tensor that any change of its bits changes, but for one in 2^64: bytes weighted with
    random odd numbers and summed."""
    prints: dict[str, int] = {}
    for name, tensor in tensors.items():
        weights = _odd_numbers(tensor.device)
        width = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
        flat = tensor.detach().contiguous().view(-1).view(width)
        total = torch.zeros((), dtype=torch.int64, device=tensor.device)
        for number, block in enumerate(torch.split(flat, BLOCK)):
            total += (2 * number + 1) * (block.long() * weights[: len(block)]).sum()
        prints[name] = int(total)
    return prints


@lru_cache(maxsize=4)
def _odd_numbers(device: torch.device) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**62), 2**62, (BLOCK,), generator=random) * 2 + 1).to(device)
