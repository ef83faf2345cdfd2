# SPDX-License-Identifier: Apache-2.0
"""The golden sizes give the reference's numbers: every recorded intermediate, actions, loss, gradients."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn

from chefmate_policy.groot.model import Groot

TOLERANCE = 1e-5  # of the largest absolute value of the reference's tensor
LOSS, GRADIENT_NORM = 2e-6, 1e-4  # relative
# A whole gradient behind the action encoder's sinusoids: at an angle of some 340 rad one rounding of exp or
# sin, which differs between versions of torch, is 2.6e-5 of the largest value, in float64 too.
GRADIENT = 5e-5


def assert_close(name: str, ours: Tensor, reference: Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == reference.shape, name
    if not reference.dtype.is_floating_point:
        assert torch.equal(ours, reference), name
        return
    worst = (ours.float() - reference).abs().max().item() / reference.abs().max().item()
    assert worst <= tolerance, f"{name}: {worst:.1e} of the largest value"


class Trace:
    """Outputs of named modules, one list entry per call."""

    def __init__(self, model: Groot) -> None:
        self.outputs: dict[str, list[Tensor]] = defaultdict(list)
        head, language = model.action_head, model.backbone.language
        watched: dict[str, nn.Module] = {
            "vision_features": model.backbone.vision,
            "connector": model.backbone.connector,
            "backbone_features": language,
            "vlln": head.vlln,
            "vl_features": head.vl_self_attention,
            "state_tokens": head.state_encoder,
            "action_tokens": head.action_encoder,
            "temb": head.model.timestep_encoder,
            "dit_output": head.model,
            "decoder_output": head.action_decoder,
        }
        for prefix, blocks in {
            "llm_layer": language.layers,
            "vl_block": head.vl_self_attention.transformer_blocks,
            "dit_block": head.model.transformer_blocks,
        }.items():
            watched |= {f"{prefix}.{index}": block for index, block in enumerate(blocks)}
        for name, module in watched.items():
            module.register_forward_hook(
                lambda _module, _args, output, name=name: self.outputs[name].append(output.detach())
            )
        for name, module in {"inputs_embeds": language, "dit_input": head.model}.items():
            module.register_forward_pre_hook(
                lambda _module, args, name=name: self.outputs[name].append(args[0].detach())
            )

    def __getitem__(self, name: str) -> Tensor:
        (only,) = self.outputs[name]
        return only


def recorded(case, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in case.tensors.items() if key.startswith(prefix)}


def test_training_pass_gives_every_recorded_tensor(case) -> None:
    model = case.model()
    trace = Trace(model)
    given = recorded(case, "in.")
    output = model(case.inputs(training=True), noise=given["train_noise"], time=given["train_t"])

    names = {
        key.removeprefix("out.") for key in case.tensors if key.startswith("out.") and "infer" not in key
    }
    direct = {
        "pred_velocity": output.predicted,
        "target_velocity": output.target,
        "t_bucket": output.buckets,
        "loss": output.loss,
        "x_t": (1 - given["train_t"][:, None, None]) * given["train_noise"]
        + given["train_t"][:, None, None] * given["action"],
    }
    for name in sorted(names):
        short = name.removeprefix("train.")
        ours = direct[short] if short in direct else trace[short]
        assert_close(name, ours.detach(), case.tensors[f"out.{name}"])
    loss = case.tensors["out.train.loss"].item()
    assert output.loss.item() == pytest.approx(loss, rel=LOSS)


def test_gradients_are_the_reference_s(case) -> None:
    model = case.model()
    given = recorded(case, "in.")
    model(case.inputs(training=True), noise=given["train_noise"], time=given["train_t"]).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}

    for name, reference in recorded(case, "grad.").items():
        behind_time = name.startswith("action_head.action_encoder.W2")
        assert_close(name, gradients[name], reference, GRADIENT if behind_time else TOLERANCE)
    expected = case.gradients["grads"]
    assert set(expected) == set(gradients)
    for name, norms in expected.items():
        gradient = gradients[name]
        if norms is None:
            assert gradient is None, f"{name} is used, the reference does not use it"
            continue
        assert gradient is not None, f"{name} is never used, the reference uses it"
        if name.endswith((".attn1.to_k.bias", "self_attn.k_proj.bias")) and norms["l2"] < 1e-6:
            assert gradient.norm().item() < 1e-6, name
        else:
            assert gradient.norm().item() == pytest.approx(norms["l2_fp64"], rel=GRADIENT_NORM), name


def test_denoising_gives_every_recorded_step(case) -> None:
    model = case.model()
    trace = Trace(model)
    velocities: list[Tensor] = []
    velocity = model.action_head.velocity
    states: list[Tensor] = []

    def watched(x: Tensor, *rest: object) -> Tensor:
        states.append(x)
        velocities.append(velocity(x, *rest))
        return velocities[-1]

    model.action_head.velocity = watched
    noise = case.tensors["in.infer_noise"]
    actions = model.get_action(case.inputs(), noise=noise, steps=4)

    ours = {
        "x_in": torch.stack(states),
        "velocity": torch.stack(velocities),
        "action_tokens": torch.stack(trace.outputs["action_tokens"]),
        "dit_output": torch.stack(trace.outputs["dit_output"]),
        "actions": actions,
    }
    for name, reference in recorded(case, "out.infer.").items():
        if name != "bucket":
            assert_close(name, ours[name], reference)
    assert len(trace.outputs["backbone_features"]) == 1
    assert len(trace.outputs["temb"]) == 1, "the time is modulated once for all steps"


@pytest.mark.parametrize("steps", [1, 3, 4, 8])
def test_actions_for_other_numbers_of_steps(case, steps: int) -> None:
    key = "out.infer.actions" if steps == 4 else f"out.infer_n{steps}.actions"
    actions = case.model().get_action(case.inputs(), noise=case.tensors["in.infer_noise"], steps=steps)
    assert_close(key, actions, case.tensors[key])
