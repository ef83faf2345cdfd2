# SPDX-License-Identifier: Apache-2.0
"""What perception looks for and where: the workcell file (config/workcell_twin.yaml describes every key)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError
from chefmate_policy.perception.projection import Camera, box_corners, cylinder_rims, looking_at, pinhole


class SettingsError(PolicyError):
    """The workcell file cannot be used."""


@dataclass(frozen=True)
class ColourRange:
    """Inclusive bounds of OpenCV's hue (0..179; low > high wraps at red), saturation and value (0..255)."""

    hue: tuple[int, int]
    saturation: tuple[int, int]
    value: tuple[int, int]


@dataclass(frozen=True)
class Ingredient:
    """Colours of one class. `face` counts; `edge` belongs to it, but is too like other things to count."""

    name: str
    face: tuple[ColourRange, ...]
    edge: tuple[ColourRange, ...]
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Zone:
    """A polygon in the image, or points in base_link whose convex hull in the image it is.

    Attributes:
        pixels: (n, 2) corners (column, row), px, or None.
        points: (n, 3) m, base_link, or None.
        centre: m, base_link, of what lies there, or None where only pixels are known.
    """

    pixels: NDArray[np.float64] | None
    points: NDArray[np.float64] | None
    centre: tuple[float, float, float] | None


@dataclass(frozen=True)
class View:
    """Pose and field of view of the scene camera; position and target in m (base_link), fovy in rad."""

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    fovy: float

    def camera(
        self,
        size: tuple[int, int],
        matrix: NDArray[np.float64] | None = None,
        distortion: NDArray[np.float64] | None = None,
    ) -> Camera:
        """Camera for images of this (width, height); `matrix`, `distortion` as in camera_info, if known."""
        return Camera(
            matrix=pinhole(size, self.fovy) if matrix is None else matrix,
            distortion=np.zeros(5) if distortion is None else distortion,
            position=np.array(self.position),
            axes=looking_at(self.position, self.target),
        )


@dataclass(frozen=True)
class Settings:
    """The workcell file. Areas and distances in px of an image of `image_size`; shares 0..1."""

    image_size: tuple[int, int]
    view: View | None
    ingredients: tuple[Ingredient, ...]
    arm: tuple[ColourRange, ...]
    slots: tuple[Zone, ...]
    slot_background: tuple[ColourRange, ...]
    slot_min_share: float
    slot_min_askew: float
    slot_max_hidden: float
    plate: Zone
    plate_background: tuple[ColourRange, ...]
    plate_min_area: float
    plate_max_hidden: float
    plate_moved: float
    loose_min_area: float
    loose_min_width: float
    loose_margin: float
    loose_arm_share: float
    frames: int


def load(path: Path) -> Settings:
    """Reads a workcell file.

    Raises:
        SettingsError: it cannot be read, or a key is missing, unknown or has a value that cannot be used.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"workcell file {path} cannot be read: {error}.") from error
    raw = _parsed(path, text)
    try:
        return _settings(_Table(raw, ""))
    except SettingsError as error:
        raise SettingsError(f"workcell file {path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Locates values that look like a date or a number and are none, such as 2020-13-45."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError) as error:
            problem = f"{node.value!r} cannot be read as {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def _parsed(path: Path, text: str) -> Any:
    """The file's plain values; every fault names the line, and the key where there is one."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SettingsError(f"workcell file {path}:{line}: is not YAML: {error.problem}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SettingsError(f"workcell file {path}:{line}: is not YAML: {error.reason}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"workcell file {path}: is not YAML: {error}.") from error
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        key = (_key_at(root, mark.index) or "the file") if mark else "the file"
        line = mark.line + 1 if mark else 1
        raise SettingsError(f"workcell file {path}:{line}: {key}: {error.problem}.") from error


def _key_at(node: yaml.Node | None, index: int, where: str = "") -> str:
    """Path of the innermost value that the character `index` belongs to; empty: none."""
    if node is None or not node.start_mark.index <= index <= node.end_mark.index:
        return ""
    if isinstance(node, yaml.MappingNode):
        children = [(f"{where}.{key.value}" if where else str(key.value), item) for key, item in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(f"{where}[{number}]", item) for number, item in enumerate(node.value)]
    else:
        return where
    # An alias stands inside of its anchor only in a loop, which has no own place in the file.
    found = (
        _key_at(item, index, path) for path, item in children if item.start_mark.index > node.start_mark.index
    )
    return next(filter(None, found), where)


class _Table:
    """A mapping of the file; every key must be read, and every fault names its path."""

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, Mapping):
            raise SettingsError(f"{where or 'the file'} must be a table of keys, not {raw!r}.")
        self.raw, self.where = raw, where

    def path(self, key: str | int) -> str:
        return f"{self.where}.{key}" if self.where else str(key)

    def has(self, key: str) -> bool:
        return key in self.raw

    def only(self, *keys: str) -> _Table:
        for key in self.raw:
            if key not in keys:
                raise SettingsError(f"{self.path(str(key))} is unknown; known are {', '.join(keys)}.")
        return self

    def get(self, key: str | int) -> Any:
        if key not in self.raw:
            raise SettingsError(f"{self.path(key)} is missing.")
        return self.raw[key]

    def table(self, key: str) -> _Table:
        return _Table(self.get(key), self.path(key))

    def tables(self, key: str) -> list[_Table]:
        items = self.get(key)
        if not isinstance(items, Sequence) or isinstance(items, str):
            raise SettingsError(f"{self.path(key)} must be a list, not {items!r}.")
        return [_Table(item, f"{self.path(key)}[{index}]") for index, item in enumerate(items)]

    def number(self, key: str | int, low: float, high: float) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise SettingsError(f"{self.path(key)} must be a number from {low:g} to {high:g}, not {value!r}.")
        return float(value)

    def numbers(self, key: str | int, count: int, low: float, high: float) -> tuple[float, ...]:
        value = self.get(key)
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != count:
            raise SettingsError(f"{self.path(key)} must be a list of {count} numbers, not {value!r}.")
        items = _Table(dict(enumerate(value)), self.path(key))
        return tuple(items.number(index, low, high) for index in range(count))


