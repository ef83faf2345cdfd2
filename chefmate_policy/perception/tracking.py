# SPDX-License-Identifier: Apache-2.0
"""From single sights to a workcell state: a change must last, and the plate's layers are remembered.

The camera sees only the top of the stack. Layers below are known because they were seen going there: the
plate was seen empty once, and since then a class that left holder, table or gripper came to be its top. A
plate that was not empty when first seen has a top and unknown layers below (stack index -1), until it is seen
empty.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import hypot

from chefmate_policy.perception.segmentation import LooseSight, PlateSight, Sight, SlotSight
from chefmate_policy.perception.workcell import HOLDER, PLATE, SeenObject, Workcell

# What a hidden zone is remembered to hold counts half.
MEMORY = 0.5
# Below this share of the old area, the face of the top layer is not the same face.
SAME_AREA = 0.85


@dataclass
class _Lasting:
    """A value that changes only when another one was seen `frames` times in a row."""

    frames: int
    value: object = None
    known: bool = False
    _candidate: object = None
    _count: int = 0

    def see(self, value: object) -> bool:
        """Takes one sight over; True when the value changed or became known."""
        if self.known and value == self.value:
            self._count = 0
            return False
        self._count = self._count + 1 if value == self._candidate and self._count else 1
        self._candidate = value
        if self._count < self.frames:
            return False
        self.value, self.known, self._count = value, True, 0
        return True


class Tracker:
    """Memory of one workcell."""

    def __init__(self, slots: int, frames: int, moved: float) -> None:
        """
        Args:
            slots: number of holder slots.
            frames: sights in a row that make a change.
            moved: px by which the top's face moves when another of its class is laid on it.
        """
        self._moved = moved
        self._slots = [_Lasting(frames) for _ in range(slots)]
        self._slot_sights: list[SlotSight | None] = [None] * slots
        self._slot_hidden = [_Lasting(frames, False, True) for _ in range(slots)]
        self._plate = _Lasting(frames)
        self._plate_hidden = _Lasting(frames, False, True)
        self._plate_sight: PlateSight | None = None
        self._loose = _Lasting(frames, (), True)
        self._loose_sights: tuple[LooseSight, ...] = ()
        self._stack: list[str] = []
        self._stack_known = False
        self._face: PlateSight | None = None  # the top as it looked when it was last taken over
        self._off_plate: Counter[str] = Counter()  # most instances outside the plate since then
        self._raw_loose: Counter[str] = Counter()  # of the newest sight alone
        self._raw_hidden = [True] * slots

    def see(self, sight: Sight, stamp: float) -> Workcell:
        """Takes one sight over and returns the state; `stamp` is the image's capture time, s.

        Until a zone has been seen for the first time it counts as hidden.
        """
        for index, slot in enumerate(sight.slots):
            self._slot_hidden[index].see(slot.hidden)
            if not slot.hidden and self._slots[index].see(slot.ingredient):
                self._slot_sights[index] = slot
            elif not slot.hidden and slot.ingredient == self._slots[index].value:
                self._slot_sights[index] = slot
        loose = tuple(sorted((seen.ingredient, seen.place) for seen in sight.loose))
        self._loose.see(loose)
        if loose == self._loose.value:
            self._loose_sights = sight.loose
        self._raw_hidden = [slot.hidden for slot in sight.slots]
        self._raw_loose = Counter(seen.ingredient for seen in sight.loose)
        self._off_plate |= self._surely_off_plate()
        self._plate_hidden.see(sight.plate.hidden)
        if not sight.plate.hidden:
            self._see_plate(sight.plate)
        return self._state(sight, stamp)

    def _surely_off_plate(self) -> Counter[str]:
        """Instances that are seen outside the plate now. Not what a hidden slot is remembered to hold: that
        may be in the gripper already, and must not count twice."""
        held = Counter(
            str(slot.value)
            for slot, hidden, raw in zip(self._slots, self._slot_hidden, self._raw_hidden, strict=True)
            if slot.value is not None and not hidden.value and not raw
        )
        return held + (self._loose_classes() & self._raw_loose)

    def _possibly_off_plate(self) -> Counter[str]:
        """Instances that may be outside the plate now."""
        held = Counter(str(slot.value) for slot in self._slots if slot.value is not None)
        return held + (self._loose_classes() | self._raw_loose)

    def _loose_classes(self) -> Counter[str]:
        return Counter(seen.ingredient for seen in self._loose_sights if self._loose.value)

    def _see_plate(self, plate: PlateSight) -> None:
        """Layers added or taken away, once the view has lasted."""
        near = self._face is not None and plate.top is not None and self._same_face(plate)
        self._plate.see((plate.top, near))
        if not self._plate.known or self._plate.value != (plate.top, near):
            return
        self._plate_sight = plate
        if plate.top is None:
            self._take_over([], True, plate)
        elif self._face is None or (not self._stack and not self._stack_known):
            self._take_over([plate.top], False, plate)
        elif not self._stack or plate.top != self._stack[-1]:
            under = len(self._stack) > 1 and self._stack[-2] == plate.top
            if under and not self._gone()[plate.top]:
                self._take_over(self._stack[:-1], self._stack_known, plate)
            else:
                self._take_over([*self._stack, plate.top], self._stack_known, plate)
        elif not near:
            grown = self._gone()[plate.top] > 0
            self._take_over([*self._stack, plate.top] if grown else self._stack, self._stack_known, plate)

    def _gone(self) -> Counter[str]:
        """Instances that left holder, table or gripper since the stack last changed."""
        return self._off_plate - self._possibly_off_plate()

    def _same_face(self, plate: PlateSight) -> bool:
        assert self._face is not None
        shift = hypot(plate.centre[0] - self._face.centre[0], plate.centre[1] - self._face.centre[1])
        areas = sorted((plate.area, self._face.area))
        return plate.top == self._face.top and shift < self._moved and areas[0] >= SAME_AREA * areas[1]

    def _take_over(self, stack: list[str], known: bool, plate: PlateSight) -> None:
        changed = stack != self._stack or self._face is None
        self._stack, self._stack_known, self._face = stack, known, plate
        near = plate.top is not None
        self._plate.value = (plate.top, near)
        if changed:
            self._off_plate = self._surely_off_plate()

    def _state(self, sight: Sight, stamp: float) -> Workcell:
        objects = []
        for index, (lasting, seen) in enumerate(zip(self._slots, self._slot_sights, strict=True)):
            if lasting.value is None or seen is None:
                continue
            confidence = seen.confidence * (MEMORY if self._slot_hidden[index].value else 1.0)
            objects.append(SeenObject(str(lasting.value), HOLDER, index, -1, confidence, seen.position))
        objects += [
            SeenObject(seen.ingredient, seen.place, confidence=seen.confidence, position=seen.position)
            for seen in self._loose_sights
            if self._loose.value
        ]
        plate_hidden = sight.plate.hidden or bool(self._plate_hidden.value)
        for layer, ingredient in enumerate(self._stack):
            top = layer == len(self._stack) - 1 and self._plate_sight is not None
            confidence = self._plate_sight.confidence if top and self._plate_sight is not None else 1.0
            position = self._plate_sight.position if self._plate_sight is not None else (0.0, 0.0, 0.0)
            index = layer if self._stack_known else -1
            confidence *= MEMORY if plate_hidden else 1.0
            objects.append(
                SeenObject(ingredient, PLATE, stack_index=index, confidence=confidence, position=position)
            )
        return Workcell(
            stamp=stamp,
            objects=tuple(objects),
            plate_visible=not plate_hidden and self._plate.known,
            holder_visible=all(slot.known for slot in self._slots)
            and not any(
                slot.hidden or bool(hidden.value)
                for slot, hidden in zip(sight.slots, self._slot_hidden, strict=True)
            ),
        )
