# SPDX-License-Identifier: Apache-2.0
"""What a seed decides: which slot holds what, small displacements, light, colours, cameras, the plate's
place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.kitchen.config import KitchenConfig, KitchenError

__all__ = ["Appearance", "Layout", "draw_appearance", "draw_layout", "slot_pose"]

PAN_AXIS = (0.0388353, 0.0)  # m, x and y of the shoulder_pan axis in base_link (so101_new_calib)


@dataclass(frozen=True)
class Appearance:
    """Absolute values that `scene.apply_appearance` writes into a model; a function of config and seed
    alone."""

    seed: int
    colours: dict[str, tuple[float, float, float]]  # material name -> RGB
    light_strength: tuple[float, ...]  # factor per light
    light_shift: tuple[tuple[float, float, float], ...]  # m per light
    camera_shift: tuple[float, float, float]  # m, scene camera
    camera_turn: tuple[float, float, float]  # rad, scene camera, rotation vector in its own frame
    plate_shift: tuple[float, float]  # m


@dataclass(frozen=True)
class Layout:
    """One arrangement of the tray.

    slots: per slot the object's name ("" is empty). shift (m, across the slot) and yaw (rad, about the
    slice's normal) per slot.
    """

    seed: int
    slots: tuple[str, ...]
    shift: tuple[float, ...]
    yaw: tuple[float, ...]
    appearance: Appearance


LIGHTS = 3


def draw_appearance(config: KitchenConfig, seed: int) -> Appearance:
    """The appearance of a seed. Renderers in other processes need nothing but the seed."""
    rng = np.random.default_rng([seed, 1])
    spread = config.randomisation
    colours = {
        f"food_{kind}": _jitter(rng, item.colour, spread.colour) for kind, item in config.ingredients.items()
    }
    colours["table"] = _jitter(rng, config.table_colour, spread.table_colour, common=True)
    colours["wall"] = _jitter(rng, config.wall_colour, spread.table_colour, common=True)
    return Appearance(
        seed=seed,
        colours=colours,
        light_strength=tuple(float(v) for v in 1 + rng.uniform(-spread.light, spread.light, LIGHTS)),
        light_shift=tuple(_triple(rng, spread.light_shift) for _ in range(LIGHTS)),
        camera_shift=_triple(rng, spread.camera_shift),
        camera_turn=_triple(rng, spread.camera_turn),
        plate_shift=_triple(rng, spread.plate_shift)[:2],
    )


def draw_layout(config: KitchenConfig, seed: int, slots: Sequence[str] | None = None) -> Layout:
    """The layout of a seed. slots: ingredient per slot ("" is empty); None: the default slices, shuffled by
    the seed.

    Raises KitchenError when a named ingredient is unknown or out of stock, or slots are too many.
    """
    rng = np.random.default_rng([seed, 0])
    count = config.tray.slots
    if slots is None:
        kinds = [*config.default, *[""] * (count - len(config.default))]
        kinds = [kinds[i] for i in rng.permutation(count)]
    else:
        if len(slots) > count:
            raise KitchenError(f"{len(slots)} slots were named, the tray has {count}")
        kinds = [*slots, *[""] * (count - len(slots))]
    spread = config.randomisation
    return Layout(
        seed=seed,
        slots=_instances(config, kinds),
        shift=tuple(float(v) for v in rng.uniform(-spread.slice_shift, spread.slice_shift, count)),
        yaw=tuple(float(v) for v in rng.uniform(-spread.slice_yaw, spread.slice_yaw, count)),
        appearance=draw_appearance(config, seed),
    )


def slot_pose(config: KitchenConfig, slot: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Foot of a slot in base_link: position [3] in m and rotation [3, 3].

    Columns: x up along a standing slice, y across the slot, z the normal of the slice's upper face. A slice
    at rest has its centre at (length / 2, 0, thickness / 2) in this frame.
    """
    tray = config.tray
    angle = tray.first_angle + slot * tray.step
    out = np.array([np.cos(angle), np.sin(angle), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    along = -np.sin(tray.lean) * out + np.cos(tray.lean) * up
    normal = np.cos(tray.lean) * out + np.sin(tray.lean) * up
    position = np.array([*PAN_AXIS, tray.foot_height]) + tray.radius * out
    return position, np.column_stack([along, np.cross(normal, along), normal])


def _instances(config: KitchenConfig, kinds: Sequence[str]) -> tuple[str, ...]:
    used: dict[str, int] = {}
    names = []
    for kind in kinds:
        if not kind:
            names.append("")
            continue
        if kind not in config.stock:
            raise KitchenError(f"no ingredient {kind!r} in the kitchen; there are {sorted(config.stock)}")
        used[kind] = used.get(kind, 0) + 1
        if used[kind] > config.stock[kind]:
            raise KitchenError(
                f"{kind!r} was named more than {config.stock[kind]} times: raise `stock` in the scene file"
            )
        names.append(f"{kind}_{used[kind]}")
    return tuple(names)


def _triple(rng: np.random.Generator, width: float) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in rng.uniform(-width, width, 3))
    return x, y, z


def _jitter(
    rng: np.random.Generator, colour: Sequence[float], width: float, common: bool = False
) -> tuple[float, float, float]:
    noise = rng.uniform(-width, width, 3)
    if common:
        noise[:] = noise[0]
    r, g, b = (float(v) for v in np.clip(np.asarray(colour) + noise, 0.0, 1.0))
    return r, g, b
