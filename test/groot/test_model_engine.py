# SPDX-License-Identifier: Apache-2.0
"""The engine gives the model's actions: fused weights, prepared prompts, guidance, steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chefmate_policy.groot.errors import InputError
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Inputs, Parts
from chefmate_policy.groot.sizes import member
from chefmate_policy.inference.engine import Engine, StageTimes

CLOSE = 1e-5  # of the largest value


def close(ours: torch.Tensor, reference: torch.Tensor) -> bool:
    return bool((ours - reference).abs().max() <= CLOSE * reference.abs().max())


def one(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs.pixel_values, inputs.state


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_the_engine_gives_the_reference_s_actions(case, steps: int) -> None:
    key = "out.infer.actions" if steps == 4 else f"out.infer_n{steps}.actions"
    noise, recorded = case.tensors["in.infer_noise"], case.tensors[key]
    for sample, slot in enumerate(case.tensors["in.embodiment_id"].tolist()):
        engine = Engine(case.model(), slot=slot, steps=steps)
        inputs = case.inputs(sample)
        actions = engine(*one(inputs), engine.prompt(inputs.input_ids), noise[sample])
        assert close(actions, recorded[sample])


def test_the_number_of_steps_can_change(case_a) -> None:
    slot = int(case_a.tensors["in.embodiment_id"][0])
    engine = Engine(case_a.model(), slot=slot, steps=4)
    inputs, noise = case_a.inputs(0), case_a.tensors["in.infer_noise"][0]
    prompt = engine.prompt(inputs.input_ids)
    engine(*one(inputs), prompt, noise)
    engine.set_steps(8)
    assert close(engine(*one(inputs), prompt, noise), case_a.tensors["out.infer_n8.actions"][0])


def test_an_instruction_is_prepared_once(case_a) -> None:
    engine = Engine(case_a.model(), slot=0)
    ids = case_a.inputs(0).input_ids
    assert engine.prompt(ids) is engine.prompt(ids.clone())
    other = ids.clone()
    other[0, -1] = 5
    assert engine.prompt(other) is not engine.prompt(ids)


def small(seed: int = 2) -> Groot:
    return initialise(Groot(member("small-3m"), Parts.used(0)), seed).eval()


def test_guidance_moves_along_the_difference_of_the_two_prompts(small_inputs) -> None:
    inputs = small_inputs(member("small-3m"))
    null = torch.cat([inputs.input_ids[:, :-12], inputs.input_ids[:, -6:]], dim=1)  # a shorter prompt
    noise = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))

    def actions(guidance: float, ids: torch.Tensor, null_ids: torch.Tensor | None = None) -> torch.Tensor:
        engine = Engine(small(), slot=0, steps=1, guidance=guidance)
        return engine(*one(inputs), engine.prompt(ids, null_ids), noise)

    obeyed, unconditional = actions(1.0, inputs.input_ids), actions(1.0, null)
    guided = actions(1.5, inputs.input_ids, null)
    assert (obeyed - unconditional).abs().max() > 1e-3
    assert close(guided, unconditional + 1.5 * (obeyed - unconditional))
    with pytest.raises(InputError, match="null prompt"):
        actions(1.5, inputs.input_ids)


def test_a_guide_corrects_every_velocity(small_inputs) -> None:
    inputs = small_inputs(member("small-3m"))
    engine = Engine(small(), slot=0, steps=4)
    noise = torch.zeros(16, 8)
    times: list[float] = []

    def to_one(x: torch.Tensor, velocity: torch.Tensor, time: float) -> torch.Tensor:
        times.append(time)
        return (torch.ones_like(x) - x) / (1 - time)

    actions = engine(*one(inputs), engine.prompt(inputs.input_ids), noise, guide=to_one)
    assert torch.allclose(actions, torch.ones_like(actions))
    assert times == [0.0, 0.25, 0.5, 0.75]


def test_stages_are_timed_when_asked_for(small_inputs) -> None:
    inputs, times = small_inputs(member("small-3m")), StageTimes()
    engine = Engine(small(), slot=0)
    engine(*one(inputs), engine.prompt(inputs.input_ids), torch.zeros(16, 8), times=times)
    assert list(times.seconds) == ["vision", "language", "features", "denoising"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pixel_values": torch.zeros(1, 3, 128, 128)}, "1 images give 64 tokens, the prompt holds 128"),
        ({"pixel_values": torch.zeros(2, 3, 224, 224)}, "pixel_values has shape"),
        ({"state": torch.zeros(1, 1, 6)}, "state has 6 values, expected 8"),
    ],
)
def test_what_does_not_fit_is_named(small_inputs, change, named: str) -> None:
    inputs = small_inputs(member("small-3m"))
    engine = Engine(small(), slot=0)
    with pytest.raises(InputError, match=named):
        engine(*one(replace(inputs, **change)), engine.prompt(inputs.input_ids), torch.zeros(16, 8))
