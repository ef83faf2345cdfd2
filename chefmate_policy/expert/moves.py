# SPDX-License-Identifier: Apache-2.0
"""The expert's moves as joint segments: grasp a standing slice, carry it, lay it flat, stand it back, get out
of the way.

All lengths in m, angles in rad. A slice is held with its lower face on the fixed finger (z = 0 of the
gripper's frame) and its upper part between the jaws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.expert.kinematics import PAN_AXIS, Kinematics, UnreachableError
from chefmate_policy.expert.motion import Segment, segment
from chefmate_policy.expert.observation import SceneObject, rotation_of

__all__ = ["AROUND", "IN_LINE", "NEAR", "READY", "SPARE", "Hold", "Moves", "closed_on", "slice_axes"]

Array = NDArray[np.float64]

READY = np.array(
    [0.0, -0.954, 0.505, 1.060, 0.048, 0.30]
)  # rad, high and near: the camera sees tray and plate
OPEN = 0.50  # rad, 50 mm between the jaws
RELEASED = 0.42
OVERLAP = 0.016  # m of slice between the jaws, before the frame's origin; the finger goes 6 mm farther
GAP = 0.003  # m between the fixed finger and the slice while sliding in
APPROACH = 0.045  # m, straight way before a grasp
LIFT = 0.055  # m, straight way out of a slot
LIFTED = 0.075  # m, height of a gripper whose slice is out of its slot
# Approach over the plate: the far edge lands first, the knuckles clear the rim. Steeper than 26 degrees a
# slice slides off by itself when the jaw opens (its friction on the finger is 0.5), so the flattest that the
# arm can reach is taken.
LAY_DIPS = tuple(np.radians((25.0, 28.0, 31.0, 35.0)))
LAY_ABOVE = 0.035  # m above the plate or stack, before lowering
# m that a slice is laid too far: drawing the finger from under it takes it back (mean, measured in the twin)
DRAG = 0.001
CARRY = (0.200, 0.160, np.radians(35.0))  # radius from the pan axis, height, dip: above all that stands
RETREAT = 0.060
NEAREST = 0.19  # m from the pan axis: nearer, nothing stands
# Tipping an upright slice back into its slot with shut jaws: the steepest dip that the arm can reach is
# taken.
TIP_DIPS = tuple(np.radians((65.0, 55.0, 45.0, 35.0)))
TIP_CLEAR = 0.018  # m between the tip and the slice on the way down behind it
TIP_DEPTH = 0.014  # m of the tip below the slice's top
TIP_PULL = 0.055  # m; past the vertical the slice falls by itself
SHUT = -0.10  # rad
WEIGH = 0.30  # s at rest after lifting: the slice's place in the jaws is measured then
FOLDED = -1.35  # rad of shoulder_lift: below, the upper arm leans back and the gripper is in nobody's way
# On the way to a slice or to its place on the plate: an arm that is there goes on, and does not begin anew.
AROUND, IN_LINE, NEAR = "around", "in line", "near"
SKEWED = 0.30  # rad between the approach and the way
ASIDE = 0.010  # m beside the slice's middle, or its place, that the way there still mends
AT = 0.008  # m along the slice from the place of the grasp that are there
BEHIND = 0.005  # m beyond that place from where the jaws still back off straight
FUNNEL = 0.4  # m beside the way per m from the slice
OVER = 0.06  # m beside its place from where a held slice is brought above it without rising first
SAGGED = 0.015  # m that a slice which touches already lets the gripper come too low
SPARE = PAN_AXIS + 0.24 * np.array([np.cos(-1.25), np.sin(-1.25)])  # m, free table right of the tray


@dataclass(frozen=True)
class Hold:
    """How a slice sits in the jaws: its centre [3] in the gripper's frame."""

    centre: Array


