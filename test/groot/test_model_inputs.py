# SPDX-License-Identifier: Apache-2.0
"""Inputs that do not fit are refused by name; noise and time are reproducible; what is computed once is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chefmate_policy.groot.errors import InputError
from chefmate_policy.groot.flow import denoising_buckets, sample_time


@pytest.mark.parametrize(
    ("field", "change", "named"),
    [
        ("state", lambda x: x[..., :5], r"state has shape \(2, 1, 5\), expected \(2, 1, 12\)"),
        ("pixel_values", lambda x: x[..., :28], "pixel_values has shape"),
        ("pixel_values", lambda x: x[:3], "the prompts hold 64 image tokens, the images give 48"),
        ("embodiment_id", lambda x: x + 40, "embodiment slot 4. is not in this model"),
        ("attention_mask", lambda x: torch.ones(2, 3), "attention_mask has shape"),
    ],
)
def test_an_input_that_does_not_fit_is_named(case_a, field: str, change, named: str) -> None:
    inputs = case_a.inputs()
    with pytest.raises(InputError, match=named):
        case_a.model().get_action(replace(inputs, **{field: change(getattr(inputs, field))}))


def test_training_without_actions_is_refused(case_a) -> None:
    with pytest.raises(InputError, match="action_mask"):
        case_a.model()(case_a.inputs())


def test_equal_seeds_give_equal_chunks(case_a) -> None:
    model, inputs = case_a.model(), case_a.inputs()

    def chunk(seed: int) -> torch.Tensor:
        return model.get_action(inputs, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(chunk(4), chunk(4))
    assert not torch.equal(chunk(4), chunk(5))


def test_elements_outside_the_action_mask_do_not_count(case_a) -> None:
    model, inputs = case_a.model(), case_a.inputs(training=True)
    noise, time = case_a.tensors["in.train_noise"], torch.tensor([0.3, 0.7])
    before = model(inputs, noise=noise, time=time)
    error = ((before.predicted - before.target) ** 2)[inputs.action_mask].mean()
    assert before.loss.item() == pytest.approx(error.item(), rel=1e-5)
    half = inputs.action_mask.clone()
    half[:, 3:] = False
    assert model(replace(inputs, action_mask=half), noise=noise, time=time).loss.item() != before.loss.item()


def test_training_times_follow_the_published_distribution(case_a) -> None:
    head = case_a.config.action_head
    times = sample_time(head, 200_000, torch.Generator().manual_seed(0))
    # b ~ Beta(1.5, 1) has mean 0.6 and standard deviation 0.2619; t = (0.999 - b) / 0.999
    assert times.mean().item() == pytest.approx((0.999 - 0.6) / 0.999, abs=3e-3)
    assert times.std().item() == pytest.approx(0.2619 / 0.999, abs=3e-3)
    assert -0.0011 <= times.min().item() and times.max().item() <= 1.0


def test_denoising_starts_at_the_published_times(case_a) -> None:
    assert denoising_buckets(4, case_a.config.action_head) == [0, 250, 500, 750]
    with pytest.raises(InputError, match="at least 1"):
        denoising_buckets(0, case_a.config.action_head)


def test_dropout_acts_in_training_mode_only(case_a) -> None:
    model, inputs = case_a.model(), case_a.inputs(training=True)
    given = {"noise": case_a.tensors["in.train_noise"], "time": case_a.tensors["in.train_t"]}
    assert torch.equal(model(inputs, **given).predicted, model(inputs, **given).predicted)
    model.train()
    assert not torch.equal(model(inputs, **given).predicted, model(inputs, **given).predicted)
