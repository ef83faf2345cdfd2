# SPDX-License-Identifier: Apache-2.0
"""Between an observation and the model's tensors, and back: images, prompt, states, actions.

Training, inference and evaluation make their inputs here and nowhere else. What the reference leaves to a
data configuration in code (order of cameras and keys, crop, prompt) stands in the checkpoint's
`processor.json`; a checkpoint without it is read as the reference trains: keys in the order of its metadata,
crop 0.95, min_max, plain prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.embodiment import EMBODIMENT_IDS
from chefmate_policy.groot.errors import ConfigurationError, InputError
from chefmate_policy.groot.images import CROP, frames_to_tensor, pixel_values, resized
from chefmate_policy.groot.metadata import EmbodimentMetadata
from chefmate_policy.groot.model import Inputs
from chefmate_policy.groot.prompt import PromptForm, Prompts, pad_left
from chefmate_policy.groot.statistics import Mode, Normaliser
from chefmate_policy.groot.tokenizer import GrootTokenizer
from chefmate_policy.units import JointUnit

__all__ = ["PROCESSOR", "Processor", "ProcessorSettings", "Sample"]

PROCESSOR = "processor.json"
SPAN = {
    "rad": 2.0 * np.pi * 1.1,
    "-100..100": 110.0,
    "0..100": 110.0,
}  # no value of that unit is farther from 0


@dataclass(frozen=True)
class Sample:
    """One observation in the dataset's terms, and for training the actions that followed."""

    images: Mapping[str, NDArray[np.uint8]]  # by camera, (height, width, 3) RGB
    state: ArrayLike  # (D,) in the dataset's units, keys in the settings' order
    instruction: str | None  # None: the null prompt
    action: ArrayLike | None = None  # (H, D)
    action_steps: int | None = None  # leading steps that are inside the episode; None: all
    corner: tuple[int, int] | None = None  # of a random crop; None: the centre


