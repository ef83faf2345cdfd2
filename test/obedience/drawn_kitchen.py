# SPDX-License-Identifier: Apache-2.0
"""A kitchen of coloured squares, in which a policy of a third of a million parameters learns to obey.

Two of three ingredients stand in two places; each can be named. The "arm" is sent to the place of what is
named, so where it is sent depends on picture and words together, and on neither alone. It rests for three
quarters of an episode, so that its own pose gives the goal away late.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.writing import DatasetWriter
from chefmate_policy.groot import sizes

JOINTS = [
    f"{name}.pos"
    for name in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
]
COLOURS = {"bread": (215, 150, 75), "cheese": (250, 225, 40), "patty": (95, 50, 25)}
SENTENCES = ("pick up the {}", "place the {} on the plate")
SIDE, SQUARE = 34, 10  # pixels
LENGTH, RESTING, FPS = 16, 12, 10  # frames of an episode, of them at rest, Hz
PLACES = (4, 20)  # left edges of the two places, pixels

# every kind of layer, as small as they go
DRAWN = sizes.Member(
    image_size=32,
    patch_size=16,
    vision=(48, 1, 2),
    text=(64, 1, 1, 128),
    key_value_heads=1,
    vl_layers=1,
    dit=(48, 2, 2),
    hidden=48,
    future_tokens=2,
)
sizes.MEMBERS["drawn"] = DRAWN


@dataclass(frozen=True)
class Drawn:
    """A scene. there: ingredient by place ("" nothing)."""

    number: int
    there: tuple[str, str]
    shift: tuple[int, int]  # pixels, of each square to the right
    heights: tuple[int, int]  # pixels, upper edges
    background: int  # level

    @property
    def standing(self) -> tuple[str, ...]:
        return tuple(kind for kind in self.there if kind)

    def picture(self) -> NDArray[np.uint8]:
        """[SIDE, SIDE, 3]."""
        picture = np.full((SIDE, SIDE, 3), self.background, np.uint8)
        for kind, left, top in zip(self.there, self._lefts(), self.heights, strict=True):
            if kind:
                picture[top : top + SQUARE, left : left + SQUARE] = COLOURS[kind]
        return picture

    def goal(self, ingredient: str) -> NDArray[np.float32]:
        """[6], degrees and gripper 0..100, at this ingredient."""
        place = self.there.index(ingredient)
        x = (self._lefts()[place] + SQUARE / 2 - SIDE / 2) / (SIDE / 2)  # -1 left .. 1 right
        y = (self.heights[place] - 4.0) / 4.0
        return np.array([60 * x, -30 + 10 * y, 40 - 10 * y, 20 * x * x, 30 * x, 80.0], np.float32)

    def states(self, ingredient: str) -> NDArray[np.float32]:
        """[LENGTH, 6]: at rest, then on the way to it."""
        share = np.clip((np.arange(LENGTH, dtype=np.float32) - RESTING + 1) / (LENGTH - RESTING), 0.0, 1.0)
        return share[:, None] * self.goal(ingredient)

    def actions(self, ingredient: str) -> NDArray[np.float32]:
        """[LENGTH, 6]: sent there from the first frame on."""
        return np.repeat(self.goal(ingredient)[None], LENGTH, axis=0)

    def _lefts(self) -> tuple[int, int]:
        return (PLACES[0] + self.shift[0], PLACES[1] + self.shift[1])


def scenes(count: int, seed: int, one_ingredient: bool = False) -> list[Drawn]:
    """Drawn from the seed."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        kinds = [str(kind) for kind in random.permutation(list(COLOURS))[:2]]
        if one_ingredient:
            kinds[int(random.integers(2))] = ""
        shift = tuple(int(value) for value in random.integers(-2, 3, 2))
        heights = tuple(int(value) for value in random.integers(2, 7, 2))
        found.append(Drawn(number, (kinds[0], kinds[1]), shift, heights, int(random.integers(60, 140))))
    return found


def write(root: Path, count: int, seed: int, one_ingredient: bool = False) -> Path:
    """Each scene once for each ingredient in it, said in one of the SENTENCES."""
    random = np.random.default_rng([seed, 1])
    size = (SIDE, SIDE)
    with DatasetWriter(root, fps=FPS, joints=JOINTS, cameras={"scene": size}) as dataset:
        for scene in scenes(count, seed, one_ingredient):
            pictures = np.repeat(scene.picture()[None], LENGTH, axis=0)
            for kind in scene.standing:
                text = SENTENCES[int(random.integers(len(SENTENCES)))].format(kind)
                states, actions = scene.states(kind), scene.actions(kind)
                extra = {"layout": str(scene.number), "meaning": f"pick {kind}"}
                dataset.add_episode(text, states, actions, {"scene": pictures}, extra)
    return root