def slice_axes(item: SceneObject) -> tuple[Array, Array]:
    """Up-along direction and upper normal of a standing slice, unit vectors [3] in base_link.

    Along is the in-plane axis that points up most, normal the face's side that points up.
    """
    rotation = rotation_of(item.quaternion)
    normal = rotation[:, 2] * (1.0 if rotation[2, 2] >= 0 else -1.0)
    candidates = [rotation[:, 0], -rotation[:, 0], rotation[:, 1], -rotation[:, 1]]
    return max(candidates, key=lambda axis: float(axis[2])), normal


def _grip(item: SceneObject) -> tuple[Array, Array, Array, float]:
    """Along and normal of a standing slice, where on its lower face the fixed finger grips, and the dip of
    the approach."""
    along, normal = slice_axes(item)
    face = item.position + along * (item.size[0] / 2 - OVERLAP) - normal * (item.size[2] / 2)
    return along, normal, face, float(np.arcsin(np.clip(along[2], -1.0, 1.0)))


def closed_on(thickness: float) -> float:
    """Gripper goal (rad) that squeezes a slice: 0.12 rad beyond where the jaw touches it.

    The jaw's pad is 15.8 mm from the fixed finger at 0 rad and moves 80 mm per rad (from the jaw's mesh).
    """
    return max((thickness - 0.0158) / 0.080 - 0.12, -0.17)


