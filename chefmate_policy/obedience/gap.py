# SPDX-License-Identifier: Apache-2.0
"""The counterfactual action gap: what the words alone change in the actions, and whether to where they say.

Observation and noise are pinned, the instruction is not. The distance of the chunks is held against that of
chunks under other noises, and against that of the demonstrations under the same two instructions, which start
from this very observation. Directional agreement: is the chunk under instruction i nearer to demonstration i
than to demonstration j? A policy that ignores the words is right once for each time that it is wrong: 0.5.
Of a policy that fumbles, what is common to both chunks may lie far from both demonstrations; so paired
agreement asks of the chunks' difference alone whether it points along the demonstrations' difference.

Distances are root mean squares over steps and joints of normalised actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError
from chefmate_policy.obedience.intervals import Figure, ratio, share
from chefmate_policy.obedience.observations import View

__all__ = ["Act", "Gap", "GapError", "gap"]

Array = NDArray[np.float64]
Act = Callable[[View, str, int], Array]
"""Chunk [H, D] of an observation under an instruction and a noise of that number."""

CHANCE = 0.5
IGNORES = 0.1  # of the demonstrations' difference: chunks that differ by less do not go elsewhere
MOVES = 0.3  # of it: chunks that differ by more do
SAME = 0.02  # demonstrations that differ by less have not parted yet (1 is half of a joint's range)
PART = 0.1  # gain from which a direction counts, though the chunks may be far from the demonstrations
BITS = 1e-6  # normalised: rounding


class GapError(PolicyError):
    """The gap cannot be measured on these observations."""


@dataclass(frozen=True)
class Gap:
    """The check's result; figures as in docs/obey.md. pinned: whether the noise could be."""

    unit: str
    pinned: bool
    noises: int
    pairs: int
    not_parted: int  # pairs left out: their demonstrations have not parted within the chunk
    instructions: Figure
    noise: Figure
    demonstrations: Figure
    own_error: Figure
    over_noise: Figure
    over_demonstrations: Figure
    gain: Figure
    directional: Figure
    paired: Figure
    directional_idle: Figure | None
    largest: float

    @property
    def verdict(self) -> str:
        """follows, ignores, undirected, contrary or undecided."""
        if self.pinned and self.over_demonstrations.high < IGNORES:
            return "ignores"
        if self.directional.low > CHANCE or (self.paired.low > CHANCE and self.gain.low > PART):
            return "follows"
        if self.directional.high < CHANCE or (self.paired.high < CHANCE and self.gain.high < -PART):
            return "contrary"
        if not self.pinned:
            return "undecided"
        return "undirected" if self.over_demonstrations.low > MOVES else "undecided"

    @property
    def line(self) -> str:
        """The verdict for people."""
        figures = (
            "the chunk is nearer to the demonstration of what was said in"
            f" {100 * self.directional.value:.0f} %"
            f" [{100 * self.directional.low:.0f}, {100 * self.directional.high:.0f}] (chance 50 %); another"
            f" instruction moves it by {100 * self.over_demonstrations.value:.1f} % of the demonstrations'"
            f" difference, another noise by {100 * self._noise_share:.1f} %"
        )
        said = {
            "follows": "the actions follow the words"
            + ("" if self.directional.low > CHANCE else ", but end far from the demonstrations"),
            "ignores": "the actions ignore the words"
            + (", to the last bit" if self.largest < BITS else "")
            + (": the noise picks what is done" if self._noise_share > MOVES else ""),
            "contrary": "the actions go where the other instruction would have them",
            "undirected": "the words move the actions, but not to where they say",
            "undecided": "undecided whether the actions follow the words",
        }[self.verdict]
        return f"{said}: {figures}"

    @property
    def _noise_share(self) -> float:
        below = self.demonstrations.value
        return self.noise.value / below if below > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "unit": self.unit,
            "noise": "pinned" if self.pinned else "drawn anew",
            "noises": self.noises,
            "pairs": self.pairs,
            "pairs_not_parted": self.not_parted,
            "between_instructions": self.instructions.to_dict(),
            "between_noises": self.noise.to_dict(),
            "between_demonstrations": self.demonstrations.to_dict(),
            "own_error": self.own_error.to_dict(),
            "over_noise": self.over_noise.to_dict(),
            "over_demonstrations": self.over_demonstrations.to_dict(),
            "gain": self.gain.to_dict(),
            "paired": {**self.paired.to_dict(), "chance": CHANCE},
            "directional": {**self.directional.to_dict(), "chance": CHANCE},
            "directional_idle": None if self.directional_idle is None else self.directional_idle.to_dict(),
            "largest_difference": self.largest,
        }


@dataclass
class _Sums:
    """Of one layout."""

    pairs: int = 0
    instructions: float = 0.0
    noise: float = 0.0
    demonstrations: float = 0.0
    own_error: float = 0.0
    along: float = 0.0  # of the chunks' mean difference on the demonstrations'
    squared: float = 0.0  # demonstrations' difference
    right: float = 0.0
    paired: float = 0.0
    idle_pairs: int = 0
    idle_right: float = 0.0
    largest: float = 0.0


