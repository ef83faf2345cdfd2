# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking: weights of the paper, the pull through the Jacobian, and chunks that go on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from chefmate_policy.groot.errors import InputError
from chefmate_policy.groot.guidance import (
    Prefix,
    PrefixGuide,
    guidance_weight,
    prefix_weights,
    pull_back,
)
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.groot.sizes import member
from chefmate_policy.inference.engine import Engine

HORIZON, WIDTH, JOINTS = 16, 8, 6
FROZEN, EXECUTED = 4, 6


@cache
def engine(guidance: float = 1.0) -> Engine:
    model = initialise(Groot(member("small-3m"), Parts.used(0)), 2).eval()
    return Engine(model, slot=0, steps=4, guidance=guidance)


@pytest.fixture
def act(small_inputs) -> Callable[..., torch.Tensor]:
    inputs = small_inputs(member("small-3m"))

    def run(seed: int, prefix: Prefix | None = None, guidance: float = 1.0) -> torch.Tensor:
        noise = torch.randn(HORIZON, WIDTH, generator=torch.Generator().manual_seed(seed))
        prompt = engine(guidance).prompt(inputs.input_ids, inputs.input_ids[:, :-6])
        guide = None if prefix is None else PrefixGuide(prefix, HORIZON, WIDTH)
        return engine(guidance)(inputs.pixel_values, inputs.state, prompt, noise, guide=guide)

    return run


def left(chunk: torch.Tensor) -> torch.Tensor:
    """What is left of a chunk after EXECUTED steps."""
    return chunk[EXECUTED:, :JOINTS].clone()


def test_weights_are_those_of_the_paper() -> None:
    weights = prefix_weights(8, frozen=2, overlap=5)
    # c = 3/4, 2/4, 1/4; w = c (e^c - 1) / (e - 1)
    assert torch.allclose(
        weights, torch.tensor([1.0, 1.0, 0.48755, 0.18877, 0.04132, 0.0, 0.0, 0.0]), atol=1e-4
    )
    assert prefix_weights(4, frozen=2, overlap=4, hard=True).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert [round(guidance_weight(time), 4) for time in (0.0, 0.25, 0.5, 0.75)] == [5.0, 3.3333, 2.0, 3.3333]
    assert guidance_weight(0.0, most=2.0) == guidance_weight(0.25, most=2.0) == 2.0


def test_the_error_is_pulled_back_through_the_model() -> None:
    matrix = torch.tensor([[0.5, -1.0], [2.0, 0.25]])
    x = torch.tensor([[[1.0, -2.0]]], requires_grad=True)
    target, strength, rest = torch.tensor([[[0.3, 0.7]]]), torch.tensor([[[2.0, 1.0]]]), 0.75
    velocity = x @ matrix.T
    corrected = pull_back(x, velocity, target, strength, rest)
    jacobian = torch.eye(2) + rest * matrix
    error = strength * (target - x @ jacobian.T)
    assert torch.allclose(corrected, velocity + error @ jacobian)


@pytest.mark.parametrize("jacobian", [True, False])
@pytest.mark.parametrize("hard", [True, False])
def test_without_weights_the_chunk_is_the_plain_one(act, jacobian: bool, hard: bool) -> None:
    nothing = Prefix(torch.zeros(0, JOINTS), 0, hard=hard, jacobian=jacobian)
    assert torch.equal(act(1, nothing), act(1))
    if hard:  # nothing frozen: nothing is held
        assert torch.equal(act(1, Prefix(torch.ones(5, JOINTS), 0, hard=True)), act(1))


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("jacobian", [True, False])
def test_a_soft_prefix_is_kept_near_and_the_seam_is_smaller(act, jacobian: bool, guidance: float) -> None:
    before = act(0, guidance=guidance)
    rest = left(before)
    plain = act(1, guidance=guidance)
    guided = act(1, Prefix(rest, FROZEN, jacobian=jacobian), guidance)

    def off(chunk: torch.Tensor, first: int, last: int) -> float:
        return float((chunk[first:last, :JOINTS] - rest[first:last]).norm())

    assert off(guided, 0, FROZEN) < 0.25 * off(plain, 0, FROZEN)
    assert off(guided, FROZEN, FROZEN + 3) < 0.8 * off(plain, FROZEN, FROZEN + 3)
    # the arm goes over from the old chunk's last frozen step to the new one's next
    seams = [float((chunk[FROZEN, :JOINTS] - rest[FROZEN]).norm()) for chunk in (guided, plain)]
    assert seams[0] < 0.5 * seams[1]
    assert torch.isfinite(guided).all()
    assert not torch.equal(guided[:, JOINTS:], torch.zeros_like(guided[:, JOINTS:]))  # padding stays free


def test_a_hard_prefix_comes_out_exactly_and_the_rest_heeds_it(act) -> None:
    rest = left(act(0))
    hard = act(1, Prefix(rest, FROZEN, hard=True))
    assert torch.allclose(hard[:FROZEN, :JOINTS], rest[:FROZEN], atol=1e-5)
    assert (hard[FROZEN:] - act(1)[FROZEN:]).abs().max() > 1e-4


def test_guidance_is_what_the_formula_says(act, small_inputs) -> None:
    """Against autograd over the whole step, in one Euler step."""
    rest = left(act(0))
    one = Engine(initialise(Groot(member("small-3m"), Parts.used(0)), 2).eval(), slot=0, steps=1)
    inputs = small_inputs(member("small-3m"))
    prompt = one.prompt(inputs.input_ids)
    noise = torch.randn(1, HORIZON, WIDTH, generator=torch.Generator().manual_seed(1))
    guide = PrefixGuide(Prefix(rest, FROZEN), HORIZON, WIDTH)

    def clean(x: torch.Tensor) -> torch.Tensor:
        return one(inputs.pixel_values, inputs.state, prompt, x[0])[None]

    guided = one(inputs.pixel_values, inputs.state, prompt, noise[0], guide=guide)
    error = guide.strength(0.0) * (guide.target - clean(noise))
    # (dX/dx)^T e, in a random direction by a central difference of float32
    direction = torch.randn(noise.shape, generator=torch.Generator().manual_seed(2))
    step = 1e-3
    slope = (clean(noise + step * direction) - clean(noise - step * direction)) / (2 * step)
    found = ((guided[None] - clean(noise)) * direction).sum()
    assert float(found) == pytest.approx(float((slope * error).sum()), rel=0.02)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        (Prefix(torch.zeros(17, 6), 0), "a prefix of 17 steps"),
        (Prefix(torch.zeros(3, 6), 4), "4 of them frozen"),
        (Prefix(torch.zeros(3, 9), 0), "9 dimensions, the model 8"),
        (Prefix(torch.full((3, 6), torch.nan), 0), "not finite"),
    ],
)
def test_a_prefix_that_does_not_fit_is_named(prefix: Prefix, words: str) -> None:
    with pytest.raises(InputError, match=words):
        PrefixGuide(prefix, HORIZON, WIDTH)
