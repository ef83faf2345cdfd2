# SPDX-License-Identifier: Apache-2.0
"""What is where: the plain form of chefmate_msgs/WorkcellState, shared by perception and sequencer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

HOLDER = "holder"
PLATE = "plate"
GRIPPER = "gripper"
ELSEWHERE = "elsewhere"
PLACES = (HOLDER, PLATE, GRIPPER, ELSEWHERE)
SLOT_UNKNOWN = 255


@dataclass(frozen=True)
class SeenObject:
    """One instance of an ingredient.

    Attributes:
        ingredient: class, for example bread.
        place: one of PLACES.
        slot: holder slot from 0, SLOT_UNKNOWN elsewhere.
        stack_index: layer on the plate, 0 is the lowest; -1 unknown or not on the plate.
        confidence: 0..1. On the plate it is at most the share of the object that lies within the plate.
        position: m, base_link; centre of the visible part, at the height of the zone that it was seen in.
    """

    ingredient: str
    place: str
    slot: int = SLOT_UNKNOWN
    stack_index: int = -1
    confidence: float = 1.0
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Workcell:
    """All instances, those on the plate from the lowest up.

    Attributes:
        stamp: s, capture time of the image.
        plate_visible: False: something hides the plate, its objects are from memory.
        holder_visible: False: something hides part of the holder.
    """

    stamp: float
    objects: tuple[SeenObject, ...] = ()
    plate_visible: bool = True
    holder_visible: bool = True

    @property
    def visible(self) -> bool:
        """True while nothing hides the plate or the holder."""
        return self.plate_visible and self.holder_visible

    def at(self, place: str) -> tuple[SeenObject, ...]:
        """Objects of one place; on the plate from the lowest up."""
        return tuple(seen for seen in self.objects if seen.place == place)

    def classes(self, place: str) -> Counter[str]:
        """Number of instances of each class in one place."""
        return Counter(seen.ingredient for seen in self.at(place))

    def plate(self) -> tuple[str, ...]:
        """Classes on the plate from the lowest up."""
        return tuple(seen.ingredient for seen in self.at(PLATE))

    def plate_known(self) -> bool:
        """True when every layer on the plate was seen going there."""
        return all(seen.stack_index >= 0 for seen in self.at(PLATE))
