# SPDX-License-Identifier: Apache-2.0
"""Expert and twin in lockstep, without DDS: one demonstration from one scene and one instruction.

Physics advances exactly, so the same scene and variant give the same numbers whatever ran before, in
whichever process. `chefmate_driver.kitchen.render.import_mujoco` must have chosen the renderer before this
module is imported: MuJoCo looks once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import mujoco
import numpy as np
import yaml
from numpy.typing import NDArray

from chefmate_driver.arm.model import LOWER, UPPER
from chefmate_driver.arm.safety import Limits, SafetyFilter
from chefmate_driver.kitchen import truth
from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_driver.kitchen.render import KitchenRenderer
from chefmate_driver.kitchen.world import World
from chefmate_policy.data.phrasings import Sentence
from chefmate_policy.data.variants import Kick, Scene, Variant
from chefmate_policy.expert.kinematics import Kinematics
from chefmate_policy.expert.observation import Place, Plan, SceneObject
from chefmate_policy.expert.skill import Expert
from chefmate_ros.share import share_file

__all__ = ["CAMERAS", "Demonstration", "Studio", "Taken", "arm_limits", "seen_by_expert"]

CAMERAS = ("scene", "wrist")
CYCLE = 0.01  # s, the arm node's (config/arm.yaml: rate)
ACT_PERIOD = 0.1  # s, the expert looks ten times a second
SETTLING = 0.4  # s of physics before the first frame: slices come to rest
STAY = 0.5  # s that are recorded after the expert is done, unless another slice of the named kind is left
IDLE_SECONDS = 3.0  # s, at least, of an episode in which nothing is to be done
PATIENCE = {"pick": 25.0, "idle": 12.0, "switch": 40.0}  # s until an episode has failed
TAKEOVER = 0.6  # s in which the expert stops what a policy drove and looks; it would teach to stop there
SUPERSAMPLING = 2  # pictures are drawn this much larger than wanted, as cameras have more pixels than models

Array = NDArray[np.float64]
Pictures = dict[str, list[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Demonstration:
    """One episode at the studio's rate. states, actions: [frames, 6] rad; action k is the joint target in
    force when frame k was taken. phases: (name, first frame). failure: why it must not be learnt from; ""."""

    states: Array
    actions: Array
    pictures: Pictures
    failure: str
    touched: tuple[str, ...]
    phases: tuple[tuple[str, int], ...]


@dataclass
class Taken:
    """Frames so far."""

    states: list[Array] = field(default_factory=list)
    actions: list[Array] = field(default_factory=list)
    pictures: Pictures = field(default_factory=dict)
    phases: list[tuple[str, int]] = field(default_factory=list)


class StoppedError(Exception):
    """The work is to stop."""


class Studio:
    """A twin with an expert, and a renderer for each camera. Belongs to one thread."""

    def __init__(
        self,
        config: KitchenConfig | None = None,
        *,
        fps: int = 10,
        size: tuple[int, int] = (96, 96),
        pictures: bool = True,
    ) -> None:
        """fps divides 100; size: width and height, pixels. Raises KitchenError: no graphics."""
        cv2.setNumThreads(1)
        self.config = config or KitchenConfig.load()
        self.world = World(self.config)
        self.fps, self.size = fps, size
        self.kinematics = Kinematics()
        self.safety = SafetyFilter(arm_limits())
        self.steps = round(CYCLE / self.config.timestep)
        self._renderers: dict[str, KitchenRenderer] = {}
        drawn = _drawn_size(self.config, size)
        if pictures:
            self._renderers = {name: KitchenRenderer(self.world.model, name, *drawn) for name in CAMERAS}
        self._canvas = np.zeros((drawn[1], drawn[0], 3), dtype=np.uint8)
        self._eyes: dict[str, KitchenRenderer] = {}
        self.lead: Callable[[str, float, int], None] | None = None
        """Drives before a recording: instruction, s, seed. For variants that are to be driven."""

    def close(self) -> None:
        """Frees the graphics contexts."""
        for renderer in (*self._renderers.values(), *self._eyes.values()):
            renderer.close()
        self._renderers.clear()
        self._eyes.clear()

    def arrange(self, scene: Scene) -> None:
        """Puts everything where the scene has it; nothing is left of what was before."""
        world = self.world
        mujoco.mj_resetData(world.model, world.data)
        world.set_arm(scene.start)
        world.reset(scene.layout, list(scene.slots))
        for kind in scene.plate:
            free = (name for name, its in self.config.instances.items() if its == kind)
            world.place(next(name for name in free if name not in world.present), "plate")
        world.step(round(SETTLING / CYCLE) * self.steps)

    def record(
        self, scene: Scene, variant: Variant, stopped: Callable[[], bool] = lambda: False
    ) -> Demonstration:
        """One episode. Raises StoppedError when `stopped` says so."""
        self.arrange(scene)
        if self.world.touched:
            return _nothing(f"the arm starts in contact with {self.world.touched[0]}")
        before = truth.places(self.world)
        if variant.driven:
            if self.lead is None:
                raise ValueError("the variant is to be driven, and no policy is there to drive")
            self.lead(variant.sentence.text, variant.driven, scene.layout + variant.number)
        run = _Run(self, variant, stopped)
        if variant.driven:
            run.obey(variant.sentence.text, TAKEOVER, None)
        if variant.prelude:
            run.obey(variant.prelude, variant.prelude_seconds, None)
        taken = Taken(pictures={name: [] for name in self._renderers})
        kind = "switch" if variant.prelude else "pick" if variant.ingredient else "idle"
        failure = run.demonstrate(taken, PATIENCE[kind]) or self._judge(variant, before)
        return Demonstration(
            np.array(taken.states),
            np.array(taken.actions),
            taken.pictures,
            failure,
            tuple(self.world.touched),
            tuple(taken.phases),
        )

    def opening(self, scene: Scene, text: str, seconds: float) -> Demonstration:
        """How the expert begins under an instruction: the first seconds, not judged."""
        self.arrange(scene)
        variant = Variant(0, "pick", "", Sentence(text))
        taken = Taken(pictures={name: [] for name in self._renderers})
        _Run(self, variant, lambda: False).obey(text, seconds, taken)
        return Demonstration(
            np.array(taken.states), np.array(taken.actions), taken.pictures, "", (), tuple(taken.phases)
        )

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """[height, width, 3] RGB of each camera, now."""
        found = {}
        for name, renderer in self._renderers.items():
            renderer.render(self.world.data.qpos, self._canvas)
            if self._canvas.shape[1::-1] == self.size:
                found[name] = self._canvas.copy()
            else:
                small = cv2.resize(self._canvas, self.size, interpolation=cv2.INTER_AREA)
                found[name] = np.asarray(small, dtype=np.uint8)
        return found

    def views(self) -> dict[str, NDArray[np.uint8]]:
        """[height, width, 3] RGB of each camera as a policy gets them, now."""
        width, height = self.config.width, self.config.height
        if not self._eyes:
            self._eyes = {name: KitchenRenderer(self.world.model, name, width, height) for name in CAMERAS}
        found = {name: np.zeros((height, width, 3), dtype=np.uint8) for name in CAMERAS}
        for name, renderer in self._eyes.items():
            renderer.render(self.world.data.qpos, found[name])
        return found

    def _judge(self, variant: Variant, before: dict[str, tuple[str, int]]) -> str:
        """Why the twin's truth does not agree with what was asked; "" when it does."""
        world = self.world
        now = {item.state.name: item for item in truth.observe(world)}
        moved = [name for name, item in now.items() if (item.place, item.slot) != before[name]]
        if not variant.ingredient:
            if world.touched and not variant.prelude and not variant.driven:
                return "touched something"
            return "moved something" if moved else ""
        named = [name for name in moved if now[name].state.ingredient == variant.ingredient]
        if len(moved) > len(named):
            return "disturbed another slice"
        if len(named) != 1:
            return "not placed"
        return "" if now[named[0]].laid else "not placed flat"


