# SPDX-License-Identifier: Apache-2.0
"""One image to what is seen in it: colours in zones, without memory (tracking.py has that)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from chefmate_policy.perception.projection import Camera
from chefmate_policy.perception.settings import ColourRange, Settings, SettingsError, Zone
from chefmate_policy.perception.workcell import ELSEWHERE, GRIPPER

Mask = NDArray[np.uint8]
UNKNOWN_POSITION = (float("nan"), float("nan"), float("nan"))
# Half the width and height: a quarter of the work, and a slice is still 25 px wide.
SCALE = 0.5
# px of a 640x480 image: a kernel that reaches from a face over the slice's edge to the jaw that holds it.
REACH = 18
OPENING = np.ones((3, 3), dtype=np.uint8)
SPARE = 2  # working px around what is cut out, so that opening it gives what opening the whole image gives


@dataclass(frozen=True)
class SlotSight:
    """One slot. `ingredient` is None where none is seen; `hidden`: something else is in front of it."""

    ingredient: str | None
    confidence: float
    hidden: bool
    position: tuple[float, float, float]


@dataclass(frozen=True)
class PlateSight:
    """The plate.

    Attributes:
        top: class that covers most, None for an empty plate.
        confidence: share of the top's blob that lies within the plate.
        centre: px, (column, row) of the top's visible face.
        area: px, of the top's visible face.
        hidden: something is in front of it, or the arm touches the top, which may be held above the plate.
        position: m, base_link, of the top's face at the height of the plate.
        blob: mask of the top's face in the working image.
    """

    top: str | None
    confidence: float
    centre: tuple[float, float]
    area: float
    hidden: bool
    position: tuple[float, float, float]
    blob: Mask | None = None


@dataclass(frozen=True)
class LooseSight:
    """A blob outside plate and holder: in the gripper when it touches the arm, else elsewhere."""

    ingredient: str
    place: str
    confidence: float
    position: tuple[float, float, float]


@dataclass(frozen=True)
class Sight:
    """What one image shows."""

    slots: tuple[SlotSight, ...]
    plate: PlateSight
    loose: tuple[LooseSight, ...]


class Eye:
    """Settings made ready for images of one size. Pure: equal images give equal sights."""

    def __init__(self, settings: Settings, size: tuple[int, int], camera: Camera | None = None) -> None:
        """
        Args:
            settings: the workcell file.
            size: (width, height) of the images, px.
            camera: for images of that size; None: from the settings' own view.

        Raises:
            SettingsError: a zone does not show in the image.
        """
        self.settings = settings
        self.size = size
        self.camera = camera or (settings.view.camera(size) if settings.view is not None else None)
        self.work_size = (max(1, round(size[0] * SCALE)), max(1, round(size[1] * SCALE)))
        self._to_work = np.array(self.work_size, dtype=np.float64) / size
        # px of an image of `image_size` to px of the working image
        self._unit = self.work_size[0] / settings.image_size[0]
        self.slot_polygons = [self._polygon(zone, f"slot {k}") for k, zone in enumerate(settings.slots)]
        self.plate_polygon = self._polygon(settings.plate, "the plate")
        slot_masks = [self._filled(polygon) for polygon in self.slot_polygons]
        plate_mask = self._filled(self.plate_polygon)
        self._slots = [_Part.of(mask) for mask in slot_masks]
        self._holder = _Part.of(np.maximum.reduce(slot_masks))
        self._plate_part = _Part.of(plate_mask)
        self._margin = cv2.getStructuringElement(
            cv2.MORPH_ELLIPSE, (2 * self._px(settings.loose_margin) + 1,) * 2
        )
        zones = np.maximum.reduce([*slot_masks, plate_mask])
        self._outside = cv2.bitwise_not(cv2.dilate(zones, self._margin))
        self._near = np.ones((self._px(REACH),) * 2, dtype=np.uint8)
        self._wide = np.ones((self._px(settings.loose_min_width),) * 2, dtype=np.uint8)

    def _px(self, value: float) -> int:
        return max(1, round(value * self._unit))

    def _polygon(self, zone: Zone, name: str) -> NDArray[np.int32]:
        if zone.pixels is not None:
            corners = zone.pixels * (np.array(self.work_size) / self.settings.image_size)
        else:
            assert self.camera is not None and zone.points is not None  # settings check both
            corners = self.camera.project(zone.points) * self._to_work
        if zone.points is not None:
            corners = cv2.convexHull(corners.astype(np.float32)).reshape(-1, 2)
        polygon = np.round(corners).astype(np.int32)
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        if np.any(high < 0) or np.any(low >= self.work_size):
            raise SettingsError(
                f"the zone of {name} lies outside the image; check the camera's pose and the zone."
            )
        return polygon

    def _filled(self, polygon: NDArray[np.int32]) -> Mask:
        mask = np.zeros((self.work_size[1], self.work_size[0]), dtype=np.uint8)
        cv2.fillPoly(mask, [polygon], 255)
        return mask

    def masks(
        self, image: NDArray[np.uint8]
    ) -> tuple[dict[str, Mask], dict[str, Mask], Mask, NDArray[np.uint8]]:
        """Working masks of an (h, w, 3) uint8 RGB image.

        Returns:
            Faces by class, edges by class and the arm, 255 where true, and the HSV image; all of `work_size`.
        """
        small = cv2.resize(image, self.work_size, interpolation=cv2.INTER_AREA)
        hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
        faces, edges = {}, {}
        for ingredient in self.settings.ingredients:
            faces[ingredient.name] = _opened(in_ranges(hsv, ingredient.face))
            edges[ingredient.name] = in_ranges(hsv, ingredient.edge)
        arm = _opened(in_ranges(hsv, self.settings.arm))
        return faces, edges, arm, hsv

    def look(self, image: NDArray[np.uint8]) -> Sight:
        """What an (h, w, 3) uint8 RGB image shows.

        Raises:
            SettingsError: the image has another size than this eye was made for.
        """
        if image.shape[:2] != (self.size[1], self.size[0]):
            raise SettingsError(
                f"image of {image.shape[1]}x{image.shape[0]}, expected {self.size[0]}x{self.size[1]}."
            )
        faces, edges, arm, hsv = self.masks(image)
        food = np.zeros_like(arm)
        for mask in (*faces.values(), *edges.values()):
            cv2.bitwise_or(food, mask, food)
        plate = self._plate(faces, arm, self._unexplained(self._plate_part, food, arm, hsv))
        holder = self._holder.put(self._unexplained(self._holder, food, arm, hsv), np.zeros_like(arm))
        return Sight(
            slots=tuple(
                self._slot(zone, part, faces, edges, holder)
                for zone, part in zip(self.settings.slots, self._slots, strict=True)
            ),
            plate=plate,
            loose=tuple(self._loose(faces, arm, plate.blob)),
        )

    def _unexplained(self, part: _Part, food: Mask, arm: Mask, hsv: NDArray[np.uint8]) -> Mask:
        """What is neither food nor background, and what is arm, in a part of the image."""
        of_plate = part is self._plate_part
        background = self.settings.plate_background if of_plate else self.settings.slot_background
        known = part.cut(food)
        nothing = in_ranges(part.cut(hsv), background)
        found: Mask = cv2.bitwise_not(known | nothing) | (part.cut(arm) & ~known)
        return found

    def _slot(
        self, zone: Zone, part: _Part, faces: dict[str, Mask], edges: dict[str, Mask], unexplained: Mask
    ) -> SlotSight:
        shares = {name: part.count(face) / part.whole for name, face in faces.items()}
        best = max(shares, key=lambda name: shares[name])
        hidden = part.count_opened(part.cut(unexplained)) / part.whole > self.settings.slot_max_hidden
        position = zone.centre or UNKNOWN_POSITION
        if shares[best] < self.settings.slot_min_share:
            # A slice that stands askew turns its edge to the camera.
            both = {name: part.count(faces[name] | edges[name]) / part.whole for name in faces}
            best = max(both, key=lambda name: both[name])
            if both[best] < self.settings.slot_min_askew:
                return SlotSight(None, 1.0, hidden, position)
            return SlotSight(
                best, both[best] / sum(both.values()) * min(1.0, both[best] / 0.6), hidden, position
            )
        # How much of what could be its face is of one class: a slice in a slot shows about 0.7 of the zone.
        purity = shares[best] / sum(shares.values())
        confidence = purity * min(1.0, shares[best] / 0.6)
        return SlotSight(best, confidence, hidden, position)

    def _plate(self, faces: dict[str, Mask], arm: Mask, unexplained: Mask) -> PlateSight:
        part, settings = self._plate_part, self.settings
        hidden = part.count_opened(unexplained) / part.whole > settings.plate_max_hidden
        least = settings.plate_min_area * self._unit**2
        # A blob of a class covers at most what the class covers.
        blobs = {name: _largest(face, part) for name, face in faces.items() if part.count(face) >= least}
        top = max(blobs, key=lambda name: blobs[name].within, default=None)
        if top is None or blobs[top].within < least:
            centre = settings.plate.centre or UNKNOWN_POSITION
            return PlateSight(None, 1.0, (0.0, 0.0), 0.0, hidden, centre)
        column, row = blobs[top].centre
        pixel = (float(column / self._to_work[0]), float(row / self._to_work[1]))
        return PlateSight(
            top=top,
            confidence=blobs[top].within / blobs[top].area,
            centre=pixel,
            area=blobs[top].within / self._unit**2,
            hidden=hidden or self._touching(blobs[top].body, arm) >= settings.loose_arm_share,
            position=self._position(pixel, settings.plate.centre),
            blob=blobs[top].body,
        )

    def _touching(self, body: Mask, arm: Mask) -> float:
        """Share of a blob's surroundings that is arm."""
        rim = cv2.dilate(body, self._near) & ~body
        return cv2.countNonZero(rim & arm) / max(1, cv2.countNonZero(rim))

    def _loose(self, faces: dict[str, Mask], arm: Mask, on_plate: Mask | None) -> list[LooseSight]:
        found = []
        least = self.settings.loose_min_area * self._unit**2
        for name, face in faces.items():
            outside = face & self._outside
            if on_plate is not None:
                outside &= ~on_plate  # what sticks out over the rim is the same slice
            if cv2.countNonZero(outside) < least:
                continue
            outside = cv2.morphologyEx(outside, cv2.MORPH_OPEN, self._wide)
            if cv2.countNonZero(outside) < least:
                continue
            count, labels, stats, centres = cv2.connectedComponentsWithStats(outside, connectivity=8)
            for blob in range(1, count):
                if stats[blob, cv2.CC_STAT_AREA] < least:
                    continue
                area = stats[blob, cv2.CC_STAT_AREA] / self._unit**2
                body = (labels == blob).astype(np.uint8) * 255
                touches = self._touching(body, arm) >= self.settings.loose_arm_share
                place = GRIPPER if touches else ELSEWHERE
                centre = (
                    float(centres[blob][0] / self._to_work[0]),
                    float(centres[blob][1] / self._to_work[1]),
                )
                confidence = float(min(1.0, area / (2.0 * self.settings.loose_min_area)))
                found.append(LooseSight(name, place, confidence, self._position(centre, (0.0, 0.0, 0.0))))
        return found

    def _position(
        self, pixel: tuple[float, float], plane: tuple[float, float, float] | None
    ) -> tuple[float, float, float]:
        if self.camera is None or plane is None:
            return UNKNOWN_POSITION
        return self.camera.on_height(pixel, plane[2])