@dataclass(frozen=True)
class ProcessorSettings:
    """What the metadata does not say."""

    embodiment: str = "new_embodiment"
    cameras: tuple[str, ...] = ()  # in prompt order
    state: Mapping[str, Mode] = field(default_factory=dict)  # key -> normalisation, in vector order
    action: Mapping[str, Mode] = field(default_factory=dict)
    crop: float = CROP
    prompt: PromptForm = PromptForm.PLAIN
    joints: tuple[JointUnit, ...] = ()  # of the state's and the action's dimensions; empty: not said

    @classmethod
    def of_metadata(cls, metadata: EmbodimentMetadata) -> ProcessorSettings:
        """As the reference's default configurations have it."""
        return cls(
            embodiment=metadata.tag,
            cameras=tuple(metadata.video),
            state=dict.fromkeys(metadata.state, Mode.MIN_MAX),
            action=dict.fromkeys(metadata.action, Mode.MIN_MAX),
        )

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], metadata: EmbodimentMetadata) -> ProcessorSettings:
        """From processor.json; what it leaves out is as in `of_metadata`. Raises ConfigurationError."""
        base = cls.of_metadata(metadata)
        unknown = sorted(set(entry) - set(vars(base)))
        if unknown:
            raise ConfigurationError(f"{PROCESSOR} has unknown keys: {', '.join(unknown)}")
        try:
            return replace(
                base,
                cameras=tuple(entry.get("cameras", base.cameras)),
                state={key: Mode(mode) for key, mode in entry.get("state", base.state).items()},
                action={key: Mode(mode) for key, mode in entry.get("action", base.action).items()},
                crop=float(entry.get("crop", base.crop)),
                prompt=PromptForm.of(entry.get("prompt", base.prompt)),
                joints=tuple(JointUnit.from_dict(joint) for joint in entry.get("joints", ())),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"{PROCESSOR} cannot be read: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """For processor.json."""
        return {
            "embodiment": self.embodiment,
            "cameras": list(self.cameras),
            "state": {key: mode.value for key, mode in self.state.items()},
            "action": {key: mode.value for key, mode in self.action.items()},
            "crop": self.crop,
            "prompt": self.prompt.value,
            "joints": [joint.to_dict() for joint in self.joints],
        }

    def write(self, folder: Path) -> None:
        """Writes processor.json."""
        (folder / PROCESSOR).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


def read_settings(folder: Path, metadata: EmbodimentMetadata) -> ProcessorSettings:
    """Of a checkpoint's folder. Raises ConfigurationError."""
    file = folder / PROCESSOR
    if not file.is_file():
        return ProcessorSettings.of_metadata(metadata)
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON: {error}") from error
    return ProcessorSettings.from_dict(entry, metadata)


class Processor:
    """Makes `Inputs` of samples and actions of the model's output, for one embodiment."""

    def __init__(
        self,
        config: GrootConfig,
        metadata: EmbodimentMetadata,
        settings: ProcessorSettings,
        tokenizer: GrootTokenizer,
        device: torch.device | str = "cpu",
    ) -> None:
        """`device`: where images are processed and inputs are left. Raises ConfigurationError when the parts
        contradict each other."""
        self.config, self.metadata, self.settings = config, metadata, settings
        self.tokenizer, self.device = tokenizer, torch.device(device)
        self.slot = _slot(config, settings.embodiment)
        self.state_normaliser = _normaliser("state", metadata.state, settings.state)
        self.action_normaliser = _normaliser("action", metadata.action, settings.action)
        self.prompts = Prompts(tokenizer, config.vision.tokens, settings.prompt)
        self._check()

    @property
    def step(self) -> float:
        """s between two actions of a chunk."""
        return 1.0 / self.metadata.fps

    def inputs(
        self, images: Mapping[str, NDArray[np.uint8]], state: ArrayLike, instruction: str | None
    ) -> Inputs:
        """One observation -> inputs with B = 1. See `batch`."""
        return self.batch([Sample(images, state, instruction)])

    def batch(self, samples: Sequence[Sample]) -> Inputs:
        """Samples -> inputs on the processor's device; shorter prompts are padded on the left.

        Raises InputError: missing, unknown or wrongly sized cameras, a state of another length or not finite,
        actions given for some samples only.
        """
        prompts = [self.prompts.prompt(sample.instruction, len(self.settings.cameras)) for sample in samples]
        ids, mask = pad_left([prompt.ids for prompt in prompts], self.tokenizer.pad_id)
        inputs = Inputs(
            pixel_values=torch.cat([self.images(sample.images, sample.corner) for sample in samples]),
            input_ids=ids.to(self.device),
            state=torch.stack([self.state(sample.state) for sample in samples]).to(self.device),
            embodiment_id=torch.full((len(samples),), self.slot, dtype=torch.int64, device=self.device),
            attention_mask=None if mask is None else mask.to(self.device),
        )
        pairs = [
            self.action(sample.action, sample.action_steps) for sample in samples if sample.action is not None
        ]
        if not pairs:
            return inputs
        if len(pairs) != len(samples):
            raise InputError(f"{len(samples) - len(pairs)} of {len(samples)} samples have no action")
        actions, masks = (torch.stack(tensors).to(self.device) for tensors in zip(*pairs, strict=True))
        return replace(inputs, action=actions, action_mask=masks)

    def images(
        self, images: Mapping[str, NDArray[np.uint8]], corner: tuple[int, int] | None = None
    ) -> Tensor:
        """Frames by camera -> pixel values [V, 3, S, S] float32 on the device, in prompt order."""
        self._check_cameras(images)
        frames = frames_to_tensor([images[name] for name in self.settings.cameras], self.device)
        return pixel_values(resized(frames, self.config.vision.image_size, self.settings.crop, corner))

    def state(self, values: ArrayLike) -> Tensor:
        """State (D,) in the dataset's units -> [1, state_dim] float32, normalised and padded with zeros."""
        normalised = self.state_normaliser.normalise(torch.as_tensor(np.asarray(values, np.float64)))
        return _padded(normalised.reshape(1, -1), self.config.action_head.state_dim)

    def action(self, values: ArrayLike, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Actions (H, D) in the dataset's units -> [H, A] float32, normalised and padded, and the mask [H, A]
        bool: true in the dataset's dimensions of the first `steps` steps."""
        normalised = self.action_normaliser.normalise(torch.as_tensor(np.asarray(values, np.float64)))
        horizon, width = self.config.action_head.action_horizon, self.config.action_head.action_dim
        if normalised.shape[0] != horizon:
            raise InputError(f"got {normalised.shape[0]} action steps; the model has a horizon of {horizon}")
        mask = torch.zeros(horizon, width, dtype=torch.bool)
        mask[: horizon if steps is None else steps, : len(self.action_normaliser)] = True
        return _padded(normalised, width), mask

    def actions(self, normalised: Tensor) -> Tensor:
        """The model's output [B, H, A] -> actions [B, H, D] in the dataset's units, same dtype and device."""
        return self.action_normaliser.restore(normalised[..., : len(self.action_normaliser)])

    def split(self, actions: Tensor) -> dict[str, Tensor]:
        """Actions [..., D] -> by key, as the reference's policy returns them."""
        sizes = [len(self.metadata.action[key]) for key in self.settings.action]
        return dict(zip(self.settings.action, torch.split(actions, sizes, dim=-1), strict=True))

    def _check_cameras(self, images: Mapping[str, NDArray[np.uint8]]) -> None:
        wanted = self.settings.cameras
        if set(images) != set(wanted):
            missing, extra = sorted(set(wanted) - set(images)), sorted(set(images) - set(wanted))
            raise InputError(
                f"the checkpoint looks through {len(wanted)} cameras ({', '.join(wanted)}):"
                + (f" missing {', '.join(missing)}" if missing else "")
                + (f" unknown {', '.join(extra)}" if extra else "")
            )
        for name in wanted:
            expected = self.metadata.video[name]
            height, width = images[name].shape[:2]
            if (width, height) != (expected.width, expected.height):
                raise InputError(
                    f"camera {name} gives {width}x{height}; the checkpoint was trained on"
                    f" {expected.width}x{expected.height}: set the camera to that size"
                )

    def _check(self) -> None:
        config, settings = self.config, self.settings
        unknown = [name for name in settings.cameras if name not in self.metadata.video]
        if unknown or not settings.cameras:
            raise ConfigurationError(
                f"cameras {list(settings.cameras)} are not those of the metadata: {list(self.metadata.video)}"
            )
        if config.image_token_index != self.tokenizer.image_id:
            raise ConfigurationError(
                f"the model's image token is {config.image_token_index}, that of the tokenizer"
                f" ({self.tokenizer.source}) {self.tokenizer.image_id}: it is another model's"
            )
        if len(self.tokenizer) > config.text.vocab_size:
            raise ConfigurationError(
                f"the tokenizer has {len(self.tokenizer)} ids, the model {config.text.vocab_size} embeddings"
            )
        head = config.action_head
        for what, normaliser, most in (
            ("state", self.state_normaliser, head.state_dim),
            ("action", self.action_normaliser, head.action_dim),
        ):
            if len(normaliser) > most:
                raise ConfigurationError(f"{what} has {len(normaliser)} dimensions, the model at most {most}")
        if settings.joints:
            self._check_units()

    def _check_units(self) -> None:
        joints = self.settings.joints
        for what, keys, metadata in (
            ("state", self.settings.state, self.metadata.state),
            ("action", self.settings.action, self.metadata.action),
        ):
            ends = [end for key in keys for end in zip(metadata[key].q01, metadata[key].q99, strict=True)]
            if len(ends) != len(joints):
                raise ConfigurationError(
                    f"{len(joints)} joints are listed ({', '.join(joint.joint for joint in joints)}),"
                    f" but the {what} has {len(ends)} dimensions"
                )
            for joint, (low, high) in zip(joints, ends, strict=True):
                if max(abs(low), abs(high)) > SPAN.get(joint.unit, np.inf):
                    raise ConfigurationError(
                        f"{what} of {joint.joint} runs from {low:g} to {high:g} in the checkpoint's"
                        f" statistics: that is not in {joint.unit}; say the dataset's units"
                    )
            angles = [end for joint, end in zip(joints, ends, strict=True) if joint.unit == "degrees"]
            if angles and np.abs(angles).max() < np.pi:
                raise ConfigurationError(
                    f"no {what} in the checkpoint's statistics exceeds {np.abs(angles).max():.3g}: that is"
                    " probably in rad, not in degrees; say the dataset's units"
                )


def _slot(config: GrootConfig, tag: str) -> int:
    slots = config.raw.get("embodiment_ids", EMBODIMENT_IDS)
    if tag not in slots:
        raise ConfigurationError(f"embodiment {tag!r} has no slot; known are {', '.join(slots)}")
    return int(slots[tag])


def _normaliser(what: str, metadata: Mapping[str, Any], modes: Mapping[str, Mode]) -> Normaliser:
    unknown = [key for key in modes if key not in metadata]
    if unknown or not modes:
        raise ConfigurationError(
            f"{what} keys {list(modes)} are not those of the checkpoint's metadata: {list(metadata)}"
        )
    return Normaliser([(f"{what}.{key}", metadata[key], mode) for key, mode in modes.items()])


def _padded(values: Tensor, width: int) -> Tensor:
    """[T, D] -> [T, width] float32."""
    return torch.nn.functional.pad(values.to(torch.float32), (0, width - values.shape[-1]))
