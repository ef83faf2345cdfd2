# SPDX-License-Identifier: Apache-2.0
"""The training pass is the model's own, and a batch is what inference sees, but for crop and colours."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.images import pixel_values, resized
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Inputs, Parts
from chefmate_policy.training.batches import Columns, Preparation, Rows, shrunk, square_side
from chefmate_policy.training.forward import (
    FlowLoss,
    PromptTable,
    checkpoint_layers,
    freeze_embeddings,
    passes_of,
)
from chefmate_policy.training.optim import decays, learning_rate, make_optimizer
from chefmate_policy.training.options import OptionError, TrainOptions
from chefmate_policy.training.stepping import Stepper, seed_of
from chefmate_policy.training.trainable import make_trainable

FRAMES, JOINTS, IMAGE = 40, 6, 3
OPTIONS = TrainOptions(base_model_path="tiny", tune_llm=True, tune_visual=True, batch_size=4, device="cpu")


def prompts() -> PromptTable:
    """Three instructions of different lengths for two cameras of four tokens."""
    image = [IMAGE] * 4
    rows = [[10, 11, *image, 12, *image, *range(20, 20 + words)] for words in (3, 5, 9)]
    return PromptTable(rows, IMAGE, 0)


@pytest.fixture
def columns() -> Columns:
    random = torch.Generator().manual_seed(0)
    states, actions = (2 * torch.rand(FRAMES, 8, generator=random) - 1 for _ in range(2))
    ends = torch.arange(FRAMES) // 20 * 20 + 20
    return Columns(states, actions, ends, torch.arange(FRAMES) % 3, JOINTS)


@pytest.fixture
def rows() -> Rows:
    random = torch.Generator().manual_seed(1)
    pictures = torch.randint(256, (FRAMES, 2, 34, 34, 3), dtype=torch.uint8, generator=random)
    words = torch.randint(-(2**62), 2**62, (5, 2), generator=random)
    return Rows(torch.tensor([0, 1, 2, 15, 39]), words, pictures, True)


def built(small: GrootConfig) -> Groot:
    return initialise(Groot(small, Parts.used(0)), 0)


def left_padded(table: PromptTable, batch: Any) -> Inputs:
    """The batch with prompts padded on the left, as the processor does it."""
    rows = [table.ids[number][table.keep[number]] for number in batch.prompt.tolist()]
    longest = max(map(len, rows))
    ids, mask = (torch.zeros(len(rows), longest, dtype=torch.int64) for _ in range(2))
    for place, row in enumerate(rows):
        ids[place, longest - len(row) :] = row
        mask[place, longest - len(row) :] = 1
    slots = torch.zeros(len(rows), dtype=torch.int64)
    return Inputs(batch.pixel_values, ids, batch.state, slots, mask, batch.action, batch.mask)


def test_the_loss_and_its_gradients_are_the_models(small: GrootConfig, columns: Columns, rows: Rows) -> None:
    batch = Preparation(small, columns, null=None, drop=0.0, augment=True)(rows)
    noise, times = torch.randn(batch.action.shape), 0.9 * torch.rand(len(batch.action))
    one, two = built(small).eval(), built(small).eval()
    loss, each = FlowLoss(one, prompts())(batch, noise, times)
    expected = two(left_padded(prompts(), batch), noise=noise, time=times).loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    weights = batch.mask.sum((1, 2))
    torch.testing.assert_close((each * weights).sum() / weights.sum(), loss.detach())
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()
    for (name, ours), theirs in zip(one.named_parameters(), two.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=2e-4, atol=1e-5, msg=name)


def test_steps_past_the_end_and_unused_dimensions_do_not_count(
    small: GrootConfig, columns: Columns, rows: Rows
) -> None:
    batch = Preparation(small, columns, null=None, drop=0.0, augment=False)(rows)
    assert batch.mask.sum((1, 2)).tolist() == [16 * 6, 16 * 6, 16 * 6, 5 * 6, 1 * 6]
    assert not batch.mask[..., JOINTS:].any()
    torch.testing.assert_close(batch.action[4], columns.actions[39].expand(16, -1))
    torch.testing.assert_close(batch.action[0], columns.actions[:16])


def test_evaluation_sees_what_inference_sees(small: GrootConfig, columns: Columns) -> None:
    random = torch.Generator().manual_seed(3)
    coarse = torch.rand(3, 2, 3, 6, 8, generator=random)
    frames = torch.nn.functional.interpolate(coarse.flatten(0, 1), (120, 160), mode="bicubic")
    frames = (frames.clamp(0, 1) * 255).to(torch.uint8)
    size = small.vision.image_size
    side = square_side(size)
    pictures = shrunk(frames.permute(0, 2, 3, 1).unflatten(0, (3, 2)), side)
    given = Rows(torch.arange(3), torch.zeros(3, 2, dtype=torch.int64), pictures, True)
    prepare = Preparation(small, columns, null=None, drop=0.0, augment=True)
    seen = prepare(given, training=False).pixel_values
    driven = pixel_values(resized(frames, size, size / side))
    assert (seen - driven).abs().mean() < 0.02  # of a range of 2


def test_augmentation_follows_the_samples_bits_alone(
    small: GrootConfig, columns: Columns, rows: Rows
) -> None:
    prepare = Preparation(small, columns, null=7, drop=0.5, augment=True)
    whole = prepare(rows)
    part = prepare(Rows(rows.rows[3:], rows.words[3:], rows.pictures[rows.rows[3:]], False))
    torch.testing.assert_close(part.pixel_values, whole.pixel_values.unflatten(0, (5, 2))[3:].flatten(0, 1))
    assert torch.equal(part.prompt, whole.prompt[3:])
    other = prepare(Rows(rows.rows, rows.words.flip(0), rows.pictures, True))
    assert not torch.equal(other.pixel_values, whole.pixel_values)
    many = Rows(torch.zeros(2000, dtype=torch.int64), torch.randint(2**62, (2000, 2)), rows.pictures, True)
    prepare._images = lambda given, augment: torch.zeros(1, 1, 1, 1, 1)  # type: ignore[method-assign]
    assert 0.45 < (prepare(many).prompt == 7).float().mean() < 0.55


def test_a_planted_fault_gives_a_whole_batch_its_first_samples_words(
    small: GrootConfig, columns: Columns, rows: Rows
) -> None:
    assert columns.instructions[rows.rows].tolist() == [0, 1, 2, 0, 0]
    moved = Rows(rows.rows.roll(-1), rows.words, rows.pictures, True)
    planted = Preparation(small, columns, null=None, drop=0.0, augment=False, one_prompt=True)
    assert planted(moved).prompt.tolist() == [1] * 5
    assert planted(moved, training=False).prompt.tolist() == [1, 2, 0, 0, 0]
    with pytest.raises(OptionError, match="batch-words"):
        TrainOptions(plant="batch")


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_activation_checkpointing_changes_no_gradient(
    small: GrootConfig, columns: Columns, rows: Rows, compiled: bool
) -> None:
    batch = Preparation(small, columns, null=None, drop=0.0, augment=False)(rows)
    found = []
    for again in (False, True):
        torch.manual_seed(1)  # of the adapters
        trainable = make_trainable(built(small), OPTIONS)
        wrapped = passes_of(trainable.model)
        kinds = {type(layer).__name__ for layer, _ in wrapped}
        assert kinds == {"SiglipEncoderLayer", "Qwen3DecoderLayer", "_FeatureBlock", "DiTBlock", "Attention"}
        assert checkpoint_layers(trainable.model, compiled=compiled) == len(wrapped)
        if not again:  # the same dropout without the second run
            for layer, name in wrapped:
                setattr(layer, name, getattr(layer, name).plain)
        trainable.train()
        torch.manual_seed(4)  # dropout is on
        FlowLoss(trainable.model, prompts())(batch)[0].backward()
        found.append([item.grad for item in trainable.parameters.values()])
    for one, two in zip(*found, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            torch.testing.assert_close(one, two)


def test_embeddings_that_do_not_train_are_looked_up_once(
    small: GrootConfig, columns: Columns, rows: Rows
) -> None:
    batch = Preparation(small, columns, null=None, drop=0.0, augment=False)(rows)
    model = built(small).eval().requires_grad_(False)
    noise, times = torch.randn(batch.action.shape), torch.rand(5)
    before = FlowLoss(model, prompts())(batch, noise, times)[0]
    table = prompts()
    freeze_embeddings(model, table, torch.device("cpu"))
    model.backbone.language.embed_tokens.weight.zero_()
    assert torch.equal(FlowLoss(model, table)(batch, noise, times)[0], before)


def test_passes_of_a_step_add_up(small: GrootConfig, columns: Columns, rows: Rows) -> None:
    """Two passes of one batch each are one step on their mean gradient."""
    options = TrainOptions.from_dict(
        OPTIONS.to_dict() | {"gradient_accumulation_steps": 2, "warmup_ratio": 0.0}
    )
    trainable = make_trainable(built(small).eval(), options)
    prepare = Preparation(small, columns, null=None, drop=0.0, augment=False)
    loss = FlowLoss(trainable.model, prompts())
    expected = [torch.zeros_like(item) for item in trainable.parameters.values()]
    for part in range(2):
        torch.manual_seed(seed_of(options.seed, 0, part, 0))
        found = torch.autograd.grad(
            loss(prepare(rows))[0] / 2, list(trainable.parameters.values()), allow_unused=True
        )
        expected = [one if two is None else one + two for one, two in zip(expected, found, strict=True)]
    seen: list[torch.Tensor] = []

    class Watching(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            seen.extend(item.grad.clone() for group in self.param_groups for item in group["params"])

    optimizer = Watching(trainable.parameters.values(), lr=0.0)
    options = TrainOptions.from_dict(options.to_dict() | {"max_grad_norm": 0.0})
    Stepper(loss, prepare, trainable.parameters, optimizer, options, autocast=None)(0, iter([rows, rows]))
    for one, two in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_the_rate_rises_and_follows_a_cosine() -> None:
    options = TrainOptions(max_steps=100, warmup_ratio=0.1, learning_rate=2.0e-4)
    rates = [learning_rate(step, options) for step in (0, 5, 10, 55, 100)]
    assert rates == pytest.approx([0.0, 1e-4, 2e-4, 1e-4, 0.0], abs=1e-12)


def test_matrices_decay_and_biases_norms_and_slot_biases_do_not(small: GrootConfig) -> None:
    model = Groot(small, Parts.used(0))
    still = {name for name, item in model.named_parameters() if not decays(name, item)}
    assert {"action_head.action_encoder.W1.b", "action_head.vlln.weight"} <= still
    assert "action_head.action_encoder.W1.W" not in still
    assert all("norm" in name or name.endswith((".b", ".bias", "vlln.weight")) for name in still)
    optimizer = make_optimizer(dict(model.named_parameters()), OPTIONS)
    counted = sum(len(group["params"]) for group in optimizer.param_groups)
    assert counted == len(list(model.parameters()))
