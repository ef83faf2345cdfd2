# SPDX-License-Identifier: Apache-2.0
"""The members of the family: the published size, and small ones of the same classes for the twin and tests.

A member is a config.json. The small ones write everything out, so that their checkpoints need no file beside.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.errors import ConfigurationError
from chefmate_policy.groot.published import CONFIG, EAGLE

__all__ = ["MEMBERS", "PUBLISHED", "Member", "member"]

PUBLISHED = "n1.5-3b"


@dataclass(frozen=True)
class Member:
    """Sizes of a small member. Feed-forward of the vision tower and of the head: 4 x width."""

    image_size: int  # pixels
    patch_size: int  # pixels
    vision: tuple[int, int, int]  # width, layers, heads
    text: tuple[int, int, int, int]  # width, layers, heads, feed-forward
    key_value_heads: int
    vl_layers: int  # self-attention over the backbone's features, with heads of HEAD_DIM
    dit: tuple[int, int, int]  # width, blocks, heads
    hidden: int  # of encoders and decoder, and the DiT's output
    future_tokens: int


HEAD_DIM = 64  # of the language model and of the self-attention over its features
VOCABULARY, IMAGE_TOKEN = 1024, 3  # of config/tokenizer/small.json, with room to grow
STATE_DIM, ACTION_DIM, HORIZON = 8, 8, 16  # six joints fit; steps of a chunk as published

MEMBERS: dict[str, Member] = {
    "small-3m": Member(
        image_size=128,
        patch_size=16,
        vision=(128, 3, 4),
        text=(192, 2, 3, 384),
        key_value_heads=1,
        vl_layers=1,
        dit=(128, 4, 4),
        hidden=128,
        future_tokens=4,
    ),
    "small-7m": Member(
        image_size=128,
        patch_size=16,
        vision=(192, 4, 4),
        text=(256, 3, 4, 512),
        key_value_heads=2,
        vl_layers=1,
        dit=(192, 4, 4),
        hidden=192,
        future_tokens=8,
    ),
}


def member(name: str) -> GrootConfig:
    """The configuration of a member by name. Raises ConfigurationError naming those there are."""
    if name == PUBLISHED:
        return GrootConfig.from_dict(CONFIG)
    if name not in MEMBERS:
        raise ConfigurationError(f"no model size {name!r}; there are {', '.join([PUBLISHED, *MEMBERS])}")
    return GrootConfig.from_dict(_config(MEMBERS[name]))


def _config(size: Member) -> dict[str, Any]:
    """A member's config.json: the published one with these sizes."""
    config, eagle = copy.deepcopy(CONFIG), copy.deepcopy(EAGLE)
    head = config["action_head_cfg"]
    width, layers, heads, feed_forward = size.text
    eagle |= {"force_image_size": size.image_size, "image_token_index": IMAGE_TOKEN}
    eagle["vision_config"] |= {
        "hidden_size": size.vision[0],
        "num_hidden_layers": size.vision[1],
        "num_attention_heads": size.vision[2],
        "intermediate_size": 4 * size.vision[0],
        "image_size": size.image_size,
        "patch_size": size.patch_size,
    }
    eagle["text_config"] |= {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": size.key_value_heads,
        "head_dim": HEAD_DIM,
        "intermediate_size": feed_forward,
    }
    for token in ("bos_token_id", "eos_token_id"):  # of the published vocabulary
        del eagle["text_config"][token]
    head["diffusion_model_cfg"] |= {
        "num_attention_heads": size.dit[2],
        "attention_head_dim": size.dit[0] // size.dit[2],
        "num_layers": size.dit[1],
        "output_dim": size.hidden,
        "cross_attention_dim": width,
        "dropout": 0.1,
    }
    head["vl_self_attention_cfg"] |= {
        "num_attention_heads": width // HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "num_layers": size.vl_layers,
        "dropout": 0.1,
    }
    head |= {
        "action_dim": ACTION_DIM,
        "max_action_dim": ACTION_DIM,
        "max_state_dim": STATE_DIM,
        "backbone_embedding_dim": width,
        "hidden_size": size.hidden,
        "input_embedding_dim": size.dit[0],
        "max_num_embodiments": 1,
        "max_seq_len": HORIZON,
        "num_target_vision_tokens": size.future_tokens,
    }
    config["backbone_cfg"]["select_layer"] = layers
    config |= {
        "action_dim": ACTION_DIM,
        "hidden_size": width,
        "compute_dtype": "float32",
        "torch_dtype": "float32",
        "embodiment_ids": {"new_embodiment": 0},
        "eagle_cfg": eagle,
    }
    return config
