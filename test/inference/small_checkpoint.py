# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a small model with random weights, as a fine-tune on the twin would leave it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.metadata import EmbodimentMetadata, VideoKey
from chefmate_policy.groot.model import Groot
from chefmate_policy.groot.processor import PROCESSOR, Processor, ProcessorSettings
from chefmate_policy.groot.saving import save_checkpoint
from chefmate_policy.groot.sizes import member
from chefmate_policy.groot.statistics import KeyStatistics
from chefmate_policy.groot.tokenizer import small_tokenizer
from chefmate_policy.units import so101_units

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
REACH = 10.0  # degrees (and gripper per cent) about the centre; random weights then move the arm a little


def statistics(centres: Sequence[float]) -> KeyStatistics:
    """Of joints that were within REACH of their centres."""
    low, high = (tuple(centre + side * REACH for centre in centres) for side in (-1.0, 1.0))
    return KeyStatistics(high, low, tuple(centres), (REACH / 2,) * len(centres), low, high)


def write_small_checkpoint(
    folder: Path,
    *,
    size: str = "small-3m",
    cameras: Sequence[str] = ("scene", "wrist"),
    centre: Sequence[float] = (0.0, 0.0, 0.0, 0.0, 0.0, 50.0),
    resolution: tuple[int, int] = (640, 480),
    fps: float = 30.0,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """Writes it and returns the folder. centre: degrees, gripper 0..100."""
    config = member(size)
    parts = {"single_arm": statistics(centre[:5]), "gripper": statistics(centre[5:])}
    video = {name: VideoKey(*resolution, fps) for name in cameras}
    metadata = EmbodimentMetadata.of_dataset("new_embodiment", video, parts, parts)
    known = ProcessorSettings.of_metadata(metadata).to_dict()
    known["joints"] = [joint.to_dict() for joint in so101_units(JOINTS, "degrees")]
    processor = Processor(
        config, metadata, ProcessorSettings.from_dict(known | settings, metadata), small_tokenizer()
    )
    save_checkpoint(initialise(Groot(config), seed), folder, processor=processor)
    return folder


def forget(folder: Path, *keys: str) -> None:
    """Takes keys out of processor.json."""
    file = folder / PROCESSOR
    entries = {key: value for key, value in json.loads(file.read_text()).items() if key not in keys}
    file.write_text(json.dumps(entries))
