# SPDX-License-Identifier: Apache-2.0
"""Can the instruction be told from the pictures alone, before the demonstration gives it away?

Where it can, nothing makes a policy read the words: it does as well without. The figure that decides is how
well a linear probe tells the instruction from frames in which no joint has moved yet, on layouts that it was
not fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.features import Features, colour_grid, pixel_features
from chefmate_policy.data.meaning import meaning_of
from chefmate_policy.data.mixture import Mixture, Trajectory
from chefmate_policy.data.probe import decode, groups_of_pictures, shuffled_scores
from chefmate_policy.data.shortcut_report import (
    MOVED,
    SHUFFLES,
    Label,
    Point,
    ShortcutReport,
    Verdict,
    decide,
)
from chefmate_policy.errors import PolicyError

__all__ = ["ShortcutError", "check_mixture", "judge", "still_frames"]

TIMES = tuple(round(0.1 * step, 1) for step in range(11))  # of an episode, where decodability is drawn
STILL_FRAMES = 3  # of an episode's start that are looked at
MAX_EPISODES = 240  # looked at; whole layouts, chosen by the seed
ALIKE = (4.0, 12.0)  # levels of 255: tolerance of pictures of one scene is three times their noise, in here


class ShortcutError(PolicyError):
    """A mixture of several instructions in which the pictures give them away."""


@dataclass(frozen=True)
class _Looked:
    """What was seen of the episodes."""

    trajectories: list[Trajectory]
    labels: list[str]
    still: list[int]  # frames
    before: NDArray[np.float32]  # [n, D], features averaged over the still frames that were looked at
    later: NDArray[np.float32]  # [len(TIMES), n, D]
    cuts: list[int]  # in D, between views
    first: NDArray[np.float32]  # [n, cells], colour grid of the first frame
    noise: float  # levels, between the first two still frames of an episode


def still_frames(states: NDArray[Any], spans: NDArray[Any], moved: float = MOVED) -> int:
    """How many leading frames of [frames, joints] are before any joint has left its first value by more than
    `moved` of its span; at least 1."""
    away = np.flatnonzero((np.abs(states - states[0]) > moved * spans).any(axis=1))
    return int(away[0]) if len(away) else len(states)


def judge(mixture: Mixture, features: Features | None = None, seed: int = 0) -> ShortcutReport:
    """Looks at up to MAX_EPISODES of the mixture's episodes. features: of pictures (default: pixels).

    Raises DatasetError naming an episode whose video is damaged.
    """
    features = features or pixel_features()
    chosen = _chosen(mixture, seed)
    labels = _labelled(mixture, chosen)
    if len(labels) < 2:
        only = next(iter(labels), "none")
        return ShortcutReport(
            verdict=Verdict.CANNOT_TEACH,
            reason=f"every episode asks for the same ({only}): there is nothing to tell apart",
            mend=["record the same scenes under other instructions, if the words are to decide"],
            features=features.name,
            labels={label: Label(len(found), 0, _texts(mixture, found)) for label, found in labels.items()},
            episodes=len(chosen),
            layouts=0,
            layouts_from="nobody; not needed",
            paired=0.0,
        )
    return _judged(mixture, _look(mixture, chosen, features), features, seed)


def check_mixture(
    mixture: Mixture,
    *,
    allow_shortcut: bool = False,
    report: Callable[[str], None],
    features: Features | None = None,
) -> ShortcutReport:
    """What `train` asks before its first step; `report` gets one line per finding.

    Raises ShortcutError: there are several instructions, the mixture cannot teach them, and this is not
    allowed.
    """
    found = judge(mixture, features)
    report(f"language: {found.verdict.value}: {found.reason}")
    for line in found.mend if found.verdict is not Verdict.TEACHES else ():
        report(f"language: to mend it, {line}")
    if found.verdict is Verdict.CANNOT_TEACH and len(found.labels) > 1 and not allow_shortcut:
        raise ShortcutError(
            f"this data cannot teach language: {found.reason}. To mend it, {'; '.join(found.mend)}."
            " To train all the same, add --allow-shortcut"
        )
    return found


def _chosen(mixture: Mixture, seed: int) -> list[Trajectory]:
    """Whole layouts, in random order, until there are MAX_EPISODES; those that start under way left out."""
    groups: dict[str, list[Trajectory]] = {}
    for number, trajectory in enumerate(mixture.trajectories):
        if not getattr(trajectory.episode, "extra", {}).get("prelude"):
            groups.setdefault(trajectory.layout or f"episode {number}", []).append(trajectory)
    random = np.random.Generator(np.random.Philox(key=seed))
    names = list(groups)
    chosen: list[Trajectory] = []
    for place in random.permutation(len(names)):
        if chosen and len(chosen) + len(groups[names[place]]) > MAX_EPISODES:
            break
        chosen += groups[names[place]]
    return sorted(chosen, key=lambda trajectory: trajectory.start)


def _label(mixture: Mixture, trajectory: Trajectory) -> str:
    text = mixture.instructions[int(mixture.instruction_of[trajectory.start])]
    return str(getattr(trajectory.episode, "extra", {}).get("meaning") or meaning_of(text))


def _labelled(mixture: Mixture, chosen: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    found: dict[str, list[Trajectory]] = {}
    for trajectory in chosen:
        found.setdefault(_label(mixture, trajectory), []).append(trajectory)
    return dict(sorted(found.items()))


def _texts(mixture: Mixture, found: Sequence[Trajectory]) -> list[str]:
    return sorted({mixture.instructions[int(mixture.instruction_of[one.start])] for one in found})


def _look(mixture: Mixture, chosen: Sequence[Trajectory], features: Features) -> _Looked:
    states = [mixture.states[one.start : _end(mixture, one)] for one in chosen]
    spans = np.max([part.max(axis=0) for part in states], axis=0) - np.min(
        [part.min(axis=0) for part in states], axis=0
    )
    still = [still_frames(part, spans) for part in states]

    def look(index: int) -> tuple[NDArray[np.float32], NDArray[np.float32], float, list[int]]:
        one, length = chosen[index], len(states[index])
        early = np.unique(np.linspace(0, still[index] - 1, STILL_FRAMES).astype(np.int64))
        late = np.round(np.array(TIMES) * (length - 1)).astype(np.int64)
        near = np.array([min(1, still[index] - 1)])
        wanted, places = np.unique(np.concatenate((early, late, near)), return_inverse=True)
        images = mixture.images.read(one.start + wanted)
        views, grids = features.of(images), colour_grid(images)[places]
        seen = np.hstack(views)[places]
        mean = seen[: len(early)].mean(axis=0, keepdims=True)
        noise = float(np.abs(grids[0] - grids[-1]).max()) if near[0] else np.nan
        cuts = np.cumsum([view.shape[1] for view in views])[:-1].tolist()
        return np.concatenate((mean, seen[len(early) : -1])), grids[0], noise, cuts

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(look, range(len(chosen))))
    joined = np.stack([seen for seen, *_ in found], axis=1)
    noises = [noise for _, _, noise, _ in found if np.isfinite(noise)]
    return _Looked(
        trajectories=list(chosen),
        labels=[_label(mixture, one) for one in chosen],
        still=still,
        before=joined[0],
        later=joined[1:],
        cuts=found[0][3],
        first=np.stack([grid for _, grid, *_ in found]),
        noise=float(np.median(noises)) if noises else 0.0,
    )


def _end(mixture: Mixture, trajectory: Trajectory) -> int:
    """Row behind the frames that have the first frame's instruction."""
    return int(mixture.stops[trajectory.start])


