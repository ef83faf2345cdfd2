# SPDX-License-Identifier: Apache-2.0
"""What was seen against what was there: instances paired, for a confusion matrix. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chefmate_policy.perception.workcell import PLATE, SeenObject, Workcell

__all__ = ["Pair", "pair", "right", "zones"]

Pair = tuple[SeenObject | None, SeenObject | None]
"""What was there and what was seen; None: nothing was seen of it, or nothing was there."""

# What two instances may have in common, the most first: they are paired in this order.
_KEYS: tuple[Callable[[SeenObject], object], ...] = (
    lambda item: (item.ingredient, item.place, item.slot, item.stack_index),
    lambda item: (item.ingredient, item.place),
    lambda item: (item.place, item.slot, item.stack_index),
    lambda item: item.ingredient,
)


def pair(truth: Sequence[SeenObject], seen: Sequence[SeenObject]) -> list[Pair]:
    """Pairs instances by what they have in common: all, class and place, place, class; the rest stands
    alone."""
    there, left = list(truth), list(seen)
    found: list[Pair] = []
    for key in _KEYS:
        for item in tuple(there):
            match = next((other for other in left if key(other) == key(item)), None)
            if match is not None:
                there.remove(item)
                left.remove(match)
                found.append((item, match))
    return found + [(item, None) for item in there] + [(None, other) for other in left]


def right(pairing: Pair) -> bool:
    """Whether class, place, slot and layer are as they were."""
    there, seen = pairing
    return there is not None and seen is not None and _KEYS[0](there) == _KEYS[0](seen)


def zones(workcell: Workcell, slots: int) -> tuple[tuple[str, ...], ...]:
    """Classes in each of the holder's slots, then on the plate from the lowest up."""
    held: list[tuple[str, ...]] = [()] * slots
    for item in workcell.objects:
        if item.place != PLATE and item.slot < slots:
            held[item.slot] = (*held[item.slot], item.ingredient)
    return (*held, workcell.plate())
