# SPDX-License-Identifier: Apache-2.0
"""experiment_cfg/metadata.json: what a checkpoint was trained on, per embodiment tag.

The layout is the published one; keys that it does not need (total_trajectory_length and the like) are let
through unread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chefmate_policy.groot.errors import ConfigurationError
from chefmate_policy.groot.statistics import KeyStatistics

__all__ = ["METADATA", "EmbodimentMetadata", "VideoKey", "read_metadata", "write_metadata"]

METADATA = Path("experiment_cfg", "metadata.json")


@dataclass(frozen=True)
class VideoKey:
    """One camera of the dataset."""

    width: int  # pixels
    height: int  # pixels
    fps: float  # Hz
    channels: int = 3


@dataclass(frozen=True)
class EmbodimentMetadata:
    """One embodiment tag's entry; dictionaries keep the file's order."""

    tag: str
    video: dict[str, VideoKey]
    state: dict[str, KeyStatistics]
    action: dict[str, KeyStatistics]
    modalities: dict[str, Any]  # the file's `modalities`, for writing it back

    @property
    def fps(self) -> float:
        """Hz at which the dataset's frames and actions come."""
        rates = {camera.fps for camera in self.video.values()}
        if len(rates) != 1:
            raise ConfigurationError(f"cameras of {self.tag} have no common rate: {sorted(rates)} Hz")
        return rates.pop()

    @classmethod
    def from_dict(cls, tag: str, entry: Mapping[str, Any]) -> EmbodimentMetadata:
        """From the parsed file. Raises ConfigurationError naming tag and key."""
        modalities, statistics = _section(entry, "modalities", tag), _section(entry, "statistics", tag)
        vectors = {
            kind: {
                key: KeyStatistics.from_dict(values, f"{tag}/{kind}.{key}")
                for key, values in _section(statistics, kind, tag).items()
            }
            for kind in ("state", "action")
        }
        for kind, keys in vectors.items():
            described = _section(modalities, kind, tag)
            if set(described) != set(keys):
                raise ConfigurationError(
                    f"{tag}: {kind} has modalities {sorted(described)}, but statistics of {sorted(keys)}"
                )
            for key, known in keys.items():
                shape = described[key].get("shape")
                if shape is not None and list(shape) != [len(known)]:
                    raise ConfigurationError(
                        f"{tag}: {kind}.{key} has shape {shape}, but statistics of {len(known)} dimensions"
                    )
        cameras = _section(modalities, "video", tag)
        return cls(
            tag=tag,
            video={key: _video(tag, key, values) for key, values in cameras.items()},
            state=vectors["state"],
            action=vectors["action"],
            modalities={kind: dict(values) for kind, values in modalities.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """For the file."""
        return {
            "statistics": {
                kind: {key: known.to_dict() for key, known in keys.items()}
                for kind, keys in (("state", self.state), ("action", self.action))
            },
            "modalities": self.modalities,
            "embodiment_tag": self.tag,
        }

    @classmethod
    def of_dataset(
        cls,
        tag: str,
        video: Mapping[str, VideoKey],
        state: Mapping[str, KeyStatistics],
        action: Mapping[str, KeyStatistics],
    ) -> EmbodimentMetadata:
        """Of a dataset of absolute joint positions."""
        vectors = {
            kind: {
                key: {"absolute": True, "rotation_type": None, "shape": [len(known)], "continuous": True}
                for key, known in keys.items()
            }
            for kind, keys in (("state", state), ("action", action))
        }
        cameras = {
            key: {"resolution": [camera.width, camera.height], "channels": camera.channels, "fps": camera.fps}
            for key, camera in video.items()
        }
        return cls(tag, dict(video), dict(state), dict(action), {"video": cameras, **vectors})


def read_metadata(folder: Path, tag: str) -> EmbodimentMetadata:
    """The entry of one embodiment tag. Raises ConfigurationError: no file, not JSON, no such tag."""
    file = folder / METADATA
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{file} is missing: the checkpoint does not say which statistics and cameras it was trained on."
            " Every fine-tune of the reference has this file; copy it from the training's output folder"
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON: {error}") from error
    if not isinstance(entries, dict) or tag not in entries:
        known = ", ".join(entries) if isinstance(entries, dict) else "none"
        raise ConfigurationError(
            f"{file} has no embodiment {tag!r} (it has: {known});"
            " a base checkpoint must be fine-tuned on the robot before it can drive it"
        )
    return EmbodimentMetadata.from_dict(tag, entries[tag])


def write_metadata(folder: Path, *entries: EmbodimentMetadata) -> None:
    """Writes the file with these entries."""
    file = folder / METADATA
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({entry.tag: entry.to_dict() for entry in entries}, indent=2) + "\n", "utf-8")


def _section(values: Mapping[str, Any], key: str, tag: str) -> Mapping[str, Any]:
    section = values.get(key)
    if not isinstance(section, Mapping) or not section:
        raise ConfigurationError(f"metadata of {tag} has no {key}")
    return section


def _video(tag: str, key: str, values: Mapping[str, Any]) -> VideoKey:
    try:
        width, height = values["resolution"]
        return VideoKey(int(width), int(height), float(values["fps"]), int(values.get("channels", 3)))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"metadata of {tag}: video.{key} needs resolution [width, height] and fps ({error!r}): {values}"
        ) from None