def gap(
    views: Sequence[View],
    act: Act,
    normalise: Callable[[Array], Array],
    *,
    unit: str = "normalised",
    pinned: bool = True,
    noises: int = 4,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Gap:
    """Asks the policy under each demonstrated instruction of each observation, `noises` (2 or more) times.

    normalise: actions [..., H, D] of the dataset to the terms of distances. pinned: equal numbers of a noise
    are equal noises. Raises GapError: no layout has demonstrations that part, of two named things.
    """
    if noises < 2:
        raise GapError(f"{noises} noises: the spread between noises needs at least 2")
    sums: list[_Sums] = []
    left_out = 0
    for number, view in enumerate(views):
        if len(view.demonstrated) < 2:
            continue
        demonstrated = [normalise(one.actions) for one in view.demonstrated]
        chunks = np.stack(
            [
                np.stack([normalise(act(view, one.text, noise)) for noise in range(noises)])
                for one in view.demonstrated
            ]
        )
        labels = [one.label for one in view.demonstrated]
        one, odd = _of(labels, chunks, demonstrated)
        left_out += odd
        if one.pairs:
            sums.append(one)
        report(f"chunks of {number + 1} of {len(views)} observations")
    if len(sums) < 2:
        raise GapError(
            f"{len(sums)} of {len(views)} layouts have demonstrations of two named things that part within"
            f" the chunk ({left_out} pairs do not part); give a dataset with several instructions per layout,"
            " as chefmate data generate makes it"
        )

    def column(name: str) -> Array:
        return np.array([float(getattr(one, name)) for one in sums])

    pairs, idle = column("pairs"), column("idle_pairs")
    mean = {
        name: ratio(column(name), pairs, seed)
        for name in ("instructions", "noise", "demonstrations", "own_error")
    }
    return Gap(
        unit=unit,
        pinned=pinned,
        noises=noises,
        pairs=int(pairs.sum()),
        not_parted=left_out,
        instructions=mean["instructions"],
        noise=mean["noise"],
        demonstrations=mean["demonstrations"],
        own_error=mean["own_error"],
        over_noise=ratio(column("instructions"), column("noise"), seed),
        over_demonstrations=ratio(column("instructions"), column("demonstrations"), seed),
        gain=ratio(column("along"), column("squared"), seed),
        directional=share(column("right"), pairs, seed),
        paired=share(column("paired"), pairs, seed),
        directional_idle=share(column("idle_right")[idle > 0], idle[idle > 0], seed) if idle.any() else None,
        largest=max(one.largest for one in sums),
    )


def _of(labels: Sequence[str], chunks: Array, demonstrated: Sequence[Array]) -> tuple[_Sums, int]:
    """Sums of a layout, means over noises; how many pairs were left out.

    chunks: [instructions, noises, H, D].
    """
    found, left_out = _Sums(), 0
    noises = list(combinations(range(chunks.shape[1]), 2))
    spread = [float(np.mean([_far(one[a], one[b]) for a, b in noises])) for one in chunks]
    for i, j in combinations(range(len(labels)), 2):
        apart = _far(demonstrated[i], demonstrated[j])
        if apart < SAME:
            left_out += 1
            continue
        near = [_nearer(chunks[a], demonstrated[a], demonstrated[b]) for a, b in permutations((i, j))]
        if not (labels[i] and labels[j]):
            found.idle_pairs += 1
            found.idle_right += float(np.mean(near))
            continue
        each = [_far(one, other) for one, other in zip(chunks[i], chunks[j], strict=True)]
        wanted = demonstrated[i] - demonstrated[j]
        moved = chunks[i].mean(axis=0) - chunks[j].mean(axis=0)
        found.pairs += 1
        found.instructions += float(np.mean(each))
        found.noise += (spread[i] + spread[j]) / 2
        found.demonstrations += apart
        found.own_error += float(np.mean([_far(one, demonstrated[a]) for a in (i, j) for one in chunks[a]]))
        found.along += float((moved * wanted).sum())
        found.squared += float((wanted**2).sum())
        found.right += float(np.mean(near))
        along = ((chunks[i] - chunks[j]) * wanted).sum(axis=(1, 2))
        found.paired += float(np.mean((along > 0) + 0.5 * (along == 0)))
        found.largest = max(found.largest, float(np.abs(chunks[i] - chunks[j]).max()))
    return found, left_out


def _nearer(chunks: Array, own: Array, other: Array) -> float:
    """Share of chunks [noises, H, D] that are nearer to their own demonstration; a draw counts half."""
    margins = np.array([_far(one, other) - _far(one, own) for one in chunks])
    return float(np.mean((margins > 0) + 0.5 * (margins == 0)))


def _far(one: Array, other: Array) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)))
