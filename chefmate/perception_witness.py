# SPDX-License-Identifier: Apache-2.0
"""What perception sees of a twin in lockstep, and what is true and hidden at the same moment.

Perception is the node's: its eye and tracker, its workcell file, its rate, 640x480 pictures and a camera_info
of the nominal lens. Only DDS is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import mujoco
import numpy as np
import yaml
from numpy.typing import NDArray

from chefmate_driver.kitchen import truth
from chefmate_driver.kitchen.render import HIDDEN_GROUP, KitchenRenderer
from chefmate_driver.kitchen.world import World
from chefmate_policy.perception.segmentation import Eye
from chefmate_policy.perception.settings import Settings, load
from chefmate_policy.perception.tracking import Tracker
from chefmate_policy.perception.workcell import GRIPPER, PLATE, SeenObject, Workcell
from chefmate_ros.share import share_file

__all__ = ["Hidden", "Witness", "true_objects"]

CAMERA = "scene"
GEOMS = 500  # more than the scene has; each one costs time when the list is read
HALF_ON = 0.5  # confidence of a slice that sticks out over the plate's rim: below every min_confidence


@dataclass(frozen=True)
class Hidden:
    """Shares 0..1 that the arm, or what it carries, hides.

    slices: of each slice's visible pixels, by its instance's name; of the carried one by the arm alone.
    zones: of each slot's zone, then of the plate's. covered: slices on the plate that have others above them.
    """

    slices: dict[str, float]
    zones: tuple[float, ...]
    covered: frozenset[str]


class Witness:
    """Looks at one world. Belongs to the thread that made it (its graphics contexts do)."""

    def __init__(self, world: World) -> None:
        """Raises KitchenError: no graphics."""
        config = world.config
        self.world = world
        self.settings: Settings = load(share_file("config", "workcell_twin.yaml"))
        raw = yaml.safe_load(share_file("config", "perception.yaml").read_text(encoding="utf-8"))
        self.period = 1.0 / float(raw["/**"]["ros__parameters"]["process_rate"])  # s between pictures
        self.size = (config.width, config.height)
        self.eye = Eye(self.settings, self.size)
        self._renderer = KitchenRenderer(world.model, CAMERA, *self.size)
        self._image = np.zeros((config.height, config.width, 3), dtype=np.uint8)
        self._segments = mujoco.Renderer(world.model, *self.eye.work_size[::-1], max_geom=GEOMS)
        self._segments.enable_segmentation_rendering()
        self._option = mujoco.MjvOption()
        self._option.geomgroup[HIDDEN_GROUP] = 0
        names = [world.model.body(int(body)).name for body in world.model.geom_bodyid]
        self._geoms = {name: np.flatnonzero([own == name for own in names]) for name in set(names)}
        root = int(world.model.body("base").id)
        arm = [body for body in range(world.model.nbody) if _under(world.model, body, root)]
        self._arm = np.flatnonzero(np.isin(world.model.geom_bodyid, arm))
        self._zones = [_filled(polygon, self.eye.work_size) for polygon in self.eye.slot_polygons]
        self._zones.append(_filled(self.eye.plate_polygon, self.eye.work_size))
        self.forget()

    def close(self) -> None:
        """Frees the graphics contexts."""
        self._renderer.close()
        self._segments.close()

    def forget(self) -> None:
        """A fresh perception, as after the node's start."""
        settings = self.settings
        self._tracker = Tracker(len(settings.slots), settings.frames, settings.plate_moved)

    def picture(self) -> NDArray[np.uint8]:
        """(h, w, 3) RGB of the scene camera, now; overwritten by the next one."""
        self._renderer.render(self.world.data.qpos, self._image)
        return self._image

    def look(self) -> Workcell:
        """What perception makes of the world as it is now; call it at `period`."""
        return self._tracker.see(self.eye.look(self.picture()), self.world.time)

    def hidden(self) -> Hidden:
        """What the arm hides now, from pictures in which each pixel says what it shows."""
        now = {item.state.name: item for item in truth.observe(self.world)}
        carried = [name for name, item in now.items() if item.place == GRIPPER]
        gone = np.concatenate([self._arm, *[self._geoms[name] for name in carried]])
        whole, bare = self._shown(np.zeros(0, dtype=np.int64)), self._shown(gone)
        alone = self._shown(self._arm) if carried else bare
        shares, covered = {}, set()
        for name, item in now.items():
            without = alone if name in carried else bare
            free = int(np.isin(without, self._geoms[name]).sum())
            left = int(np.isin(whole, self._geoms[name]).sum())
            shares[name] = 1.0 - min(1.0, left / free) if free else 0.0
            above = item.place == PLATE and any(
                other.place == PLATE and other.stack_index > item.stack_index for other in now.values()
            )
            if above and name not in carried:
                covered.add(name)
        front = np.isin(whole, gone)
        zones = tuple(float(front[zone].mean()) for zone in self._zones)
        return Hidden(shares, zones, frozenset(covered))

    def _shown(self, gone: NDArray[np.int64]) -> NDArray[np.int32]:
        """(h, w) number of the geom that each pixel of the working image shows, without some; -1: none."""
        self._segments.update_scene(self.world.data, CAMERA, self._option)
        without, scene = set(gone.tolist()), self._segments.scene
        for geom in scene.geoms[: scene.ngeom]:
            if geom.objid in without:
                geom.segid = -1
        shown = self._segments.render()
        return np.where(shown[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM), shown[..., 0], -1)


def true_objects(world: World) -> dict[str, SeenObject]:
    """The twin's truth in perception's form, by the instances' names: plate from the lowest up, everything in
    sight, nothing uncertain but what sticks out over the plate's rim."""
    return {
        item.state.name: SeenObject(
            item.state.ingredient,
            item.place,
            item.slot,
            item.stack_index,
            1.0 if item.place != PLATE or item.inside else HALF_ON,
            (float(item.state.position[0]), float(item.state.position[1]), float(item.state.position[2])),
        )
        for item in sorted(truth.observe(world), key=lambda item: item.stack_index)
    }


def _filled(polygon: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    cv2.fillPoly(mask, [polygon], 1)
    return mask > 0


def _under(model: mujoco.MjModel, body: int, root: int) -> bool:
    while body != 0 and body != root:
        body = int(model.body_parentid[body])
    return body == root