ROOT_KEYS = ("image_size", "camera", "ingredients", "arm", "holder", "plate", "loose", "frames")


def _settings(root: _Table) -> Settings:
    root.only(*ROOT_KEYS)
    view = _view(root.table("camera").only("position", "target", "fovy")) if root.has("camera") else None
    holder = root.table("holder").only("background", "min_share", "min_askew", "max_hidden", "slots")
    plate = root.table("plate").only("background", "min_area", "max_hidden", "moved", "zone")
    loose = root.table("loose").only("min_area", "min_width", "margin", "arm_share")
    slots = tuple(_zone(table, view) for table in holder.tables("slots"))
    ingredients = root.table("ingredients")
    if not slots or not ingredients.raw:
        raise SettingsError("holder.slots and ingredients need at least one entry each.")
    width, height = root.numbers("image_size", 2, 16, 10000)
    return Settings(
        image_size=(int(width), int(height)),
        view=view,
        ingredients=tuple(_ingredient(str(name), ingredients.table(name)) for name in ingredients.raw),
        arm=_ranges(root, "arm"),
        slots=slots,
        slot_background=_ranges(holder, "background"),
        slot_min_share=holder.number("min_share", 0.01, 1.0),
        slot_min_askew=holder.number("min_askew", 0.01, 1.0),
        slot_max_hidden=holder.number("max_hidden", 0.0, 1.0),
        plate=_zone(plate.table("zone"), view),
        plate_background=_ranges(plate, "background"),
        plate_min_area=plate.number("min_area", 1.0, 1e7),
        plate_max_hidden=plate.number("max_hidden", 0.0, 1.0),
        plate_moved=plate.number("moved", 0.1, 1000.0),
        loose_min_area=loose.number("min_area", 1.0, 1e7),
        loose_min_width=loose.number("min_width", 1.0, 1000.0),
        loose_margin=loose.number("margin", 0.0, 1000.0),
        loose_arm_share=loose.number("arm_share", 0.0, 1.0),
        frames=int(root.number("frames", 1, 100)),
    )


def _triple(table: _Table, key: str) -> tuple[float, float, float]:
    x, y, z = table.numbers(key, 3, -10.0, 10.0)
    return x, y, z


def _view(table: _Table) -> View:
    return View(_triple(table, "position"), _triple(table, "target"), table.number("fovy", 0.05, 3.0))


def _ingredient(name: str, table: _Table) -> Ingredient:
    table.only("face", "edge", "colour")
    red, green, blue = (int(value) for value in table.numbers("colour", 3, 0, 255))
    edge = _ranges(table, "edge") if table.has("edge") else ()
    return Ingredient(name, _ranges(table, "face"), edge, (red, green, blue))


def _ranges(table: _Table, key: str) -> tuple[ColourRange, ...]:
    found = []
    for item in table.tables(key):
        item.only("hue", "saturation", "value")
        hue, saturation, value = (
            tuple(int(bound) for bound in item.numbers(channel, 2, 0, limit))
            for channel, limit in (("hue", 179), ("saturation", 255), ("value", 255))
        )
        found.append(ColourRange((hue[0], hue[1]), (saturation[0], saturation[1]), (value[0], value[1])))
    return tuple(found)


def _zone(table: _Table, view: View | None) -> Zone:
    table.only("pixels", "box", "cylinder")
    if len(table.raw) != 1:
        raise SettingsError(f"{table.where} needs exactly one of pixels, box and cylinder.")
    if table.has("pixels"):
        corners = table.get("pixels")
        if not isinstance(corners, Sequence) or len(corners) < 3:
            raise SettingsError(f"{table.path('pixels')} must be a list of at least 3 corners [column, row].")
        items = _Table(dict(enumerate(corners)), table.path("pixels"))
        pixels = [items.numbers(index, 2, -10000, 10000) for index in range(len(corners))]
        return Zone(np.array(pixels), None, None)
    if view is None:
        raise SettingsError(
            f"{table.where} is given in m, which needs the table 'camera'; give it in pixels instead."
        )
    if table.has("box"):
        box = table.table("box").only("centre", "size", "yaw", "lean")
        centre, size = _triple(box, "centre"), _triple(box, "size")
        points = box_corners(centre, size, box.number("yaw", -7, 7), box.number("lean", -3.2, 3.2))
        return Zone(None, points, centre)
    cylinder = table.table("cylinder").only("centre", "radius", "height")
    centre = _triple(cylinder, "centre")
    rims = cylinder_rims(centre, cylinder.number("radius", 1e-3, 2.0), cylinder.number("height", 0.0, 1.0))
    return Zone(None, rims, centre)