class _Run:
    """An episode in progress: expert, safety filter and physics, cycle by cycle."""

    def __init__(self, studio: Studio, variant: Variant, stopped: Callable[[], bool]) -> None:
        self._studio, self._variant, self._stopped = studio, variant, stopped
        self._world = studio.world
        self._expert = Expert(studio.kinematics)
        self._goal = self._world.joint_targets
        studio.safety.reset(self._goal)
        self._number = 0
        self._cycle = 0
        self._text = ""
        self._plan: Plan | None = None

    def obey(self, text: str, seconds: float, taken: Taken | None) -> None:
        """Follows an instruction for a time."""
        if text != self._text or not self._number:
            self._text, self._number = text, self._number + 1
        for _ in range(round(seconds / CYCLE / 10) * 10):
            self._advance(taken)

    def demonstrate(self, taken: Taken, patience: float) -> str:
        """Follows the variant's instruction until it is obeyed; "" or why it failed."""
        if self._variant.sentence.text != self._text or not self._number:
            self._text, self._number = self._variant.sentence.text, self._number + 1
        begin, done_at = self._cycle, -1
        least = 0.0 if self._variant.ingredient else IDLE_SECONDS
        self._plan = None
        while (self._cycle - begin) * CYCLE < patience:
            self._advance(taken, begin)
            assert self._plan is not None
            done_at = (self._cycle if done_at < 0 else done_at) if self._plan.done else -1
            spent = (self._cycle - begin) * CYCLE
            if done_at < 0 or spent < least:
                continue
            if (self._cycle - done_at) * CYCLE >= STAY or (self._cycle == done_at and self._another_stands()):
                return ""
        return "out of time"

    def _another_stands(self) -> bool:
        """Whether a slice of the named kind is left: one picture does not tell that end from a beginning."""
        kind = self._variant.ingredient
        seen = truth.observe(self._world)
        return any(item.place == "holder" and item.state.ingredient == kind for item in seen)

    def _advance(self, taken: Taken | None, begin: int = 0) -> None:
        """One cycle of the arm: look and plan where it is time, take a frame where it is time, move."""
        since = self._cycle - begin
        if since % round(ACT_PERIOD / CYCLE) == 0 or self._plan is None:
            if self._stopped():
                raise StoppedError
            self._act()
        assert self._plan is not None
        if taken is not None and since % round(1 / CYCLE / self._studio.fps) == 0:
            self._take(taken)
        moment = (self._cycle - self._planned_at + 1) * CYCLE
        wanted = np.array([np.interp(moment, self._times, column) for column in self._points.T])
        self._goal = self._studio.safety.step(wanted, CYCLE)
        kick = self._variant.kick
        pushed = np.zeros(6) if kick is None or taken is None else _push(kick, since * CYCLE)
        self._world.set_joint_targets((self._goal + pushed).tolist())
        self._world.step(self._studio.steps)
        self._cycle += 1

    def _act(self) -> None:
        world = self._world
        self._plan = self._expert.act(
            world.joint_positions,
            world.joint_velocities,
            seen_by_expert(world),
            Place(*world.plate_pose()),
            Place(*world.tray_pose()),
            self._text,
            world.time,
            self._number,
        )
        self._times = np.concatenate([[0.0], self._plan.times])
        self._points = np.vstack([self._goal, self._plan.positions])
        self._planned_at = self._cycle

    def _take(self, taken: Taken) -> None:
        assert self._plan is not None
        if not taken.phases or taken.phases[-1][0] != self._plan.phase:
            taken.phases.append((self._plan.phase, len(taken.states)))
        taken.states.append(self._world.joint_positions)
        taken.actions.append(self._goal.copy())
        for name, picture in self._studio.pictures().items():
            taken.pictures[name].append(picture)


