# SPDX-License-Identifier: Apache-2.0
"""What trains: by names at a small size for every combination of options, by counts at full size."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from chefmate_policy.groot.checkpoint import load_model, open_checkpoint
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Parts, published_shapes
from chefmate_policy.groot.saving import save_checkpoint
from chefmate_policy.groot.sizes import PUBLISHED, member
from chefmate_policy.training.components import COMPONENTS, FLAGS, component_of
from chefmate_policy.training.errors import OptionError, TrainingError
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.params import planned
from chefmate_policy.training.trainable import make_trainable, selection, slot_of
from chefmate_policy.training.verify import sample_inputs

SLOT = 9_855_008  # parameters of one embodiment's encoders and decoder
EVERYTHING = dict.fromkeys(FLAGS, True)

# published keys of each option, by an expression of its own
OF_FLAG = {
    "tune_visual": ("backbone.eagle_model.vision_model.", "backbone.eagle_model.mlp1."),
    "tune_llm": ("backbone.eagle_model.language_model.",),
    "tune_projector": (
        "action_head.state_encoder.",
        "action_head.action_encoder.",
        "action_head.action_decoder.",
        "action_head.position_embedding.",
    ),
    "tune_diffusion_model": (
        "action_head.model.",
        "action_head.vl_self_attention.",
        "action_head.vlln.",
        "action_head.future_tokens.",
    ),
}
SLOTS = OF_FLAG["tune_projector"][:3]
QKV = (".q_proj", ".k_proj", ".v_proj", ".to_q", ".to_k", ".to_v")


@cache
def full_size() -> Groot:
    with torch.device("meta"):
        return Groot(member(PUBLISHED))


def built(config: GrootConfig, **options: object) -> nn.Module:
    with torch.device("meta"):
        model = Groot(config, Parts.used(slot_of(config, "new_embodiment")))
        make_trainable(model, TrainOptions(**options))  # type: ignore[arg-type]
    return model


def test_each_of_the_899_tensors_belongs_to_exactly_one_component_and_option() -> None:
    shapes = published_shapes(member(PUBLISHED))
    assert len(shapes) == 899
    for key in shapes:
        flags = [flag for flag, prefixes in OF_FLAG.items() if key.startswith(prefixes)]
        assert flags == [component_of(key).flag]
    used = {component_of(key).name for key in shapes}
    assert used == {component.name for component in COMPONENTS}
    with pytest.raises(TrainingError, match=r"action_head\.extra"):
        component_of("action_head.extra.weight")


@pytest.mark.parametrize("on", [on for on in itertools.product((False, True), repeat=4) if any(on)])
@pytest.mark.parametrize("targets", ["", "qkv", "all-linear"])
def test_exactly_the_tensors_of_the_options_train(
    small: GrootConfig, on: tuple[bool, ...], targets: str
) -> None:
    flags = dict(zip(OF_FLAG, on, strict=True))
    more = {"lora_rank": 4, "lora_targets": targets} if targets else {}
    model = built(small, **flags, **more)
    with torch.device("meta"):
        plain = Groot(small, Parts.used(0))
    wanted = tuple(prefix for flag, prefixes in OF_FLAG.items() if flags[flag] for prefix in prefixes)
    expected = {key for key, _ in plain.named_parameters() if key.startswith(wanted)}
    if targets:
        linear = {
            name
            for name, module in plain.named_modules()
            if isinstance(module, nn.Linear)
            and name.startswith(wanted)
            and (targets == "all-linear" or name.endswith(QKV))
        }
        expected = {key for key in expected if key.startswith(SLOTS)}
        expected |= {f"{name}.lora_{side}.default.weight" for name in linear for side in "AB"}
    assert {name for name, item in model.named_parameters() if item.requires_grad} == expected


@pytest.mark.parametrize(
    ("rank", "everything", "adapters"),
    [
        (8, False, 1_638_400),
        (16, False, 3_276_800),
        (32, False, 6_553_600),
        (64, False, 13_107_200),
        (16, True, 8_228_864),
        (32, True, 16_457_728),
    ],
)
def test_adapters_at_full_size_are_those_of_the_reference_and_the_slot_trains_beside(
    rank: int, everything: bool, adapters: int
) -> None:
    flags = EVERYTHING if everything else {}
    chosen = selection(full_size(), TrainOptions(lora_rank=rank, **flags))
    assert len(chosen.adapted) == (177 if everything else 60)
    layers = dict(full_size().named_modules())
    sizes = [layers[name] for name in chosen.adapted]
    assert sum(rank * (layer.in_features + layer.out_features) for layer in sizes) == adapters
    if rank == 32:  # peft itself at full size, once for each
        total = planned(TrainOptions(lora_rank=rank, **flags)).total
        assert (total.lora, total.whole) == (adapters, SLOT)


def test_the_documented_table_is_the_codes() -> None:
    shapes = published_shapes(member(PUBLISHED))
    layers = {
        targets: selection(full_size(), TrainOptions(lora_rank=1, lora_targets=targets, **EVERYTHING)).adapted
        for targets in ("qkv", "all-linear")
    }
    documented = {}
    for line in (Path(__file__).resolve().parents[2] / "docs/training.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 8 and f"{cells[4].strip('`')}" in FLAGS:
            numbers = [int(cell.replace(",", "").split()[0]) for cell in cells[2:4]]
            adapted = [int(cell.split()[0]) if "layer" in cell else 0 for cell in cells[6:]]
            documented[cells[0]] = (*numbers, cells[4].strip("`"), *adapted)
    rows = {}
    for component in COMPONENTS:
        keys = [key for key in shapes if component_of(key) == component]
        adapted = [sum(component.holds(f"{name}.") for name in layers[targets]) for targets in layers]
        rows[component.name] = (
            len(keys),
            sum(shapes[key].numel() for key in keys),
            component.flag,
            *adapted,
        )
    slots = [rows.pop(component.name) for component in COMPONENTS if component.slots]
    together = ", ".join(component.name for component in COMPONENTS if component.slots)
    rows[together] = (sum(row[0] for row in slots), sum(row[1] for row in slots), "tune_projector", 0, 0)
    assert documented == rows
    assert sum(row[0] for row in rows.values()) == 899


def test_whole_training_at_full_size_has_the_reference_sizes_with_one_slot_for_32() -> None:
    others = 31 * SLOT  # the reference trains every embodiment's
    head = planned(TrainOptions()).total
    assert head.whole == 1_068_806_144 - others and head.lora == 0
    assert head.published == 2_724_163_520
    by_name = {row.name: row for row in planned(TrainOptions(**EVERYTHING)).components}
    assert by_name["vision"].whole + by_name["connector"].whole == 430_042_048 - 15_238_352
    assert by_name["language"].whole == 914_674_688 and by_name["dit"].whole == 550_386_688
    unused = [row for row in by_name.values() if row.name in ("lm_head", "pooling_head")]
    assert [(row.held, row.trainable) for row in unused] == [(0, 0), (0, 0)]


def test_a_model_that_holds_other_slots_is_refused() -> None:
    with torch.device("meta"):
        model = Groot(member(PUBLISHED))
    with pytest.raises(TrainingError, match="holds 32 embodiment slots"):
        make_trainable(model, TrainOptions())
    with pytest.raises(OptionError, match="embodiment_tag 'so100' does not exist; there are new_embodiment"):
        slot_of(model.config, "so100")


def test_trained_tensors_are_float32_and_frozen_ones_stay_as_they_were(small: GrootConfig) -> None:
    model = Groot(small).to(torch.bfloat16)
    trainable = make_trainable(model, TrainOptions(lora_rank=4))
    dtypes = {name: item.dtype for name, item in model.named_parameters()}
    assert {dtypes[name] for name in trainable.parameters} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if name not in trainable.parameters} == {torch.bfloat16}


def test_frozen_components_have_no_dropout(small: GrootConfig) -> None:
    trainable = make_trainable(Groot(small), TrainOptions(tune_diffusion_model=False))
    trainable.train()
    head = trainable.model.action_head
    assert not any(
        module.training for part in (head.model, head.vl_self_attention) for module in part.modules()
    )
    assert head.state_encoder.training
    trainable = make_trainable(Groot(small), TrainOptions(lora_rank=4))
    trainable.train()
    assert all(module.training for module in trainable.model.action_head.model.modules())
    assert not trainable.model.backbone.language.layers[0].training


def test_adapters_start_from_the_seed_and_change_nothing(small: GrootConfig) -> None:
    inputs = sample_inputs(small, 0)
    noise = torch.randn(inputs.action.shape, generator=torch.Generator().manual_seed(1))
    plain = initialise(Groot(small), 0).eval()
    before = plain(inputs, noise=noise, time=torch.tensor([0.5])).loss
    models = [
        make_trainable(initialise(Groot(small), 0), TrainOptions(lora_rank=4, seed=seed, **EVERYTHING))
        for seed in (1, 1, 2)
    ]
    name = next(name for name in models[0].parameters if ".lora_A." in name)
    first, same, other = (trainable.parameters[name] for trainable in models)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(models[0].model.eval()(inputs, noise=noise, time=torch.tensor([0.5])).loss, before)


@pytest.mark.parametrize("targets", ["qkv", "all-linear"])
def test_a_saved_adapter_and_a_merged_model_are_the_trained_model(
    small: GrootConfig, tmp_path: Path, targets: str
) -> None:
    base = tmp_path / "base"
    save_checkpoint(initialise(Groot(small), 0), base)
    source = open_checkpoint(base)
    options = TrainOptions(lora_rank=4, lora_targets=targets, lora_dropout=0.0, **EVERYTHING)
    trainable = make_trainable(load_model(source, Parts.used(0)), options)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainable.parameters.values():  # as if trained
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    inputs = sample_inputs(small, 0)
    noise = torch.randn(inputs.action.shape, generator=random)
    expected = trainable.model.eval().get_action(inputs, noise=noise)
    assert not torch.allclose(load_model(source).get_action(inputs, noise=noise), expected, atol=1e-2)

    trainable.save_adapter(tmp_path / "adapter", str(base))
    adapted = load_model(open_checkpoint(tmp_path / "adapter"))
    merged = trainable.merge().eval()
    assert set(merged.state_dict()) == set(load_model(source, Parts.used(0)).state_dict())
    save_checkpoint(merged, tmp_path / "plain", source=source)
    plain = load_model(open_checkpoint(tmp_path / "plain"))
    for model in (adapted, merged, plain):
        torch.testing.assert_close(model.get_action(inputs, noise=noise), expected, atol=1e-4, rtol=1e-4)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(adapted.state_dict()[key], value, atol=1e-6, rtol=1e-5)


def test_state_goes_back_bit_for_bit_and_a_strange_one_is_refused(small: GrootConfig) -> None:
    options = TrainOptions(lora_rank=4)
    trained = make_trainable(Groot(small), options)
    other = make_trainable(Groot(small), options)
    other.load_state({name: value.clone() for name, value in trained.state().items()})
    assert all(torch.equal(other.parameters[name], value) for name, value in trained.state().items())
    state = dict(trained.state())
    name = next(iter(state))
    with pytest.raises(TrainingError, match="different tensors"):
        other.load_state({key: value for key, value in state.items() if key != name})
    with pytest.raises(TrainingError, match="has shape"):
        other.load_state(state | {name: torch.zeros(1)})
