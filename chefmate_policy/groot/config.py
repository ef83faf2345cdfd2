# SPDX-License-Identifier: Apache-2.0
"""The sizes of a GR00T N1.5 model, read from a checkpoint's own config.json.

The published file describes the action head and how deep the language model is cut; the sizes of the vision
tower and of the language model stand in the Eagle configuration, which the published checkpoint lacks and
`published.EAGLE` holds. Checkpoints saved here carry it as `eagle_cfg`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chefmate_policy.groot.errors import ConfigurationError
from chefmate_policy.groot.published import EAGLE

__all__ = ["ActionHeadConfig", "GrootConfig", "TextConfig", "TransformerConfig", "VisionConfig"]

Section = Mapping[str, Any]

# settings of the reference whose other values no published N1.5 checkpoint uses
ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "backbone_cfg": {"project_to_dim": (None, 0), "reproject_vision": (False,)},
    "action_head_cfg": {"add_pos_embed": (True,), "use_vlln": (True,)},
    "action_head_cfg.diffusion_model_cfg": {
        "interleave_self_attention": (True,),
        "norm_type": ("ada_norm",),
        "positional_embeddings": (None,),
    },
    "action_head_cfg.vl_self_attention_cfg": {"positional_embeddings": (None,)},
    "eagle_cfg": {"use_pixel_shuffle": (False,), "mlp_connector_layers": (1,), "select_layer": (-1,)},
    "eagle_cfg.vision_config": {"hidden_act": ("gelu_pytorch_tanh",), "num_channels": (3,)},
    "eagle_cfg.text_config": {
        "attention_bias": (False,),
        "hidden_act": ("silu",),
        "rope_scaling": (None,),
        "use_sliding_window": (False,),
    },
}


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP tower."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int  # pixels, square
    patch_size: int  # pixels, square
    layer_norm_eps: float

    @property
    def tokens(self) -> int:
        """Tokens of one image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TextConfig:
    """The Qwen3 stack; `num_hidden_layers` is the depth that remains (`select_layer`)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float


@dataclass(frozen=True)
class TransformerConfig:
    """Blocks of the action head: the DiT, or the self-attention over the backbone's features."""

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    dropout: float
    final_dropout: bool

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class ActionHeadConfig:
    """State and action encoders, DiT, decoder, and the flow's schedule."""

    action_dim: int
    action_horizon: int
    state_dim: int  # max_state_dim
    hidden_size: int  # of encoders and decoder; width of the DiT's output
    input_embedding_dim: int  # width of the DiT
    backbone_embedding_dim: int
    max_num_embodiments: int
    max_seq_len: int
    num_target_vision_tokens: int  # learned "future" tokens
    dit: TransformerConfig
    vl_self_attention: TransformerConfig
    noise_beta_alpha: float
    noise_beta_beta: float
    noise_s: float
    num_timestep_buckets: int
    num_inference_timesteps: int