def seen_by_expert(world: World) -> list[SceneObject]:
    """The privileged observation, as the twin's node publishes it."""
    return [
        SceneObject(
            item.state.name,
            item.state.ingredient,
            item.state.position,
            item.state.quaternion,
            item.state.size,
            item.place,
            item.slot,
        )
        for item in truth.observe(world)
    ]


def arm_limits() -> Limits:
    """The safety filter's limits as the arm node has them: config/arm.yaml."""
    raw: Any = yaml.safe_load(share_file("config", "arm.yaml").read_text(encoding="utf-8"))
    values = raw["/**"]["ros__parameters"]
    return Limits(
        lower=LOWER.copy(),
        upper=UPPER.copy(),
        velocity=np.array(values["velocity_limits"], dtype=np.float64),
        acceleration=np.array(values["acceleration_limits"], dtype=np.float64),
        floor=float(values["workspace_floor"]),
        clearance=float(values["self_clearance"]),
        self_collision=bool(values["self_collision"]),
    )


def _push(kick: Kick, time: float) -> Array:
    """The disturbance [6] rad of a moment: swells and fades smoothly."""
    share = (time - kick.start) / kick.duration
    if not 0.0 < share < 1.0:
        return np.zeros(6)
    return np.array(kick.offset) * np.sin(np.pi * share) ** 2


def _drawn_size(config: KitchenConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Pixels to draw for pictures of `size`: with the cameras' aspect, which other sizes squeeze, as the
    policy's preprocessing squeezes a camera's picture."""
    height = min(config.height, SUPERSAMPLING * size[1])
    return max(1, round(height * config.width / config.height)), height


def _nothing(failure: str) -> Demonstration:
    return Demonstration(np.zeros((0, 6)), np.zeros((0, 6)), {}, failure, (), ())
