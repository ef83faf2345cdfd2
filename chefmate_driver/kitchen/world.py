# SPDX-License-Identifier: Apache-2.0
"""The twin's physics: one model and its state. Knows nothing of time, bus or ROS; not safe for concurrent
use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from chefmate_driver.kitchen.config import KitchenConfig, KitchenError
from chefmate_driver.kitchen.layout import Layout, draw_layout, slot_pose
from chefmate_driver.kitchen.scene import JOINTS, PARKED_Z, apply_appearance, build_model

__all__ = ["REST", "ObjectState", "World"]

REST = (0.0, -1.55, 1.45, 0.75, 0.0, 0.0)  # rad, folded back over the base: sees nothing, hides nothing
TOUCH_EVERY = 5  # steps (10 ms) between looks at the contacts; touches last longer
LEANS = np.cos(np.radians(30.0))
CLEARANCE = 1e-4  # m, a slice is put this far above what it rests on


@dataclass(frozen=True)
class ObjectState:
    """One slice of the scene: pose in base_link (m; quaternion wxyz; z of its frame is its normal), full
    extents (m)."""

    name: str
    ingredient: str
    position: NDArray[np.float64]
    quaternion: NDArray[np.float64]
    size: tuple[float, float, float]


class World:
    """Arm, tray, plate and slices.

    Objects are put somewhere by `reset` and `place` only; between those they move by contact alone.
    `generation` counts those calls: a renderer in another process compares it to know that poses jumped.
    """

    def __init__(self, config: KitchenConfig | None = None, seed: int = 0) -> None:
        self.config = config or KitchenConfig.load()
        self.model: mujoco.MjModel = build_model(self.config)
        self.data: mujoco.MjData = mujoco.MjData(self.model)
        self.generation = 0
        self.layout: Layout = draw_layout(self.config, seed)
        self.present: set[str] = set()  # names of the objects that are not parked
        self.touched: list[str] = []  # objects in the order in which the arm first touched them
        self._home: dict[str, int] = {}
        self._lag = 0
        names = list(self.config.instances)
        model = self.model
        self._joint_q = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self._joint_v = np.array([model.joint(name).dofadr[0] for name in JOINTS])
        self._actuators = np.array([model.actuator(name).id for name in JOINTS])
        self._object_q = {name: int(model.joint(name).qposadr[0]) for name in names}
        self._object_v = {name: int(model.joint(name).dofadr[0]) for name in names}
        self._bodies = {name: int(model.body(name).id) for name in names}
        self._name_of_body = {body: name for name, body in self._bodies.items()}
        self._gains = (model.actuator_gainprm.copy(), model.actuator_biasprm.copy())
        jaws = {"fixed": model.body("gripper").id, "moving": model.body("moving_jaw_so101_v1").id}
        self._jaws: dict[int, str] = {int(body): jaw for jaw, body in jaws.items()}
        self._arm_bodies = set(self._descendants(int(model.body("base").id)))
        self._slots = [slot_pose(self.config, slot) for slot in range(self.config.tray.slots)]
        self.set_arm(REST)
        self.reset(seed)

    # --- arrangement --------------------------------------------------------------------------------------

    def reset(self, seed: int, slots: Sequence[str] | None = None) -> Layout:
        """New layout, light and colours. slots: ingredient per slot ("" is empty); None: drawn from the seed.

        The arm stays where it is. Raises KitchenError (and changes nothing) when the slots cannot be filled.
        """
        layout = draw_layout(self.config, seed, slots)
        self.layout = layout
        apply_appearance(self.model, self.config, layout.appearance)
        self.present.clear()
        self._home.clear()
        for name in self._bodies:
            self._park(name)
        for slot, name in enumerate(layout.slots):
            if name:
                self._stand(name, slot, layout.shift[slot], layout.yaw[slot])
        self._arranged()
        return layout

    def place(self, name: str, place: str, slot: int = -1) -> str:
        """Moves one object as a hand would. Returns the instance's name.

        name: instance (bread_1) or class (the first of it). place: `holder` (slot, -1: the first free one),
        `plate` (flat on top of what is there) or `elsewhere` (out of the scene). Raises KitchenError.
        """
        instance = self._find(name)
        if place == "holder":
            free = [s for s in range(self.config.tray.slots) if self._occupant(s) in (None, instance)]
            wanted = slot if slot >= 0 else (free[0] if free else -1)
            if wanted not in free:
                what = (
                    "no free slot"
                    if slot < 0
                    else f"slot {slot} is taken or not one of {self.config.tray.slots}"
                )
                raise KitchenError(f"cannot put {instance} into the holder: {what}")
            self._stand(instance, wanted, 0.0, 0.0)
        elif place == "plate":
            self._lay(instance)
        elif place == "elsewhere":
            self.present.discard(instance)
            self._park(instance)
        else:
            raise KitchenError(f"unknown place {place!r}: expected holder, plate or elsewhere")
        self._arranged()
        return instance

    def set_arm(self, positions: Sequence[float]) -> None:
        """Puts the arm at rest at joint positions [6] in rad, at once. For start-up and tests: a jump, not a
        motion."""
        self.data.qpos[self._joint_q] = positions
        self.data.qvel[self._joint_v] = 0.0
        self.set_joint_targets(positions)
        mujoco.mj_forward(self.model, self.data)

    # --- motion -------------------------------------------------------------------------------------------

    def step(self, count: int = 1) -> None:
        """Advances physics by `count` steps of `config.timestep`."""
        while count > 0:
            chunk = min(count, TOUCH_EVERY - self._lag)
            mujoco.mj_step(self.model, self.data, nstep=chunk)
            count -= chunk
            self._lag = (self._lag + chunk) % TOUCH_EVERY
            if self._lag == 0:
                self._note_touches()

    def set_joint_targets(self, positions: Sequence[float]) -> None:
        """Goal of the six servos, [6] rad in JOINTS order; clipped to the joints' ranges as a servo does."""
        goals = np.asarray(positions, dtype=np.float64)
        if goals.shape != (6,) or not np.all(np.isfinite(goals)):
            raise KitchenError(f"joint targets must be six finite numbers in rad, got {positions!r}")
        low, high = self.model.actuator_ctrlrange[self._actuators].T
        self.data.ctrl[self._actuators] = np.clip(goals, low, high)

    def set_torque_enabled(self, enabled: Sequence[bool]) -> None:
        """Per joint [6]: True holds its goal, False is limp (only friction and damping)."""
        gain, bias = self._gains
        for actuator, on in zip(self._actuators, enabled, strict=True):
            self.model.actuator_gainprm[actuator] = gain[actuator] if on else 0.0
            self.model.actuator_biasprm[actuator] = bias[actuator] if on else 0.0

    def set_torque_limits(self, limits: Sequence[float]) -> None:
        """Per joint [6], N m: the servos' torque limit."""
        for actuator, limit in zip(self._actuators, limits, strict=True):
            self.model.actuator_forcerange[actuator] = (-abs(limit), abs(limit))

    @property
    def time(self) -> float:
        """Simulated time, s."""
        return float(self.data.time)

    @property
    def joint_positions(self) -> NDArray[np.float64]:
        """[6] rad."""
        return self.data.qpos[self._joint_q].copy()

    @property
    def joint_velocities(self) -> NDArray[np.float64]:
        """[6] rad/s."""
        return self.data.qvel[self._joint_v].copy()

    @property
    def joint_targets(self) -> NDArray[np.float64]:
        """[6] rad, after clipping."""
        return self.data.ctrl[self._actuators].copy()

    @property
    def joint_torques(self) -> NDArray[np.float64]:
        """[6] N m, what the servos' motors give."""
        return self.data.actuator_force[self._actuators].copy()

    def mirror(self, qpos: NDArray[np.float64]) -> None:
        """Takes over the state [nq] of another process's twin that stands in the same layout; notes touches.

        Physics is not stepped here. Objects on the shelf below the table are not present.
        """
        self.data.qpos[:] = qpos
        mujoco.mj_fwdPosition(self.model, self.data)
        self.present = {name for name, start in self._object_q.items() if qpos[start + 2] > PARKED_Z / 2}
        self._note_touches()

    # --- state --------------------------------------------------------------------------------------------

    def objects(self) -> list[ObjectState]:
        """The slices in the scene (parked ones are not), in model order."""
        return [self.object(name) for name in self._bodies if name in self.present]

    def object(self, name: str) -> ObjectState:
        """One slice by instance name, parked or not. Raises KitchenError for an unknown name."""
        if name not in self._object_q:
            raise KitchenError(f"no object {name!r}; there are {sorted(self._object_q)}")
        start = self._object_q[name]
        pose = self.data.qpos[start : start + 7].copy()
        kind = self.config.instances[name]
        x, y, z = self.config.ingredients[kind].size
        return ObjectState(name, kind, pose[:3], pose[3:], (x, y, z))

    def jaw_contacts(self) -> dict[str, set[str]]:
        """Per touched object the jaws that touch it: {"cheese_1": {"fixed", "moving"}}."""
        touching: dict[str, set[str]] = {}
        for name, other in self._object_contacts():
            if other in self._jaws:
                touching.setdefault(name, set()).add(self._jaws[other])
        return touching

    def plate_pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centre of the plate's floor (m) and quaternion wxyz, base_link."""
        body = self.model.body("plate").id
        centre = self.model.body_pos[body] + (0.0, 0.0, self.config.plate.floor_height)
        return centre, self.model.body_quat[body].copy()

    def tray_pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Middle of the slots' feet (m) and quaternion wxyz, base_link."""
        return np.mean([foot for foot, _ in self._slots], axis=0), np.array([1.0, 0.0, 0.0, 0.0])

    def slot_of(self, name: str) -> int | None:
        """The slot in which the object stands now, or None.

        It stands there when its centre is within 12 mm and its face within 30 degrees of a slice at rest.
        """
        state = self.object(name)
        axes = np.zeros(9)
        mujoco.mju_quat2Mat(axes, state.quaternion)
        for slot in range(self.config.tray.slots):
            centre, rotation = self._standing(name, slot)
            leans = abs(float(rotation[:, 2] @ axes[2::3])) > LEANS
            if leans and np.linalg.norm(state.position - centre) < 0.012:
                return slot
        return None

    # --- inside -------------------------------------------------------------------------------------------

    def _standing(self, name: str, slot: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        length, _, thickness = self.config.ingredients[self.config.instances[name]].size
        foot, rotation = self._slots[slot]
        return foot + rotation @ np.array([length / 2 + CLEARANCE, 0.0, thickness / 2 + CLEARANCE]), rotation

    def _stand(self, name: str, slot: int, shift: float, yaw: float) -> None:
        centre, rotation = self._standing(name, slot)
        # A slice turned in its slot stands on a corner: raise it by what that corner sinks.
        _, width, _ = self.config.ingredients[self.config.instances[name]].size
        raised = abs(np.sin(yaw)) * width / 2
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
        self._put(name, centre + rotation @ np.array([raised, shift, 0.0]), rotation @ turn)

    def _lay(self, name: str) -> None:
        centre, _ = self.plate_pose()
        top = centre[2]
        for other in self.objects():
            inside = np.linalg.norm(other.position[:2] - centre[:2]) < self.config.plate.rim_radius
            if inside and other.name != name and other.position[2] < 0.1:
                top = max(top, other.position[2] + other.size[2] / 2)
        thickness = self.object(name).size[2]
        self._put(name, np.array([centre[0], centre[1], top + thickness / 2 + CLEARANCE]), np.eye(3))

    def _park(self, name: str) -> None:
        index = list(self._bodies).index(name)
        thickness = self.object(name).size[2]
        position = np.array([0.2, 0.1 * index - 0.3, PARKED_Z + thickness / 2 + CLEARANCE])
        self._write(name, position, np.eye(3))

    def _put(self, name: str, position: NDArray[np.float64], rotation: NDArray[np.float64]) -> None:
        self.present.add(name)
        self._write(name, position, rotation)

    def _write(self, name: str, position: NDArray[np.float64], rotation: NDArray[np.float64]) -> None:
        q, v = self._object_q[name], self._object_v[name]
        self.data.qpos[q : q + 3] = position
        mujoco.mju_mat2Quat(self.data.qpos[q + 3 : q + 7], np.ascontiguousarray(rotation).ravel())
        self.data.qvel[v : v + 6] = 0.0

    def _arranged(self) -> None:
        self.touched.clear()
        self.generation += 1
        self.data.qacc_warmstart[:] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def _find(self, name: str) -> str:
        if name in self._bodies:
            return name
        for instance, kind in self.config.instances.items():
            if kind == name:
                return instance
        raise KitchenError(f"no object {name!r}; there are {sorted(self._bodies)}")

    def _occupant(self, slot: int) -> str | None:
        return next((name for name in self.present if self.slot_of(name) == slot), None)

    def _descendants(self, root: int) -> list[int]:
        found = [root]
        for body in range(root + 1, self.model.nbody):
            if int(self.model.body_parentid[body]) in found:
                found.append(body)
        return found

    def _object_contacts(self) -> list[tuple[str, int]]:
        count = self.data.ncon
        if count == 0:
            return []
        pairs = self.model.geom_bodyid[self.data.contact.geom[:count]].tolist()
        found = []
        for first, second in sorted({(first, second) for first, second in pairs}):
            for mine, other in ((first, second), (second, first)):
                if mine in self._name_of_body:
                    found.append((self._name_of_body[mine], other))
        return found

    def _note_touches(self) -> None:
        for name, other in self._object_contacts():
            if other in self._arm_bodies and name not in self.touched:
                self.touched.append(name)
