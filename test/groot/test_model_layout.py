# SPDX-License-Identifier: Apache-2.0
"""Keys, shapes and counts of the published layout, and models with parts left out."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.errors import ConfigurationError, InputError
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Parts, published_shapes
from chefmate_policy.groot.published import CONFIG
from chefmate_policy.groot.sizes import MEMBERS, member


@pytest.fixture(scope="module")
def counts(golden_folder) -> dict[str, Any]:
    return json.loads((golden_folder / "counts.json").read_text())


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_published_configuration_has_the_published_tensors(counts) -> None:
    shapes = published_shapes(GrootConfig.from_dict(CONFIG))
    assert {key: list(shape) for key, shape in shapes.items()} == counts["state_dict_shapes"]
    assert len(shapes) == 899
    assert sum(shape.numel() for shape in shapes.values()) == 2_724_163_520


def test_unused_parts_can_be_left_out(counts) -> None:
    config, of = GrootConfig.from_dict(CONFIG), counts["components"]
    with torch.device("meta"):
        model = Groot(config, Parts.used(31))
    slot = counts["one_embodiment_slot"]["sum"]
    whole = counts["total_untied"]
    dropped = (
        of["backbone.language_model.lm_head_unused"]
        + of["backbone.vision_model.pooling_head_unused"]
        + 31 * slot
    )
    assert size(model) == whole - dropped
    parts, kept = model.parts, model.state_dict()
    for key, shape in published_shapes(config).items():
        assert (key in kept) == parts.holds(key)
        if key in kept:
            rows = parts.rows(key)
            assert kept[key].shape == (shape if rows is None else (1, *shape[1:])), key


def test_a_model_with_parts_left_out_gives_the_same_actions(case) -> None:
    ids = case.tensors["in.embodiment_id"].tolist()
    noise = case.tensors["in.infer_noise"]
    whole = case.model().get_action(case.inputs(), noise=noise)
    for sample, slot in enumerate(ids):
        parts = Parts.used(slot)
        with torch.device("meta"):
            model = Groot(case.config, parts)
        kept = {key: case.weights[key] for key in model.state_dict()}
        for key in kept:
            if parts.rows(key) is not None:
                kept[key] = kept[key][list(parts.rows(key))]
        model.load_state_dict(kept, assign=True)
        actions = model.eval().get_action(case.inputs(sample), noise=noise[sample : sample + 1])
        assert torch.allclose(
            actions, whole[sample : sample + 1], rtol=0, atol=1e-5 * whole.abs().max().item()
        )


def test_a_dropped_slot_is_named(case_a) -> None:
    present, other = 1, 2
    with torch.device("meta"):
        model = Groot(case_a.config, Parts.used(present))
    assert model.action_head.slots.row(present) == 0
    with pytest.raises(InputError, match=r"slot 2 is not in this model, which holds \[1\]"):
        model.action_head.slots.row(other)


@pytest.mark.parametrize(("name", "millions"), [("small-3m", 3.0), ("small-7m", 7.0)])
def test_small_members_have_their_size(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = Groot(member(name), Parts.used(0))
    assert size(model) / 1e6 == pytest.approx(millions, rel=0.1)
    assert GrootConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config


@pytest.mark.parametrize("name", MEMBERS)
def test_random_weights_give_velocities_of_the_noise_s_size(name: str, small_inputs) -> None:
    model = initialise(Groot(member(name), Parts.used(0)), seed=3).eval()
    noise = model.start_noise(1, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        observed, times = model.observe(small_inputs(model.config)), model.action_head.steps(4)
        for step in range(4):
            velocity = model.action_head.velocity(noise, observed, times.at(step))
            assert 0.5 <= (velocity.norm() / noise.norm()).item() <= 2.0


def test_random_weights_of_a_part_are_those_of_the_whole(case_a) -> None:
    whole = initialise(Groot(case_a.config), seed=5).state_dict()
    parts = Parts.used(2, 0)
    for key, tensor in initialise(Groot(case_a.config, parts), seed=5).state_dict().items():
        rows = parts.rows(key)
        assert torch.equal(tensor, whole[key] if rows is None else whole[key][list(rows)]), key
    other = initialise(Groot(case_a.config), seed=6).state_dict()
    assert all(not torch.equal(tensor, other[key]) for key, tensor in whole.items())


def with_setting(path: str, value: object) -> dict[str, Any]:
    config = copy.deepcopy(member("small-3m").raw)
    *folders, key = path.split(".")
    section = config
    for folder in folders:
        section = section[folder]
    section[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("eagle_cfg.use_pixel_shuffle", True, "eagle_cfg.use_pixel_shuffle is True"),
        ("backbone_cfg.project_to_dim", 1536, "backbone_cfg.project_to_dim is 1536"),
        ("backbone_cfg.select_layer", 9, "select_layer is 9; the language model has 2 layers"),
        ("action_head_cfg.backbone_embedding_dim", 100, "expected backbone_embedding_dim, 100"),
        ("action_head_cfg.diffusion_model_cfg.output_dim", 7, "diffusion_model_cfg.output_dim is 7"),
        ("action_head_cfg.max_state_dim", "64", "action_head_cfg.max_state_dim is '64'"),
        ("action_head_cfg", None, "no section action_head_cfg"),
        ("eagle_cfg.image_token_index", 5000, "outside the vocabulary"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused_by_key(path: str, value: object, named: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        GrootConfig.from_dict(with_setting(path, value))
    assert named in str(refusal.value)


def test_small_sizes_without_their_backbone_are_refused() -> None:
    config = dict(member("small-3m").raw)
    del config["eagle_cfg"]
    with pytest.raises(ConfigurationError, match="the published one is assumed"):
        GrootConfig.from_dict(config)