def in_ranges(hsv: NDArray[np.uint8], ranges: tuple[ColourRange, ...]) -> Mask:
    """255 where an (h, w, 3) OpenCV HSV image lies in one of the ranges."""
    mask = np.zeros(hsv.shape[:2], dtype=np.uint8)
    for item in ranges:
        (s0, s1), (v0, v1) = item.saturation, item.value
        hues = [item.hue] if item.hue[0] <= item.hue[1] else [(item.hue[0], 179), (0, item.hue[1])]
        for low, high in hues:
            mask |= cv2.inRange(hsv, np.array([low, s0, v0], np.uint8), np.array([high, s1, v1], np.uint8))
    return mask


@dataclass(frozen=True)
class _Blob:
    """The connected part of a mask that lies most in a zone: working px in the zone, px in all, centre."""

    within: int
    area: int
    centre: tuple[float, float]
    body: Mask


def _largest(mask: Mask, zone: _Part) -> _Blob:
    _, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
    within = np.bincount(zone.cut(labels)[zone.mask > 0], minlength=len(stats))
    within[0] = 0  # the background
    blob = int(np.argmax(within))
    column, row = centres[blob]
    body = (labels == blob).astype(np.uint8) * 255
    return _Blob(
        int(within[blob]), max(1, int(stats[blob, cv2.CC_STAT_AREA])), (float(column), float(row)), body
    )


