# SPDX-License-Identifier: Apache-2.0
"""Random weights of realistic scale, for benches and as the start of small models.

Every tensor is drawn from a generator seeded with its key (and its embodiment slot), so that a model with
parts left out has the same weights as the whole one. Scales keep activations of order 1: a velocity's norm
then is within 0.5 to 2 of the noise's, as for a trained model (velocity = actions - noise).
"""

from __future__ import annotations

import math
import re
import zlib

import torch
from torch import Tensor

from chefmate_policy.groot.model import SLOT_PREFIXES, Groot

__all__ = ["initialise"]

# key pattern -> scale; the first that matches counts. "fan": standard deviation scale / sqrt(inputs);
# "one": 1 + scale x normal; "flat": scale x normal
RULES: tuple[tuple[str, str, float], ...] = (
    (r"(\.bias|\.b|in_proj_bias)$", "flat", 0.02),
    (r"(norm\d?|layernorm|vlln)\.weight$", "one", 0.1),
    (r"embed_tokens\.weight$", "flat", 1.0),
    (r"(position_embedding|future_tokens)\.weight$|probe$", "flat", 0.3),
    (r"norm1\.linear\.weight$|proj_out_1\.weight$", "fan", 0.5),  # modulation: moderate scale and shift
    (r"(o_proj|out_proj|down_proj|fc2|to_out\.0|ff\.net\.2)\.weight$", "fan", 0.5),  # into residual streams
    (r"layer1\.W$", "fan", math.sqrt(2.0)),  # before a ReLU
    (r".", "fan", 1.0),
)


@torch.no_grad()
def initialise(model: Groot, seed: int) -> Groot:
    """Fills the model's parameters in place, on their device; returns it.

    Equal seeds give equal weights on one kind of device (the CPU's and CUDA's generators differ).
    """
    slots = model.parts.embodiments or range(model.config.action_head.max_num_embodiments)
    for key, parameter in model.named_parameters():
        if key.startswith(SLOT_PREFIXES):
            for row, slot in enumerate(slots):
                parameter[row].copy_(_draw(f"{key}[{slot}]", key, parameter[row], seed))
        else:
            parameter.copy_(_draw(key, key, parameter, seed))
    return model


def _draw(name: str, key: str, like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    normal = torch.randn(like.shape, generator=generator, device=like.device, dtype=torch.float32)
    kind, scale = next((kind, scale) for pattern, kind, scale in RULES if re.search(pattern, key))
    if kind == "one":
        return 1.0 + scale * normal
    if kind == "flat":
        return scale * normal
    inputs = like.shape[0] if key.endswith(".W") else like[0].numel()  # W of one slot is [input, output]
    return normal * (scale / math.sqrt(inputs))
