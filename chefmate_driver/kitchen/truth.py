# SPDX-License-Identifier: Apache-2.0
"""What is where, by the twin's own bookkeeping. Only the scorer may look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from chefmate_driver.kitchen.world import ObjectState, World

__all__ = [
    "ELSEWHERE",
    "GRIPPER",
    "HOLDER",
    "PLATE",
    "SLOT_UNKNOWN",
    "TrueObject",
    "first_touched",
    "observe",
    "places",
    "plate_holds",
]

HOLDER, PLATE, GRIPPER, ELSEWHERE = (
    "holder",
    "plate",
    "gripper",
    "elsewhere",
)  # as in chefmate_msgs/WorkcellObject
SLOT_UNKNOWN = 255
FLAT = np.cos(np.radians(12.0))  # a slice whose normal is within 12 degrees of the vertical lies flat
ABOVE_PLATE = 0.08  # m above the plate's floor: higher is not on it


@dataclass(frozen=True)
class TrueObject:
    """One slice. slot: SLOT_UNKNOWN unless in the holder; stack_index: 0 is lowest, -1 unless on the plate.

    flat: its normal is within 12 degrees of the vertical. released: no jaw touches it. inside: all its
    corners are within the plate's rim.
    """

    state: ObjectState
    place: str
    slot: int
    stack_index: int
    flat: bool
    released: bool
    inside: bool

    @property
    def laid(self) -> bool:
        """On the plate as it ought to be: flat, released, inside of the rim."""
        return self.place == PLATE and self.flat and self.released and self.inside


def observe(world: World) -> list[TrueObject]:
    """Every slice in the scene, in model order."""
    jaws = world.jaw_contacts()
    places: dict[str, tuple[str, int]] = {}
    states = {state.name: state for state in world.objects()}
    for name, state in states.items():
        places[name] = _place(world, state, jaws.get(name, set()))
    stack = sorted(
        (n for n, (place, _) in places.items() if place == PLATE), key=lambda n: float(states[n].position[2])
    )
    found = []
    for name, state in states.items():
        place, slot = places[name]
        index = stack.index(name) if place == PLATE else -1
        flat = abs(_rotation(state)[2, 2]) > FLAT
        found.append(
            TrueObject(state, place, slot, index, bool(flat), name not in jaws, _inside(world, state))
        )
    return found


def places(world: World) -> dict[str, tuple[str, int]]:
    """Place and slot of every slice, by name."""
    return {item.state.name: (item.place, item.slot) for item in observe(world)}


def plate_holds(world: World, recipe: Sequence[str]) -> bool:
    """True when the plate holds exactly the recipe's ingredients, lowest first, each flat, released, within
    the rim."""
    on_plate = sorted((o for o in observe(world) if o.place == PLATE), key=lambda o: o.stack_index)
    in_order = [o.state.ingredient for o in on_plate] == list(recipe)
    return in_order and all(o.laid for o in on_plate)


def first_touched(world: World) -> str | None:
    """Name of the object that the arm touched first since the last reset or `world.touched.clear()`."""
    return world.touched[0] if world.touched else None


def _place(world: World, state: ObjectState, jaws: set[str]) -> tuple[str, int]:
    slot = world.slot_of(state.name)
    if slot is not None:
        return HOLDER, slot
    if len(jaws) == 2:
        return GRIPPER, SLOT_UNKNOWN
    centre, _ = world.plate_pose()
    offset = state.position - centre
    if np.linalg.norm(offset[:2]) < world.config.plate.rim_radius and -0.01 < offset[2] < ABOVE_PLATE:
        return PLATE, SLOT_UNKNOWN
    return ELSEWHERE, SLOT_UNKNOWN


def _rotation(state: ObjectState) -> NDArray[np.float64]:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, state.quaternion)
    return matrix.reshape(3, 3)


def _inside(world: World, state: ObjectState) -> bool:
    centre, _ = world.plate_pose()
    signs = np.array([(x, y) for x in (-0.5, 0.5) for y in (-0.5, 0.5)])
    corners = np.column_stack([signs * state.size[:2], np.zeros(4)]) @ _rotation(state).T + state.position
    return bool(np.all(np.linalg.norm(corners[:, :2] - centre[:2], axis=1) < world.config.plate.rim_radius))