def _layouts(seen: _Looked) -> tuple[NDArray[np.int64], str]:
    names = [one.layout for one in seen.trajectories]
    if all(name is not None for name in names):
        return np.unique(np.array(names, dtype=str), return_inverse=True)[1].astype(np.int64), "the dataset"
    tolerance = float(np.clip(3 * seen.noise, *ALIKE))
    return (
        groups_of_pictures(seen.first, tolerance),
        f"first frames; alike where no cell of a colour grid differs by over {tolerance:.0f} levels",
    )


def _judged(mixture: Mixture, seen: _Looked, features: Features, seed: int) -> ShortcutReport:
    layouts, source = _layouts(seen)
    names, labels = np.unique(np.array(seen.labels), return_inverse=True)
    several = np.array([len(np.unique(labels[layouts == layout])) > 1 for layout in range(layouts.max() + 1)])
    by_label = _labelled(mixture, seen.trajectories)
    facts: dict[str, Any] = {
        "features": features.name,
        "labels": {
            str(name): Label(
                int((labels == number).sum()),
                len(np.unique(layouts[labels == number])),
                _texts(mixture, by_label[str(name)]),
            )
            for number, name in enumerate(names)
        },
        "episodes": len(labels),
        "layouts": len(several),
        "layouts_from": source,
        "paired": float(several[layouts].mean()),
        "still": float(np.median(seen.still)) / mixture.fps,
    }
    groups = layouts
    if len(several) == 1:  # one scene for all: the probe is tried on repeats instead
        groups = _repeats(labels)
        facts["layouts_from"] += "; there is one, so the probe is tried on repeats that it was not fitted on"
    common = [number for number in range(len(names)) if len(np.unique(groups[labels == number])) > 1]
    kept = np.isin(labels, common)
    if len(common) < 2:
        return ShortcutReport(
            verdict=Verdict.UNDECIDED,
            reason="fewer than two instructions were recorded in two layouts or more",
            mend=["record each instruction in several layouts, and each layout under several"],
            **facts,
        )
    kept_labels, kept_groups = np.unique(labels[kept], return_inverse=True)[1], groups[kept]
    before = decode(np.split(seen.before[kept], seen.cuts, axis=1), kept_labels, kept_groups)
    curve = [
        Point(time, decode(np.split(later[kept], seen.cuts, axis=1), kept_labels, kept_groups))
        for time, later in zip(TIMES, seen.later, strict=True)
    ]
    control = shuffled_scores(
        np.split(seen.before[kept], seen.cuts, axis=1), kept_labels, kept_groups, SHUFFLES, seed
    )
    verdict, reason, mend = decide(before, curve, facts["paired"], facts["labels"], len(several))
    return ShortcutReport(
        verdict=verdict,
        reason=reason,
        mend=mend,
        before=before,
        chance=(float(np.mean(control)), float(np.max(control))),
        curve=curve,
        **facts,
    )


def _repeats(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each episode, how many of its label came before."""
    counts: dict[int, int] = {}
    numbers = np.empty(len(labels), dtype=np.int64)
    for index, label in enumerate(labels.tolist()):
        numbers[index] = counts.get(label, 0)
        counts[label] = numbers[index] + 1
    return numbers
