# SPDX-License-Identifier: Apache-2.0
"""The twin's scene as data: config/kitchen_scene.yaml, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from chefmate_driver.errors import DriverError
from chefmate_ros.share import share_file

__all__ = [
    "ArmLook",
    "Camera",
    "Ingredient",
    "KitchenConfig",
    "KitchenError",
    "Plate",
    "Randomisation",
    "Tray",
]

Vector = tuple[float, ...]


class KitchenError(DriverError):
    """The twin's scene, layout or state is not what was asked for."""


@dataclass(frozen=True)
class ArmLook:
    """Colours (RGB 0..1), servo gains (N m/rad, N m s/rad), torque limits (N m) and finger friction."""

    printed_colour: Vector
    servo_colour: Vector
    kp: float
    kv: float
    torque_limit: float
    gripper_torque_limit: float
    finger_friction: float


@dataclass(frozen=True)
class Tray:
    """Slots on an arc about the pan axis. Lengths in m, angles in rad; see config/kitchen_scene.yaml."""

    slots: int
    radius: float
    first_angle: float
    step: float
    foot_height: float
    lean: float
    width: float
    depth: float
    back_height: float
    lip_height: float
    wall: float
    friction: float
    colour: Vector


@dataclass(frozen=True)
class Plate:
    """A round plate: flat floor, then a wall sloping up to the rim. Lengths in m, `centre` in base_link."""

    centre: Vector
    floor_radius: float
    rim_radius: float
    rim_height: float
    floor_height: float
    friction: float
    colour: Vector


@dataclass(frozen=True)
class Ingredient:
    """A class of slice: full extents (m), mass (kg), colours (RGB), look `square` or `round`."""

    name: str
    size: Vector
    mass: float
    colour: Vector
    look: str
    rim_colour: Vector | None = None


@dataclass(frozen=True)
class Camera:
    """Scene camera: looks from `position` at `target` (m, base_link). Wrist camera: `tilt` (rad) in the
    gripper body."""

    position: Vector
    fovy: float
    target: Vector | None = None
    tilt: float | None = None


@dataclass(frozen=True)
class Randomisation:
    """Half-widths of uniform draws; units in config/kitchen_scene.yaml."""

    slice_shift: float
    slice_yaw: float
    plate_shift: float
    light: float
    light_shift: float
    colour: float
    table_colour: float
    camera_shift: float
    camera_turn: float


@dataclass(frozen=True)
class KitchenConfig:
    """Everything that decides the model. Two processes with the same config build the same model."""

    timestep: float
    arm: ArmLook
    table_size: Vector
    table_colour: Vector
    wall_colour: Vector
    tray: Tray
    plate: Plate
    ingredients: Mapping[str, Ingredient]
    food_friction: float
    stock: Mapping[str, int]
    default: tuple[str, ...]
    width: int
    height: int
    scene_camera: Camera
    wrist_camera: Camera
    randomisation: Randomisation

    @property
    def instances(self) -> dict[str, str]:
        """Name of each object of the model to its ingredient, in model order: bread_1 -> bread."""
        return {f"{kind}_{i + 1}": kind for kind, count in self.stock.items() for i in range(count)}

    @staticmethod
    def load(path: Path | str | None = None) -> KitchenConfig:
        """Reads and checks a scene file; None: the project's own. Raises KitchenError that names file and
        key; ShareFileError."""
        file = Path(path) if path else share_file("config", "kitchen_scene.yaml")
        try:
            raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise KitchenError(f"cannot read the scene file {file}: {error}") from error
        try:
            return _parse(raw)
        except KitchenError as error:
            raise KitchenError(f"{file}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise KitchenError(f"{file}: missing or malformed entry: {error!r}") from error


def _parse(raw: Any) -> KitchenConfig:
    ingredients = {
        name: _table(Ingredient, {"name": name, **entry}, f"ingredients.{name}")
        for name, entry in raw["ingredients"].items()
    }
    config = KitchenConfig(
        timestep=float(raw["physics"]["timestep"]),
        arm=_table(ArmLook, raw["arm"], "arm"),
        table_size=tuple(raw["table"]["size"]),
        table_colour=tuple(raw["table"]["colour"]),
        wall_colour=tuple(raw["wall_colour"]),
        tray=_table(Tray, raw["tray"], "tray"),
        plate=_table(Plate, raw["plate"], "plate"),
        ingredients=ingredients,
        food_friction=float(raw["food_friction"]),
        stock={str(kind): int(count) for kind, count in raw["stock"].items()},
        default=tuple(raw["default"]),
        width=int(raw["cameras"]["width"]),
        height=int(raw["cameras"]["height"]),
        scene_camera=_table(Camera, raw["cameras"]["scene"], "cameras.scene"),
        wrist_camera=_table(Camera, raw["cameras"]["wrist"], "cameras.wrist"),
        randomisation=_table(Randomisation, raw["randomisation"], "randomisation"),
    )
    _check(config)
    return config


def _table(kind: Any, entry: Mapping[str, Any], where: str) -> Any:
    known = {field.name for field in fields(kind)}
    unknown = set(entry) - known
    if unknown:
        raise KitchenError(f"{where}: unknown keys {sorted(unknown)}; known are {sorted(known)}")
    try:
        return kind(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        )
    except TypeError as error:
        raise KitchenError(f"{where}: {error}") from error


def _check(config: KitchenConfig) -> None:
    for kind in (*config.stock, *config.default):
        if kind not in config.ingredients:
            raise KitchenError(
                f"{kind!r} is in stock or default and not among ingredients {sorted(config.ingredients)}"
            )
    for kind in set(config.default):
        if config.default.count(kind) > config.stock.get(kind, 0):
            raise KitchenError(
                f"default names {kind!r} {config.default.count(kind)} times, more than the stock"
            )
    if len(config.default) > config.tray.slots:
        raise KitchenError(
            f"default names {len(config.default)} slices, the tray has {config.tray.slots} slots"
        )
    for item in config.ingredients.values():
        if len(item.size) != 3 or min(item.size) <= 0 or item.mass <= 0:
            raise KitchenError(
                f"ingredient {item.name!r}: size needs three positive extents, mass must be positive"
            )
        if item.size[2] > config.tray.depth - 0.002 or item.size[0] > config.tray.width - 0.002:
            raise KitchenError(f"ingredient {item.name!r} of {item.size} m does not fit the tray's slots")
        if item.look not in ("square", "round"):
            raise KitchenError(f"ingredient {item.name!r}: look is {item.look!r}, expected square or round")
    if config.scene_camera.target is None or config.wrist_camera.tilt is None:
        raise KitchenError("cameras.scene needs a target, cameras.wrist a tilt")
