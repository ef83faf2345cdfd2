# SPDX-License-Identifier: Apache-2.0
"""What the offline checks look at: observations, what can be said there, and what a demonstrator did then.

A layout's demonstrations start from one observation, so that only the words tell them apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.dataset import Dataset, Episode
from chefmate_policy.data.features import colour_grid
from chefmate_policy.data.lerobot_layout import ACTION, STATE, DatasetError
from chefmate_policy.data.meaning import IDLE, meaning_of
from chefmate_policy.data.probe import groups_of_pictures

__all__ = ["Demonstrated", "Observations", "View", "from_dataset", "label_of"]

Array = NDArray[np.float64]

MOST_LABELS = 8  # ingredients (or tasks) that are told apart
MOST_LOOKED = 400  # episodes whose first pictures are compared, where the dataset does not name its layouts
ALIKE = 6.0  # levels of 255 by which cells of one scene's pictures may differ
PICK = "pick "


@dataclass(frozen=True)
class Demonstrated:
    """What was done under an instruction. label: what it names; "" where nothing is to be done.

    actions: [H, D], from the observation on, in the dataset's units; the last is repeated behind the end.
    """

    text: str
    label: str
    actions: Array


@dataclass(frozen=True)
class View:
    """One observation. images: by camera [height, width, 3] RGB; state: [D] in the dataset's units.

    asked: (text, label), one for each label, the same labels in each view. demonstrated: from here, one for
    each label at most.
    """

    layout: str
    images: Mapping[str, NDArray[np.uint8]]
    state: Array
    asked: tuple[tuple[str, str], ...]
    demonstrated: tuple[Demonstrated, ...] = ()


@dataclass(frozen=True)
class Observations:
    """Views of different layouts. source: twin or dataset; folder: of the dataset; fps: of actions, Hz."""

    source: str
    views: tuple[View, ...]
    fps: float
    folder: str = ""
    seed: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What is told apart."""
        return tuple(label for _, label in self.views[0].asked) if self.views else ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the numbers themselves."""
        return {
            "source": self.source,
            "folder": self.folder,
            "seed": self.seed,
            "layouts": len(self.views),
            "labels": list(self.labels),
            "instructions": len({text for view in self.views for text, _ in view.asked}),
            "demonstrations": sum(len(view.demonstrated) for view in self.views),
            "pairs": sum(_pairs(view) for view in self.views),
        }


def label_of(meaning: str) -> str:
    """What an instruction names, of its meaning (data/meaning.py): an ingredient; "" of idle; else all."""
    return "" if meaning == IDLE else meaning.removeprefix(PICK)


def from_dataset(
    folder: Path,
    *,
    horizon: int = 16,
    most: int = 20,
    seed: int = 1,
    state_keys: Sequence[str] = (),
    action_keys: Sequence[str] = (),
) -> Observations:
    """First frames of a LeRobot dataset's episodes, layout by layout, at most so many.

    Layouts with several instructions come first. Where the dataset does not name layouts, episodes whose
    first pictures are alike are one. state_keys, action_keys: of meta/modality.json, in the vector's order;
    empty: all. Raises DatasetError: no dataset, damaged, fewer than two layouts.
    """
    dataset = Dataset(folder)
    episodes = [episode for episode in dataset.episodes if not episode.extra.get("prelude")]
    cameras = {name: str(entry["original_key"]) for name, entry in dataset.modality.get("video", {}).items()}
    groups = _layouts(dataset, episodes, list(cameras.values()))
    random = np.random.default_rng(seed)
    names = [list(groups)[place] for place in random.permutation(len(groups))]
    names.sort(key=lambda name: -min(2, len({_label(one) for one in groups[name]})))  # stable
    chosen = names[:most]
    if len(chosen) < 2:
        raise DatasetError(f"{folder} has {len(chosen)} layout; the checks compare at least two")
    texts = _texts([episode for name in names for episode in groups[name]])
    views = []
    for number, name in enumerate(chosen):
        mine = groups[name]
        rows: dict[str, Demonstrated] = {}
        state = np.empty(0)
        for episode in mine:
            label = _label(episode)
            if label in rows:
                continue
            columns = dataset.columns(episode)
            if not rows:
                state = _vector(dataset, columns, "state", STATE, state_keys)[0]
            actions = _vector(dataset, columns, "action", ACTION, action_keys)[:horizon]
            padded = np.vstack([actions, np.repeat(actions[-1:], horizon - len(actions), axis=0)])
            rows[label] = Demonstrated(episode.instructions[0], label, padded)
        images = {
            camera: np.asarray(next(iter(dataset.pictures(mine[0], key, [0]))), np.uint8)
            for camera, key in cameras.items()
        }
        asked = tuple((known[number % len(known)], label) for label, known in texts.items())
        views.append(View(name, images, state, asked, tuple(rows.values())))
    return Observations("dataset", tuple(views), float(dataset.info.fps), str(folder), seed)


def _pairs(view: View) -> int:
    named = sum(bool(one.label) for one in view.demonstrated)
    return named * (named - 1) // 2


def _label(episode: Episode) -> str:
    return label_of(str(episode.extra.get("meaning") or meaning_of(episode.instructions[0])))


def _texts(episodes: Sequence[Episode]) -> dict[str, list[str]]:
    """Label -> its instructions; the labels that occur most."""
    counts = Counter(_label(episode) for episode in episodes)
    counts.pop("", None)
    found: dict[str, set[str]] = {label: set() for label, _ in counts.most_common(MOST_LABELS)}
    for episode in episodes:
        if (label := _label(episode)) in found:
            found[label].add(episode.instructions[0])
    return {label: sorted(texts) for label, texts in sorted(found.items())}


def _layouts(
    dataset: Dataset, episodes: Sequence[Episode], cameras: Sequence[str]
) -> dict[str, list[Episode]]:
    named = [episode.extra.get("layout") for episode in episodes]
    numbers: list[Any] = list(named)
    if not all(name is not None for name in named):
        episodes = episodes[:MOST_LOOKED]
        firsts = [
            np.stack([np.asarray(next(iter(dataset.pictures(episode, key, [0])))) for key in cameras[:1]])
            for episode in episodes
        ]
        numbers = groups_of_pictures(colour_grid(np.stack(firsts)), ALIKE).tolist()
    groups: dict[str, list[Episode]] = {}
    for number, episode in zip(numbers, episodes, strict=True):
        groups.setdefault(str(number), []).append(episode)
    return groups


def _vector(
    dataset: Dataset, columns: Mapping[str, NDArray[Any]], kind: str, feature: str, keys: Sequence[str]
) -> Array:
    """[frames, D]: parts of a feature, in the order of the keys."""
    parts = dataset.modality.get(kind, {})
    missing = [key for key in keys if key not in parts]
    if missing:
        raise DatasetError(
            f"{dataset.root}: meta/modality.json has no {kind} {missing[0]!r}, but {list(parts)}"
        )
    chosen = [parts[key] for key in (keys or parts)]
    arrays = [
        columns[str(part.get("original_key", feature))][:, part["start"] : part["end"]] for part in chosen
    ]
    return np.concatenate(arrays, axis=1).astype(np.float64)
