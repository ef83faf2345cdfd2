# SPDX-License-Identifier: Apache-2.0
"""Episodes on their way into a dataset: made by many processes, kept one by one, put together at the end.

They lie in a hidden folder beside the dataset's place. A take counts once its JSON file is there, which is
renamed into place last, so whatever ends the work leaves takes that are whole, and the next start goes on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.dataset_statistics import PictureHistogram
from chefmate_policy.data.fingerprints import dataset_fingerprint, episode_fingerprint
from chefmate_policy.data.lerobot_layout import DatasetError
from chefmate_policy.data.video import Picture, VideoWriter
from chefmate_policy.data.writing import DatasetWriter, Encoded
from chefmate_policy.locking import held_alone

__all__ = ["Key", "Takes"]

PLAN, LOCK = "plan.json", "lock"


@dataclass(frozen=True, order=True)
class Key:
    """Which take: number of the layout, of the variant in it."""

    layout: int
    variant: int

    def __str__(self) -> str:
        return f"{self.layout:06d}-{self.variant:03d}"


class Takes:
    """The folder of takes of one dataset. `plan` decides what is in them: another plan does not go on."""

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset
        self.folder = dataset.parent / f".{dataset.name}.takes"

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Makes the folder, or goes on with it. Raises DatasetError: the dataset exists, another plan."""
        if self.dataset.exists():
            raise DatasetError(f"{self.dataset} exists; name a new folder or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / PLAN
        wanted = json.loads(json.dumps(plan))
        if not file.exists():
            _put(file, json.dumps(wanted, indent=2).encode())
            return
        found = json.loads(file.read_text("utf-8"))
        different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if different:
            key = different[0]
            raise DatasetError(
                f"{self.folder} holds episodes made with {key} = {found.get(key)!r}, not {wanted.get(key)!r};"
                " give the same options to go on, or remove the folder"
            )

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes away. Raises DatasetError: one is at work already."""
        busy = DatasetError(f"another process makes {self.dataset} already")
        return held_alone(self.folder / LOCK, busy)

    def has(self, key: Key) -> bool:
        """Whether this take was made, kept or dropped."""
        return (self.folder / f"{key}.json").exists()

    def keep(
        self,
        key: Key,
        instruction: str,
        states: NDArray[Any],
        actions: NDArray[Any],
        pictures: Mapping[str, Sequence[Picture]],
        fps: int,
        extra: Mapping[str, Any],
        privileged: Mapping[str, Any],
    ) -> None:
        """Stores an episode: arrays [frames, joints] in the dataset's units, pictures by camera."""
        videos: dict[str, Path] = {}
        arrays: dict[str, Any] = {
            "states": np.asarray(states, dtype=np.float32),
            "actions": np.asarray(actions, dtype=np.float32),
        }
        for camera, frames in pictures.items():
            videos[camera] = self._video(key, camera)
            part = videos[camera].with_suffix(f".{os.getpid()}.part.mp4")
            height, width = frames[0].shape[:2]
            histogram = PictureHistogram()
            with VideoWriter(part, fps, width, height) as video:
                for frame in frames:
                    video.add(frame)
                    histogram.add(frame)
            os.replace(part, videos[camera])
            arrays[f"histogram.{camera}"] = histogram.counts
        part = self.folder / f"{key}.{os.getpid()}.part.npz"
        np.savez(part, **arrays)
        os.replace(part, self.folder / f"{key}.npz")
        fingerprint = episode_fingerprint(instruction, arrays["states"], arrays["actions"], videos)
        self._mark(
            key,
            {
                "instruction": instruction,
                "cameras": list(pictures),
                "extra": {**extra, "fingerprint": fingerprint},
                "privileged": dict(privileged),
            },
        )

    def drop(self, key: Key, reason: str) -> None:
        """Notes that this take is not for the dataset."""
        self._mark(key, {"dropped": reason})

    def counts(self, layouts: Collection[int] | None = None) -> tuple[int, Counter[str]]:
        """Takes that are kept; dropped ones by reason. layouts: of these alone."""
        marks = [mark for key, mark in self._marks() if layouts is None or key.layout in layouts]
        dropped = Counter(str(mark["dropped"]) for mark in marks if "dropped" in mark)
        return len(marks) - sum(dropped.values()), dropped

    def assemble(
        self, writer: DatasetWriter, about: Mapping[str, Any], layouts: Collection[int] | None = None
    ) -> str:
        """Adds all kept takes, or those of some layouts, to a new dataset, in order; returns its fingerprint.

        about: goes into meta/chefmate.json, with counts and fingerprint; privileged labels into
        meta/privileged.jsonl, one line per episode.
        """
        fingerprints, privileged = [], []
        for key, mark in self._marks():
            if "dropped" in mark or (layouts is not None and key.layout not in layouts):
                continue
            with np.load(self.folder / f"{key}.npz") as arrays:
                images = {
                    camera: Encoded(self._video(key, camera), PictureHistogram(arrays[f"histogram.{camera}"]))
                    for camera in mark["cameras"]
                }
                index = writer.add_episode(
                    mark["instruction"], arrays["states"], arrays["actions"], images, mark["extra"]
                )
            fingerprints.append(mark["extra"]["fingerprint"])
            privileged.append({"episode_index": index, **mark["privileged"]})
        kept, dropped = self.counts(layouts)
        whole = dataset_fingerprint(fingerprints)
        counts = {"kept": kept, "dropped": dict(sorted(dropped.items()))}
        writer.note("chefmate.json", {"fingerprint": whole, "counts": counts, **about})
        writer.note_lines("privileged.jsonl", privileged)
        return whole

    def remove(self) -> None:
        """When the dataset stands."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _video(self, key: Key, camera: str) -> Path:
        return self.folder / f"{key}.{camera}.mp4"

    def _mark(self, key: Key, content: Mapping[str, Any]) -> None:
        _put(self.folder / f"{key}.json", json.dumps(content).encode())

    def _marks(self) -> Iterator[tuple[Key, dict[str, Any]]]:
        for file in sorted(self.folder.glob("[0-9]*-[0-9]*.json")):
            layout, variant = map(int, file.stem.split("-"))
            yield Key(layout, variant), json.loads(file.read_text("utf-8"))


def _put(file: Path, content: bytes) -> None:
    """Writes a file that is either whole or not there."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, file)