@dataclass(frozen=True)
class GrootConfig:
    """A whole model. `raw` is the config.json it came from, unknown keys included."""

    vision: VisionConfig
    text: TextConfig
    action_head: ActionHeadConfig
    image_token_index: int  # token id whose embedding rows the image features replace
    raw: dict[str, Any] = field(compare=False, repr=False, hash=False, default_factory=dict)

    @classmethod
    def from_dict(cls, config: Section, eagle: Section | None = None) -> GrootConfig:
        """From a parsed config.json.

        `eagle` is the Eagle configuration; without it the file's own `eagle_cfg` counts, then the published
        one. Raises ConfigurationError naming the key.
        """
        raw = copy.deepcopy(dict(config))
        if eagle is not None:
            raw["eagle_cfg"] = copy.deepcopy(dict(eagle))
        read = _Reader(raw if "eagle_cfg" in raw else raw | {"eagle_cfg": EAGLE})
        read.refuse_unsupported()
        head, text = read.section("action_head_cfg"), read.section("eagle_cfg.text_config")
        heads, hidden = text.int("num_attention_heads"), text.int("hidden_size")
        built = cls(
            vision=_vision(read.section("eagle_cfg.vision_config")),
            text=TextConfig(
                vocab_size=text.int("vocab_size"),
                hidden_size=hidden,
                intermediate_size=text.int("intermediate_size"),
                num_hidden_layers=_depth(read),
                num_attention_heads=heads,
                num_key_value_heads=text.int("num_key_value_heads", heads),
                head_dim=text.int("head_dim", hidden // heads),
                rms_norm_eps=text.float("rms_norm_eps", 1e-6),
                rope_theta=_rope_theta(text),
            ),
            action_head=_action_head(head),
            image_token_index=read.section("eagle_cfg").int("image_token_index"),
            raw=raw,
        )
        built._check()
        return built

    def to_dict(self) -> dict[str, Any]:
        """A config.json that reads back as this configuration: the one it came from."""
        return copy.deepcopy(self.raw)

    def _check(self) -> None:
        head, dit, vl = self.action_head, self.action_head.dit, self.action_head.vl_self_attention
        vision, text = self.vision, self.text
        equal = [
            ("backbone_embedding_dim", head.backbone_embedding_dim, "text hidden_size", text.hidden_size),
            ("vl_self_attention heads x dim", vl.inner_dim, "text hidden_size", text.hidden_size),
            ("DiT heads x dim", dit.inner_dim, "input_embedding_dim", head.input_embedding_dim),
        ]
        for name, value, other, expected in equal:
            if value != expected:
                raise ConfigurationError(
                    f"config.json: {name} is {value}, {other} is {expected}; they must be equal"
                    + (
                        ""
                        if "eagle_cfg" in self.raw
                        else " (no eagle_cfg given: the published one is assumed)"
                    )
                )
        if vision.image_size % vision.patch_size:
            raise ConfigurationError(
                f"image_size {vision.image_size} is no multiple of patch_size {vision.patch_size}"
            )
        if head.max_seq_len < head.action_horizon:
            raise ConfigurationError(
                f"action_horizon {head.action_horizon} exceeds max_seq_len {head.max_seq_len}"
            )
        if not 0 <= self.image_token_index < text.vocab_size:
            raise ConfigurationError(
                f"image_token_index {self.image_token_index} is outside the vocabulary of {text.vocab_size}"
            )


class _Reader:
    """One section of config.json; says which key is missing or of the wrong kind."""

    def __init__(self, values: Section, path: str = "") -> None:
        self.values, self.path = values, path

    def section(self, path: str) -> _Reader:
        values: Any = self.values
        for key in path.split("."):
            values = values.get(key) if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"config.json has no section {self.at(path)}")
        return _Reader(values, self.at(path))

    def int(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigurationError(f"config.json: {self.at(key)} is {value!r}, expected a count")
        return value

    def float(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigurationError(f"config.json: {self.at(key)} is {value!r}, expected a number")
        return float(value)

    def refuse_unsupported(self) -> None:
        for path, settings in ONLY.items():
            section = self.section(path)
            for key, allowed in settings.items():
                value = section.values.get(key, allowed[0])
                if value not in allowed:
                    raise ConfigurationError(
                        f"config.json: {section.at(key)} is {value!r}; only {allowed[0]!r} is supported,"
                        " as in the published N1.5"
                    )

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _vision(section: _Reader) -> VisionConfig:
    return VisionConfig(
        hidden_size=section.int("hidden_size"),
        intermediate_size=section.int("intermediate_size"),
        num_hidden_layers=section.int("num_hidden_layers"),
        num_attention_heads=section.int("num_attention_heads"),
        image_size=section.int("image_size"),
        patch_size=section.int("patch_size"),
        layer_norm_eps=section.float("layer_norm_eps", 1e-6),
    )


def _depth(read: _Reader) -> int:
    """Layers of the language model that remain: `select_layer`, at most as many as there are."""
    there, kept = (
        read.section("eagle_cfg.text_config").int("num_hidden_layers"),
        read.section("backbone_cfg").int("select_layer"),
    )
    if not 0 < kept <= there:
        raise ConfigurationError(
            f"backbone_cfg.select_layer is {kept}; the language model has {there} layers"
        )
    return kept


def _rope_theta(text: _Reader) -> float:
    """`rope_theta`; newer files of transformers keep it in `rope_parameters`."""
    if "rope_parameters" not in text.values:
        return text.float("rope_theta")
    rope = text.section("rope_parameters")
    if rope.values.get("rope_type", "default") != "default":
        raise ConfigurationError(f"config.json: rope_type {rope.values['rope_type']!r} is not supported")
    return rope.float("rope_theta")


def _transformer(section: _Reader) -> TransformerConfig:
    return TransformerConfig(
        num_layers=section.int("num_layers"),
        num_attention_heads=section.int("num_attention_heads"),
        attention_head_dim=section.int("attention_head_dim"),
        dropout=section.float("dropout", 0.0),
        final_dropout=bool(section.values.get("final_dropout", False)),
    )


def _action_head(section: _Reader) -> ActionHeadConfig:
    dit = section.section("diffusion_model_cfg")
    head = ActionHeadConfig(
        action_dim=section.int("action_dim"),
        action_horizon=section.int("action_horizon"),
        state_dim=section.int("max_state_dim"),
        hidden_size=section.int("hidden_size"),
        input_embedding_dim=section.int("input_embedding_dim"),
        backbone_embedding_dim=section.int("backbone_embedding_dim"),
        max_num_embodiments=section.int("max_num_embodiments", 32),
        max_seq_len=section.int("max_seq_len", 1024),
        num_target_vision_tokens=section.int("num_target_vision_tokens"),
        dit=_transformer(dit),
        vl_self_attention=_transformer(section.section("vl_self_attention_cfg")),
        noise_beta_alpha=section.float("noise_beta_alpha"),
        noise_beta_beta=section.float("noise_beta_beta"),
        noise_s=section.float("noise_s"),
        num_timestep_buckets=section.int("num_timestep_buckets"),
        num_inference_timesteps=section.int("num_inference_timesteps"),
    )
    for key, other, expected in (
        ("cross_attention_dim", "backbone_embedding_dim", head.backbone_embedding_dim),
        ("output_dim", "hidden_size", head.hidden_size),
    ):
        if dit.int(key) != expected:
            raise ConfigurationError(
                f"config.json: {dit.at(key)} is {dit.int(key)}, expected {other}, {expected}"
            )
    return head
