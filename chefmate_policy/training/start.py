# SPDX-License-Identifier: Apache-2.0
"""What a run starts from: the base's weights, the processor of its dataset, device and precision."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from chefmate_policy.groot.checkpoint import Checkpoint, load_model, open_checkpoint
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.metadata import EmbodimentMetadata, read_metadata
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.groot.processor import Processor, ProcessorSettings
from chefmate_policy.groot.prompt import PromptForm
from chefmate_policy.groot.sizes import MEMBERS, PUBLISHED, member
from chefmate_policy.groot.tokenizer import GrootTokenizer, load_tokenizer, small_tokenizer
from chefmate_policy.training.batches import square_side
from chefmate_policy.training.checkpoints import Origin
from chefmate_policy.training.components import FLAGS
from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.trainable import slot_of
from chefmate_policy.units import JointUnit, so101_units

if TYPE_CHECKING:
    from chefmate_policy.data.mixture import Mixture

__all__ = ["Base", "autocast_of", "build_model", "device_of", "make_processor", "open_base", "software"]

# of an SO-ARM 101, in the order of LeRobot's vectors
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy")


@dataclass(frozen=True)
class Base:
    """What a run starts from. checkpoint: None: random weights."""

    config: GrootConfig
    tokenizer: GrootTokenizer
    origin: Origin
    checkpoint: Checkpoint | None


def open_base(options: TrainOptions) -> Base:
    """Opens the base that the options name. Raises GrootError or TrainingError."""
    name = options.base_model_path
    if name in (*MEMBERS, PUBLISHED) and not Path(name).is_dir():
        off = [flag for flag in FLAGS if not getattr(options, flag)]
        if off:
            raise TrainingError(
                f"{name} starts from random weights, which must all train; switch on {', '.join(off)}, or"
                " give a trained checkpoint as base_model_path"
            )
        tokenizer = small_tokenizer() if name in MEMBERS else load_tokenizer()
        return Base(member(name), tokenizer, Origin.of(name, None), None)
    checkpoint = open_checkpoint(name, revision=options.base_revision)
    if checkpoint.adapter is not None:
        raise TrainingError(
            f"{name} is an adapter; train on a whole checkpoint: write one with --merge, or name its base,"
            f" {checkpoint.adapter.base}"
        )
    origin = Origin.of(name, checkpoint.base, options.base_revision)
    has_tokenizer = (checkpoint.folder / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(checkpoint.folder if has_tokenizer else checkpoint.base)
    return Base(checkpoint.config, tokenizer, origin, checkpoint)


def build_model(base: Base, options: TrainOptions, device: torch.device) -> Groot:
    """The model with the run's slot alone. Frozen weights are bf16 where the passes are."""
    dtype = torch.bfloat16 if autocast_of(options, device) else torch.float32
    parts = Parts.used(slot_of(base.config, options.embodiment_tag))
    if base.checkpoint is not None:
        return load_model(base.checkpoint, parts, device=device, dtype=dtype)
    with torch.device("meta"):
        model = Groot(base.config, parts)
    if base.origin.name == PUBLISHED:  # for benches: drawn where it will be
        return initialise(model.to(dtype).to_empty(device=device), options.seed)
    return initialise(model.to_empty(device="cpu"), options.seed).to(device, dtype)


def make_processor(
    base: Base, mixture: Mixture, options: TrainOptions, device: torch.device | str = "cpu"
) -> Processor:
    """The processor of this dataset, as it is saved with each checkpoint.

    Raises ConfigurationError, TrainingError: statistics are to be the base's, and it has none that fit.
    """
    metadata = mixture.metadata(options.embodiment_tag)
    if options.camera_size:
        width, height = options.camera_size
        video = {name: replace(key, width=width, height=height) for name, key in metadata.video.items()}
        metadata = EmbodimentMetadata.of_dataset(metadata.tag, video, metadata.state, metadata.action)
    if options.statistics == "base":
        metadata = with_statistics_of(base, metadata)
    size = base.config.vision.image_size
    settings = replace(
        ProcessorSettings.of_metadata(metadata),
        crop=size / square_side(size),
        cameras=mixture.cameras,
        prompt=PromptForm.of(options.prompt),
        joints=joints_of(mixture, options),
    )
    return Processor(base.config, metadata, settings, base.tokenizer, device)


def with_statistics_of(base: Base, metadata: EmbodimentMetadata) -> EmbodimentMetadata:
    """The dataset's keys and cameras with the base's statistics. Raises as `make_processor`."""
    if base.checkpoint is None:
        raise TrainingError(f"statistics base: {base.origin.name} is random weights, which have none")
    known = read_metadata(base.checkpoint.folder, metadata.tag)
    for kind, its, ours in (
        ("state", known.state, metadata.state),
        ("action", known.action, metadata.action),
    ):
        sizes = [{key: len(values) for key, values in keys.items()} for keys in (its, ours)]
        if sizes[0] != sizes[1]:
            raise TrainingError(
                f"statistics base: {base.origin.name} knows {kind} as {sizes[0]}, the datasets have"
                f" {sizes[1]}; set statistics to data"
            )
    return EmbodimentMetadata.of_dataset(metadata.tag, metadata.video, known.state, known.action)


def joints_of(mixture: Mixture, options: TrainOptions) -> tuple[JointUnit, ...]:
    """Units by joint, for the node that drives with the checkpoint; empty where they cannot be said (another
    robot, or shares of a calibration that is not known here)."""
    names = mixture.datasets[0].info.features["observation.state"].get("names") or []
    if isinstance(names, dict):
        names = next(iter(names.values()), [])
    plain = tuple(str(name).removesuffix(".pos") for name in names)
    if plain != JOINTS or options.joint_units not in ("degrees", "rad"):
        return ()
    return so101_units(JOINTS, options.joint_units)


def device_of(options: TrainOptions, local_rank: int = 0) -> torch.device:
    """The device to train on. Raises TrainingError: a GPU is wanted and there is none."""
    if options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise TrainingError("device is cuda, and torch finds no GPU; use --device cpu, or chefmate doctor")
    return torch.device("cuda", local_rank)


def autocast_of(options: TrainOptions, device: torch.device) -> torch.dtype | None:
    """dtype of the passes; None: float32."""
    wanted = options.precision
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" else "fp32"
    return torch.bfloat16 if wanted == "bf16" else None


def software() -> dict[str, str]:
    """Revision of this repository, and versions."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    folder = Path(__file__).resolve().parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        found["chefmate"] = said.stdout.strip()
    except (OSError, subprocess.SubprocessError):  # installed without its repository
        found["chefmate"] = "unknown"
    return found
