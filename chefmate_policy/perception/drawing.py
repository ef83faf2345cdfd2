# SPDX-License-Identifier: Apache-2.0
"""Zones, masks and findings as a picture, for setting up a real table."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from chefmate_policy.perception.projection import Camera
from chefmate_policy.perception.segmentation import Eye
from chefmate_policy.perception.settings import Settings

BLACK, WHITE, HIDDEN, ARM = (0, 0, 0), (255, 255, 255), (255, 0, 160), (255, 0, 160)


def draw_zones(
    image: NDArray[np.uint8], settings: Settings, camera: Camera | None = None
) -> NDArray[np.uint8]:
    """The image with zones and findings on it, and beside it what each pixel was taken for.

    Args:
        image: (h, w, 3) uint8 RGB.
        settings: the workcell file.
        camera: from camera_info; None: from the settings.

    Returns:
        (h, 2 * w, 3) uint8 RGB.

    Raises:
        SettingsError: a zone lies outside the image.
    """
    height, width = image.shape[:2]
    eye = Eye(settings, (width, height), camera)
    sight = eye.look(image)
    faces, edges, arm, _ = eye.masks(image)
    left, classes = image.copy(), np.zeros((eye.work_size[1], eye.work_size[0], 3), dtype=np.uint8)
    classes[arm > 0] = ARM
    for ingredient in settings.ingredients:
        colour = np.array(ingredient.colour)
        classes[edges[ingredient.name] > 0] = (0.6 * colour).astype(np.uint8)
        classes[faces[ingredient.name] > 0] = colour
    right = cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST)
    scale = np.array([width, height]) / np.array(eye.work_size)
    for picture in (left, right):
        for index, (polygon, slot) in enumerate(zip(eye.slot_polygons, sight.slots, strict=True)):
            label = f"{index}: {slot.ingredient or '-'} {slot.confidence:.2f}"
            _outline(picture, polygon * scale, label, slot.hidden)
        plate = sight.plate
        _outline(
            picture,
            eye.plate_polygon * scale,
            f"plate: {plate.top or '-'} {plate.confidence:.2f}",
            plate.hidden,
        )
    listed = ", ".join(f"{seen.ingredient} {seen.place}" for seen in sight.loose) or "nothing"
    _write(left, f"outside the zones: {listed}", (8, height - 12))
    _write(right, "faces bright, edges dark, arm pink", (8, height - 12))
    return np.hstack([left, right])


def _outline(picture: NDArray[np.uint8], polygon: NDArray[np.float64], label: str, hidden: bool) -> None:
    corners = np.round(polygon).astype(np.int32)
    cv2.polylines(picture, [corners], True, HIDDEN if hidden else WHITE, 2, cv2.LINE_AA)
    column, row = int(corners[:, 0].min()), int(corners[:, 1].min()) - 6
    _write(picture, label + (" hidden" if hidden else ""), (column, row))


def _write(picture: NDArray[np.uint8], text: str, at: tuple[int, int]) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, BLACK, 3, cv2.LINE_AA)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, WHITE, 1, cv2.LINE_AA)