class Moves:
    """Builds segments that start where the previous one ends. All raise UnreachableError."""

    def __init__(self, kinematics: Kinematics) -> None:
        self.kinematics = kinematics

    def grasp(self, start: Array, item: SceneObject) -> list[Segment]:
        """From the open, above the table, or from before the slice, to the slice held and lifted out of its
        slot."""
        along, normal, face, dip = _grip(item)
        low = face - normal * GAP
        before_at = low + along * APPROACH
        before = self._pose(before_at, dip, OPEN)
        way_in = self._line(before_at, low, dip, OPEN, before)
        grip = closed_on(item.size[2])
        held = self._pose(face + normal * 0.0003, dip, grip, way_in[-1])
        way_out = self._line(face, face + along * LIFT, dip, grip, held)
        lifted = [segment("lift", [held, *way_out[1:]], 1.15), self.dwell(way_out[-1])]
        where = self.before(start, item)
        if where == AROUND:
            return [segment("close", [start, held], 1.0, 0.55), *lifted]
        if where == IN_LINE:
            position, _ = self.kinematics.forward(start)
            seed = np.append(start[:5], OPEN)
            way_in = [start, *self._line(position, low, dip, OPEN, seed)[1:]]
        reach = [start, before] if where else [start, self._over(before_at, OPEN, before), before]
        return [
            *([] if where == IN_LINE else [segment("reach", reach)]),
            segment("descend", way_in, 1.15),
            segment("close", [way_in[-1], held], 1.0, 0.55),
            *lifted,
        ]

    def before(self, joints: Array, item: SceneObject) -> str:
        """Where the jaws are on their way to a slice: AROUND it, open and IN_LINE with it, NEAR enough to get
        in line without leaving; "" elsewhere."""
        position, rotation = self.kinematics.forward(joints)
        along, normal, face, _ = _grip(item)
        gap = position - face
        ahead, off, aside = (float(gap @ axis) for axis in (along, normal, np.cross(normal, along)))
        if float(-rotation[:, 0] @ along) < np.cos(SKEWED):
            return ""
        below = -2 * GAP < off < GAP / 2 and abs(aside) < ASIDE  # the fixed finger, of the slice
        if below and abs(ahead) < AT:
            return AROUND
        is_open = joints[5] > OPEN - 0.1
        if below and is_open and off < 0.0 < ahead < APPROACH:
            return IN_LINE
        nearest = (0.0 if is_open else APPROACH) - BEHIND  # shut jaws open before they are there
        if nearest < ahead < 2 * APPROACH and np.hypot(off, aside) < AT + FUNNEL * max(ahead, 0.0):
            return NEAR
        return ""

    def graspable(self, item: SceneObject) -> bool:
        """True for a slice that leans towards the robot, steeply enough to be gripped as it would be in a
        slot."""
        along, normal = slice_axes(item)
        azimuth = self.azimuth(item.position)
        outwards = float(normal[0] * np.cos(azimuth) + normal[1] * np.sin(azimuth))
        return bool(0.35 < along[2] < 0.94 and outwards > 0.9 * np.hypot(normal[0], normal[1]))

    def upright(self, item: SceneObject) -> bool:
        """True for a slice on its edge that cannot be gripped: it stands upright, or leans away."""
        along, _ = slice_axes(item)
        return bool(along[2] > 0.6 and not self.graspable(item))

    def tip_over(self, start: Array, item: SceneObject) -> list[Segment]:
        """Pulls the top of an upright slice towards the robot with shut jaws; it leans back in its slot."""
        for dip in TIP_DIPS[:-1]:
            try:
                return self._tip_over(start, item, dip)
            except UnreachableError:
                continue
        return self._tip_over(start, item, TIP_DIPS[-1])

    def _tip_over(self, start: Array, item: SceneObject, dip: float) -> list[Segment]:
        along, _ = slice_axes(item)
        azimuth = self.azimuth(item.position)
        out = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        top = item.position + along * (item.size[0] / 2)
        behind = top + out * (item.size[2] + TIP_CLEAR) - up * TIP_DEPTH
        above = behind + up * (TIP_DEPTH + TIP_CLEAR)
        first = self._pose(above, dip, SHUT, self._over(above, SHUT, start))
        down = self._line(above, behind, dip, SHUT, first)
        pull = self._line(behind, behind - out * TIP_PULL, dip, SHUT, down[-1])
        rise = self._line(behind - out * TIP_PULL, above - out * TIP_PULL, dip, SHUT, pull[-1])
        over = self._over(above, SHUT, rise[-1])
        return [
            segment("reach", [start, self._over(above, SHUT, start), first]),
            segment("nudge", down, 1.15),
            segment("nudge", pull, 1.3),
            segment("retreat", [*rise, over]),
            self.dwell(over),
        ]

    def lay(self, start: Array, centre: Array, top: float, hold: Hold, item: SceneObject) -> list[Segment]:
        """Carries a lifted slice over and lays it flat with its centre over `centre` [2], on a surface at
        height `top`."""
        for dip in LAY_DIPS[:-1]:
            try:
                return self._lay(start, centre, top, hold, item, dip)
            except UnreachableError:
                continue
        return self._lay(start, centre, top, hold, item, LAY_DIPS[-1])

    def _site(
        self, centre: Array, top: float, hold: Hold, item: SceneObject, dip: float
    ) -> tuple[Array, Array]:
        """Where the gripper is when a slice lies over `centre`, and its approach there."""
        azimuth = self.azimuth(centre)
        out = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        left = np.array([-out[1], out[0], 0.0])
        up = np.array([0.0, 0.0, 1.0])
        length, thickness = item.size[0], item.size[2]
        approach = np.cos(dip) * out - np.sin(dip) * up
        normal = np.sin(dip) * out + np.cos(dip) * up
        edge = np.array([*centre[:2], top + 0.0015]) + out * (length / 2 + DRAG)
        slip = np.clip(hold.centre, (0.0, -0.012, 0.0), (0.04, 0.012, 0.02))
        site = edge - approach * (slip[0] + length / 2) - normal * (slip[2] - thickness / 2) - left * slip[1]
        return site, approach

    def _lay(
        self, start: Array, centre: Array, top: float, hold: Hold, item: SceneObject, dip: float
    ) -> list[Segment]:
        site, approach = self._site(centre, top, hold, item, dip)
        up = np.array([0.0, 0.0, 1.0])
        grip = start[5]
        where = self._above(start, site, approach)
        if where == IN_LINE:
            down = [start, *self._line(self.kinematics.forward(start)[0], site, dip, grip, start)[1:]]
            carried = []
        else:
            above = self._pose(site + up * LAY_ABOVE, dip, grip, self._over(centre, grip, start))
            down = self._line(site + up * LAY_ABOVE, site, dip, grip, above)
            way = [start, above] if where else [start, self._raised(start), above]
            carried = [segment("carry", way)]
        opened = down[-1].copy()
        opened[5] = RELEASED
        back = self._line(site, site - approach * RETREAT, dip, RELEASED, opened)
        return [
            *carried,
            segment("lay", down, 1.2),
            segment("release", [down[-1], opened], 1.0, 0.55),
            segment("retreat", [opened, *back[1:]]),
            segment("ready", [back[-1], READY]),
        ]

    def on_way_down(self, joints: Array, centre: Array, top: float, hold: Hold, item: SceneObject) -> bool:
        """True where a held slice is above its place already, so that `lay` goes straight down."""
        return any(self._above(joints, *self._site(centre, top, hold, item, dip)) for dip in LAY_DIPS)

    def _above(self, joints: Array, site: Array, approach: Array) -> str:
        """Where a held slice is on its way down to its place: IN_LINE or NEAR; "" elsewhere."""
        position, rotation = self.kinematics.forward(joints)
        off = position - site
        beside = float(np.linalg.norm(off[:2]))
        if float(rotation[:, 0] @ approach) < np.cos(SKEWED) or off[2] < -SAGGED:
            return ""
        if beside < ASIDE and off[2] < LAY_ABOVE + ASIDE:
            return IN_LINE
        return NEAR if off[2] > LAY_ABOVE / 2 and beside < OVER else ""

    def bring_back(self, start: Array, home: SceneObject, hold: Hold) -> list[Segment]:
        """Carries a lifted slice to above the slot in which `home` stood, and waits to be looked at."""
        site, dip, along, _ = self._home_site(home, hold)
        over = self._over(site, start[5], start)
        above = self._pose(site + along * LIFT, dip, start[5], over)
        return [segment("bring back", [start, self._raised(start), over, above]), self.dwell(above)]

    def stand_back(self, start: Array, home: SceneObject, hold: Hold) -> list[Segment]:
        """From where `bring_back` ends: lets the slice down into its slot, opens and leaves."""
        site, dip, along, normal = self._home_site(home, hold)
        down = self._line(site + along * LIFT, site, dip, start[5], start)
        opened = down[-1].copy()
        opened[5] = OPEN
        away = self._line(site - normal * 0.002, site - normal * 0.002 + along * APPROACH, dip, OPEN, opened)
        return [
            segment("put back", [start, down[0]], 1.5),
            segment("put back", down, 1.3),
            segment("release", [down[-1], opened], 1.0, 0.5),
            segment("retreat", [opened, *away], 1.2),
            segment("ready", [away[-1], self._over(site, READY[5], away[-1]), READY]),
        ]

    def is_above(self, joints: Array, home: SceneObject, hold: Hold) -> bool:
        """True where `bring_back` has brought a slice: within 15 mm of the start of the way into its slot."""
        site, _, along, _ = self._home_site(home, hold)
        position, _ = self.kinematics.forward(joints)
        return bool(np.linalg.norm(position - site - along * LIFT) < 0.015)

    def squeeze(self, start: Array, item: SceneObject) -> list[Segment]:
        """Closes jaws that hold a slice loosely."""
        grip = closed_on(item.size[2])
        if start[5] < grip + 0.03:
            return []
        closed = start.copy()
        closed[5] = grip
        return [segment("close", [start, closed])]

    @staticmethod
    def dwell(joints: Array) -> Segment:
        """A rest, so that what is in the jaws can be measured."""
        return Segment("weigh", np.stack([joints, joints]), WEIGH)

    @staticmethod
    def _home_site(home: SceneObject, hold: Hold) -> tuple[Array, float, Array, Array]:
        """Gripper position that puts a held slice where `home` was; dip; along and normal of that slice."""
        along, normal = slice_axes(home)
        dip = float(np.arcsin(np.clip(along[2], -1.0, 1.0)))
        sideways = np.cross(normal, -along)
        centre = home.position + along * 0.001 + normal * 0.0015
        site = centre + along * hold.centre[0] - sideways * hold.centre[1] - normal * hold.centre[2]
        return site, dip, along, normal

    def escape(self, start: Array, opening: float | None) -> list[Segment]:
        """Out of whatever the jaws are at, backwards along the approach, and up to the carry height.

        opening: gripper goal (rad) to take first, None: keep the grip.
        """
        position, rotation = self.kinematics.forward(start)
        parts: list[Segment] = []
        here = start
        if opening is not None and abs(start[5] - opening) > 0.05:
            here = start.copy()
            here[5] = opening
            parts.append(segment("release", [start, here]))
        if not self.low(start):
            return parts
        dip = float(np.arctan2(-rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0])))
        back = position - rotation[:, 0] * LIFT
        lifted = opening is None and position[2] > LIFTED
        if dip > np.radians(10.0) and not lifted:
            try:
                line = self._line(position, back, dip, here[5], here)
            except UnreachableError:  # too near the base to back off: fold up instead
                return [*parts, *self.ready(here)]
            parts.append(segment("retreat", [here, *line[1:]], 1.2))
            here = line[-1]
        up = self._over(position if lifted else back, here[5], here)
        parts.append(segment("carry" if lifted else "retreat", [here, up]))
        return parts

    def ready(self, start: Array) -> list[Segment]:
        """Straight to the ready pose, from above the table."""
        return [segment("ready", [start, READY])]

    def folded(self, joints: Array) -> bool:
        """True where the arm is ready or folded back at rest: in nobody's way."""
        ready = bool(np.max(np.abs(joints[:5] - READY[:5])) < 0.06)
        return ready or bool(joints[1] < FOLDED)

    def low(self, joints: Array) -> bool:
        """True where the fingers are among the slices: below the carry height and as far out as plate and
        tray."""
        position, _ = self.kinematics.forward(joints)
        radius = float(np.linalg.norm(position[:2] - PAN_AXIS))
        return bool(position[2] < CARRY[1] - 0.02 and radius > NEAREST and joints[1] >= FOLDED)

    def hold_of(self, joints: Array, item: SceneObject) -> Hold:
        """Where the slice is in the gripper's frame, from joint angles [6] and its pose at the same time."""
        position, rotation = self.kinematics.forward(joints)
        return Hold(rotation.T @ (item.position - position))

    @staticmethod
    def nominal_hold(item: SceneObject) -> Hold:
        """Where a slice sits after a grasp that went as planned."""
        return Hold(np.array([item.size[0] / 2 - OVERLAP, 0.0, item.size[2] / 2]))

    @staticmethod
    def azimuth(position: Array) -> float:
        """Angle (rad) about the pan axis of a position [2 or 3] in base_link; + is left."""
        return float(np.arctan2(position[1] - PAN_AXIS[1], position[0] - PAN_AXIS[0]))

    def _over(self, position: Array, grip: float, seed: Array) -> Array:
        """The carry pose at the azimuth of a position."""
        azimuth = self.azimuth(position)
        radius, height, dip = CARRY
        flat = PAN_AXIS + radius * np.array([np.cos(azimuth), np.sin(azimuth)])
        return self._pose(np.array([*flat, height]), dip, grip, seed)

    def _raised(self, joints: Array) -> Array:
        """The carry pose above where the arm is."""
        position, _ = self.kinematics.forward(joints)
        return self._over(position, joints[5], joints)

    def _pose(self, position: Array, dip: float, grip: float, seed: Any = None) -> Array:
        return np.append(self.kinematics.inverse(position, dip, seed=seed), grip)

    def _line(self, start: Array, end: Array, dip: float, grip: float, seed: Array) -> list[Array]:
        poses: list[Array] = []
        for share in np.linspace(0.0, 1.0, 6):
            seed = self._pose(start + share * (end - start), dip, grip, seed)
            poses.append(seed)
        return poses
