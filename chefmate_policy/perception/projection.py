# SPDX-License-Identifier: Apache-2.0
"""Points of the workcell in the camera's image, and back: a pinhole camera with OpenCV's distortion model."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Camera:
    """Pinhole camera.

    Attributes:
        matrix: (3, 3) intrinsics, px: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].
        distortion: OpenCV's coefficients (k1, k2, p1, p2, k3), empty for none.
        position: (3,) m, base_link, optical centre.
        axes: (3, 3) columns are the optical frame's x (right), y (down), z (forward) in base_link.
    """

    matrix: NDArray[np.float64]
    distortion: NDArray[np.float64]
    position: NDArray[np.float64]
    axes: NDArray[np.float64]

    def project(self, points: ArrayLike) -> NDArray[np.float64]:
        """(n, 3) points in base_link, m, to (n, 2) pixels (column, row)."""
        local = (np.asarray(points, dtype=np.float64).reshape(-1, 3) - self.position) @ self.axes
        pixels, _ = cv2.projectPoints(local, np.zeros(3), np.zeros(3), self.matrix, self.distortion)
        return np.asarray(pixels, dtype=np.float64).reshape(-1, 2)

    def on_height(self, pixel: tuple[float, float], height: float) -> tuple[float, float, float]:
        """The point in base_link, m, where the ray of a pixel (column, row) meets the plane z = height."""
        source = np.array([[pixel]], dtype=np.float64)
        flat = cv2.undistortPoints(source, self.matrix, self.distortion).reshape(2)
        ray = self.axes @ np.array([flat[0], flat[1], 1.0])
        point = self.position + ray * ((height - self.position[2]) / ray[2])
        return float(point[0]), float(point[1]), float(height)


def looking_at(position: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """(3, 3) axes (columns right, down, forward) of an upright camera that looks at `target`; m."""
    forward = np.asarray(target, dtype=np.float64) - np.asarray(position, dtype=np.float64)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right)
    return np.column_stack([right, np.cross(forward, right), forward])


def pinhole(size: tuple[int, int], fovy: float) -> NDArray[np.float64]:
    """(3, 3) intrinsics of a camera with square pixels, its axis in the image's middle.

    Args:
        size: (width, height), px.
        fovy: rad, vertical field of view.
    """
    focal = 0.5 * size[1] / np.tan(0.5 * fovy)
    return np.array([[focal, 0.0, 0.5 * size[0]], [0.0, focal, 0.5 * size[1]], [0.0, 0.0, 1.0]])


def box_corners(centre: ArrayLike, size: ArrayLike, yaw: float, lean: float) -> NDArray[np.float64]:
    """(8, 3) corners in base_link, m, of a slice that leans.

    Args:
        centre: of the box, m.
        size: length up along the slice, width across, thickness; m.
        yaw: rad about z, direction in which the slice's face looks outward.
        lean: rad from the vertical, backwards (its top moves against the direction of yaw).
    """
    out = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    along = -np.sin(lean) * out + np.cos(lean) * up
    normal = np.cos(lean) * out + np.sin(lean) * up
    axes = np.vstack([along, np.cross(normal, along), normal])
    signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    return np.asarray(centre, dtype=np.float64) + (signs * np.asarray(size, dtype=np.float64)) @ axes


def cylinder_rims(centre: ArrayLike, radius: float, height: float, corners: int = 32) -> NDArray[np.float64]:
    """(2 * corners, 3) points in base_link, m, of both rims of an upright cylinder on `centre`."""
    angles = np.linspace(0.0, 2.0 * np.pi, corners, endpoint=False)
    ring = np.column_stack([radius * np.cos(angles), radius * np.sin(angles), np.zeros(corners)])
    floor = np.asarray(centre, dtype=np.float64) + ring
    return np.vstack([floor, np.add(floor, (0.0, 0.0, height))])
