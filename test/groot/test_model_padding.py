# SPDX-License-Identifier: Apache-2.0
"""Left-padded batches: a sample's result is its own, unless the reference's behaviour is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from chefmate_policy.groot.backbone import PadRows
from chefmate_policy.groot.model import Groot, Inputs

SAMPLE = 1e-5  # of the largest value
CUT = 7  # tokens that sample 0's prompt is shorter


def shortened(case, by: int = CUT) -> Inputs:
    """Sample 0 alone, with `by` tokens of its instruction left out."""
    inputs = case.inputs(0, training=True)
    ids = inputs.input_ids
    last = int((ids[0] == case.config.image_token_index).nonzero().max())
    assert ids.shape[1] - last > by + 3
    return replace(inputs, input_ids=torch.cat([ids[:, : last + 3], ids[:, last + 3 + by :]], dim=1))


def padded(case, short: Inputs) -> Inputs:
    """The short sample beside sample 1, padded to its length."""
    other = case.inputs(1, training=True)
    pads = other.input_ids.shape[1] - short.input_ids.shape[1]
    ids = F.pad(short.input_ids, (pads, 0), value=case.config.raw["golden"]["pad_token_id"])
    mask = torch.ones(2, ids.shape[1], dtype=torch.int64)
    mask[0, :pads] = 0
    both = {
        name: torch.cat([getattr(short, name), getattr(other, name)])
        for name in ("pixel_values", "state", "embodiment_id", "action", "action_mask")
    }
    return Inputs(input_ids=torch.cat([ids, other.input_ids]), attention_mask=mask, **both)


def close(ours: Tensor, reference: Tensor) -> bool:
    return bool((ours - reference).abs().max() <= SAMPLE * reference.abs().max())


def test_a_sample_does_not_depend_on_its_neighbours_prompt(case_a) -> None:
    model = case_a.model()
    short, noise = shortened(case_a), case_a.tensors["in.infer_noise"]
    alone = model.get_action(short, noise=noise[:1])
    beside = model.get_action(padded(case_a, short), noise=noise)
    assert close(beside[:1], alone)
    assert close(beside[1:], model.get_action(case_a.inputs(1), noise=noise[1:]))


def test_loss_of_a_padded_batch_is_that_of_its_samples(case_a) -> None:
    model = case_a.model()
    short = shortened(case_a)
    noise, time = case_a.tensors["in.train_noise"], case_a.tensors["in.train_t"]
    both = model(padded(case_a, short), noise=noise, time=time)
    alone = model(short, noise=noise[:1], time=time[:1])
    assert close(both.predicted[:1].detach(), alone.predicted.detach())


def test_what_pad_tokens_hold_changes_nothing(case_a) -> None:
    model = case_a.model()
    inputs, noise = padded(case_a, shortened(case_a)), case_a.tensors["in.infer_noise"]
    other_pads = inputs.input_ids.masked_fill(inputs.attention_mask == 0, 7)
    actions = model.get_action(replace(inputs, input_ids=other_pads), noise=noise)
    assert torch.equal(actions, model.get_action(inputs, noise=noise))


@pytest.mark.parametrize("rule", [PadRows.ZERO, PadRows.UNIFORM])
def test_the_parity_switch_lets_pads_in(case_a, rule: PadRows) -> None:
    inputs, noise = padded(case_a, shortened(case_a)), case_a.tensors["in.infer_noise"]
    ours = case_a.model().get_action(inputs, noise=noise)
    theirs = case_a.model(pad_rows=rule).get_action(inputs, noise=noise)
    assert (ours[0] - theirs[0]).abs().max() > 1e-3 * ours.abs().max()
    assert close(theirs[1:], ours[1:]), "a sample without pads is the same under every rule"


def first_layer(model: Groot, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Input and output of the language model's first layer."""
    seen: list[Tensor] = []
    layer = model.backbone.language.layers[0]
    layer.register_forward_hook(lambda _module, args, output: seen.extend([args[0], output]))
    model.observe(inputs)
    return seen[0], seen[1]


@pytest.mark.parametrize("rule", [PadRows.ZERO, PadRows.UNIFORM])
@torch.no_grad()
def test_pad_rows_follow_the_named_rule(case_a, rule: PadRows) -> None:
    model = case_a.model(pad_rows=rule)
    inputs = padded(case_a, shortened(case_a))
    before, after = first_layer(model, inputs)
    layer = model.backbone.language.layers[0]
    attention = layer.self_attn
    values = attention.v_proj(layer.input_layernorm(before))  # [B, L, kv heads x head dim]
    heads = values.unflatten(-1, (-1, attention.head_dim)).repeat_interleave(
        attention.num_key_value_groups, -2
    )
    even = attention.o_proj(heads.mean(dim=1).flatten(1))[0] if rule is PadRows.UNIFORM else 0.0
    middle = before[0, :CUT] + even
    expected = middle + layer.mlp(layer.post_attention_layernorm(middle))
    assert close(after[0, :CUT], expected)


@torch.no_grad()
def test_features_of_real_tokens_agree_across_the_rules(case_a) -> None:
    inputs = padded(case_a, shortened(case_a))
    of_rule = []
    for rule in PadRows:
        model = case_a.model(pad_rows=rule)
        features = model.backbone(inputs.pixel_values, inputs.input_ids, inputs.attention_mask, rule)
        of_rule.append(features[inputs.attention_mask.bool()])
    assert close(of_rule[1], of_rule[0])
    assert close(of_rule[2], of_rule[0])