def _opened(mask: Mask) -> Mask:
    """Without lines one or two pixels wide, where the colours of two things blend."""
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, OPENING)


@dataclass(frozen=True)
class _Part:
    """A zone, cut out of the working image with a little around it: rows, columns, mask of the cut, its
    pixels."""

    rows: slice
    columns: slice
    mask: Mask
    whole: int

    @classmethod
    def of(cls, mask: Mask) -> _Part:
        """The zone of a mask (h, w), 255 where true."""
        column, row, width, height = cv2.boundingRect(mask)
        rows = slice(max(0, row - SPARE), row + height + SPARE)
        columns = slice(max(0, column - SPARE), column + width + SPARE)
        return cls(rows, columns, mask[rows, columns].copy(), max(1, cv2.countNonZero(mask)))

    def cut(self, image: Mask) -> Mask:
        """The part of an image (h, w) or (h, w, channels) in which the zone lies; a view."""
        return image[self.rows, self.columns]

    def put(self, cut: Mask, image: Mask) -> Mask:
        """Writes a cut into an image (h, w), and returns it."""
        image[self.rows, self.columns] = cut
        return image

    def count(self, mask: Mask) -> int:
        """Pixels of a mask (h, w) that lie in the zone."""
        return cv2.countNonZero(self.cut(mask) & self.mask)

    def count_opened(self, cut: Mask) -> int:
        """Pixels of a cut that lie in the zone, without thin lines."""
        return cv2.countNonZero(_opened(cut & self.mask))
