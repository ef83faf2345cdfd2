# SPDX-License-Identifier: Apache-2.0
"""Which option trains which tensor: every published key belongs to exactly one component, and a component to
exactly one option.

The reference has the same four options, but `vlln`, `vl_self_attention` and `future_tokens` belong to none of
them there and always train (201,486,336 parameters), and under LoRA none of the four has an effect. Here
these three belong to `tune_diffusion_model`, and an option that is off freezes its tensors in every mode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from chefmate_policy.groot.model import LM_HEAD, POOLING_HEAD, SLOT_PREFIXES
from chefmate_policy.training.errors import TrainingError

__all__ = [
    "COMPONENTS",
    "FLAGS",
    "QKV",
    "STRUCTURALLY_ZERO",
    "Component",
    "component_of",
    "structurally_zero",
]

FLAGS = ("tune_visual", "tune_llm", "tune_projector", "tune_diffusion_model")


@dataclass(frozen=True)
class Component:
    """A part of the model that is trained or frozen as one."""

    name: str
    flag: str  # option that trains it
    prefix: str  # of its published keys
    used: bool = True  # False: its output is read by nothing; fine-tunes do not load it
    slots: bool = False  # one row per embodiment: trained whole under LoRA too, which has no such layers

    def holds(self, key: str) -> bool:
        return key.startswith(self.prefix)


_VISION = "backbone.eagle_model.vision_model.vision_model."

# the first whose prefix fits counts: the unused heads stand before the parts that they are in
COMPONENTS: tuple[Component, ...] = (
    Component("pooling_head", "tune_visual", POOLING_HEAD, used=False),
    Component("vision", "tune_visual", _VISION),
    Component("connector", "tune_visual", "backbone.eagle_model.mlp1."),
    Component("lm_head", "tune_llm", LM_HEAD, used=False),
    Component("language", "tune_llm", "backbone.eagle_model.language_model.model."),
    *(Component(prefix.split(".")[1], "tune_projector", prefix, slots=True) for prefix in SLOT_PREFIXES),
    Component("position_embedding", "tune_projector", "action_head.position_embedding."),
    Component("future_tokens", "tune_diffusion_model", "action_head.future_tokens."),
    Component("vlln", "tune_diffusion_model", "action_head.vlln."),
    Component("vl_self_attention", "tune_diffusion_model", "action_head.vl_self_attention."),
    Component("dit", "tune_diffusion_model", "action_head.model."),
)

# last part of the name of a linear layer that makes queries, keys or values
QKV = ("q_proj", "k_proj", "v_proj", "to_q", "to_k", "to_v")

# tensors whose gradient is zero by construction, and why: a verification neither asks for a change of these
# nor forbids one (rounding gives them one of about 1e-9)
STRUCTURALLY_ZERO: tuple[tuple[str, str], ...] = (
    (
        r"\.(k_proj|to_k)(\.base_layer)?\.bias$",
        "a bias of all keys adds the same number to all scores of a query, and softmax ignores it",
    ),
    (re.escape(LM_HEAD), "the policy reads the features before it"),
    (re.escape(POOLING_HEAD), "the policy reads the tokens before it"),
)


def component_of(key: str) -> Component:
    """The component of a published key. Raises TrainingError: there is none."""
    for component in COMPONENTS:
        if component.holds(key):
            return component
    raise TrainingError(f"no component holds {key}; it is no key of GR00T N1.5")


def structurally_zero(key: str) -> str | None:
    """Why the gradient of a tensor is zero whatever the data are; None: it is not."""
    for pattern, reason in STRUCTURALLY_ZERO:
        if re.search(pattern, key):
            return reason
    return None
