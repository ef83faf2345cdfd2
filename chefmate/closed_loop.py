# SPDX-License-Identifier: Apache-2.0
"""Closed loop in the twin, in lockstep: policy, the node's scheduling, the arm's safety filter, physics.

No DDS: physics advances by what an inference is said to take while the model thinks. As for
`chefmate.demonstrations`, `chefmate_driver.kitchen.render.import_mujoco` must have chosen the renderer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chefmate.clocked import TICK, ClockedPolicy, Drive, Look, node_parameters
from chefmate.demonstrations import CAMERAS, Studio, seen_by_expert
from chefmate.judging import Judge, Limits
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_policy.expert.observation import Place
from chefmate_policy.inference.backend import Backend, BackendSettings, CameraFrame, Chunk, Observation
from chefmate_policy.inference.backend import create_backend as create
from chefmate_policy.inference.chunking import mode_of
from chefmate_policy.inference.session import DONE, FAULT
from chefmate_policy.obedience.trial import NODE, NULL, Ask, Outcome, Trial

__all__ = ["ClosedLoop", "Driver", "Limits"]

CAMERA_DELAY = 0.05  # s from a camera's stamp to the node (chefmate bench graph), where it is not measured
LOOK_EVERY = 5  # ticks between looks at what is held and reached
EMPTY = "(the empty instruction)"  # what the session is told in its place: to the node, "" is stop
UNSAID = "(the null prompt)"
MEASURED = 5  # inferences that tell the latency

Array = NDArray[np.float64]


class Driver:
    """A backend that drives a studio's arm. Belongs to one thread; `close` frees it."""

    def __init__(
        self,
        studio: Studio,
        backend: str,
        checkpoint: str = "",
        *,
        latency: float | None = None,
        options: Mapping[str, Any] | None = None,
        drive: Mapping[str, Any] | None = None,
    ) -> None:
        """latency: s from looking to the chunk; None: measured here. options: the backend's (`model.*`).
        drive: changes of the node's parameters (execution_horizon, lead, refill_margin, rate, chunking).

        Raises BackendError: it cannot be loaded.
        """
        self.studio = studio
        values = {**node_parameters(backend), **(drive or {})}
        settings = BackendSettings(
            JOINT_NAMES, CAMERAS, checkpoint, values["execution_horizon"], dict(options or {})
        )
        self.backend: Backend = create(backend, settings)
        self.backend.load()
        self.latencies: list[float] = []
        measured = [self.timed() for _ in range(MEASURED)] if latency is None else [latency]
        self.latency = statistics.median(measured)
        mode = mode_of(values["chunking"], self.backend)
        names = ("execution_horizon", "lead", "refill_margin", "rate", "blend_time")
        chosen = Drive(mode=mode, **{name: values[name] for name in names})
        self._policy = ClockedPolicy(self._infer, self._look, lambda: self.latency, chosen)
        self.now = 0.0

    def close(self) -> None:
        """Frees the backend."""
        self.backend.close()

    @property
    def state(self) -> str:
        """As in chefmate_msgs/PolicyStatus."""
        return self._policy.state

    @property
    def reason(self) -> str:
        """Why, where the state is HOLDING or FAULT."""
        return self._policy.reason

    @property
    def chunks(self) -> int:
        """Accepted since `begin`."""
        return len(self._policy.accepted)

    def begin(self, seed: int) -> None:
        """Starts anew in the scene that stands there; seed: of the model's noise."""
        torch.manual_seed(seed)
        reseed = getattr(self.backend, "reseed", None)
        if reseed is not None:
            reseed(seed)
        self.now = 0.0
        self.latencies.clear()
        goal = self.studio.world.joint_targets
        self.studio.safety.reset(goal)
        self._policy.begin(goal, 0.0)

    def say(self, text: str) -> None:
        """An instruction from now on; NULL is the null prompt, "" the empty one."""
        self._policy.instruct({"": EMPTY, NULL: UNSAID}.get(text, text), self.now)

    def stop(self) -> None:
        """The node's stop."""
        self._policy.instruct("", self.now)

    def lead(self, text: str, seconds: float, seed: int) -> None:
        """Drives for a while, for `Studio.lead`."""
        self.begin(seed)
        self.say(text)
        while self.now < seconds:
            self.tick()

    def tick(self) -> Array:
        """One cycle of the arm: decide, filter, move. (6,) rad, the goal that is in force then."""
        goal = self.studio.safety.step(self._policy.tick(self.now), TICK)
        world = self.studio.world
        world.set_joint_targets(goal.tolist())
        world.step(self.studio.steps)
        self.now += TICK
        return goal

    def _infer(self, observation: Observation) -> Chunk:
        words: str | None = observation.instruction
        words = {EMPTY: "", UNSAID: None}.get(observation.instruction, words)
        started = time.perf_counter()
        chunk = self.backend.infer(replace(observation, instruction=words))  # type: ignore[arg-type]
        self.latencies.append(time.perf_counter() - started)
        return chunk

    def _look(self, now: float) -> Look:
        world = self.studio.world
        images: dict[str, CameraFrame] = {}
        if self.backend.needs_images:
            pictures = self.studio.views()
            images = {name: CameraFrame(now, _given(pixels)) for name, pixels in pictures.items()}
        state = None
        if self.backend.needs_expert_state:
            state = (seen_by_expert(world), Place(*world.plate_pose()), Place(*world.tray_pose()))
        return Look(now, world.joint_positions, world.joint_velocities, images, state)

    def timed(self) -> float:
        """s from a camera's stamp to the chunk: of one inference on what the studio shows, measured here."""
        look = self._look(0.0)
        for frame in look.images.values():
            assert frame.pixels is not None
        given = (look.positions, look.positions, look.velocities, look.images, look.expert_state)
        observation = Observation("wait", 1, 0.0, {}, 0.0, 0.0, *given)
        started = time.perf_counter()
        self.backend.infer(observation)
        return time.perf_counter() - started + (CAMERA_DELAY if self.backend.needs_images else 0.0)


class ClosedLoop:
    """Runs trials with one policy. Belongs to one thread."""

    def __init__(
        self,
        backend: str,
        checkpoint: str = "",
        *,
        kitchen: KitchenConfig | None = None,
        limits: Limits | None = None,
        watch: Callable[[Driver, Trial], None] | None = None,
        **driver: Any,
    ) -> None:
        """watch: called every LOOK_EVERY ticks. driver: as for `Driver`.

        Raises BackendError, KitchenError.
        """
        self.limits, self._watch = limits or Limits(), watch
        self.studio = Studio(kitchen, pictures=False)
        try:
            self.driver = Driver(self.studio, backend, checkpoint, **driver)
        except BaseException:
            self.studio.close()
            raise

    def close(self) -> None:
        """Frees graphics and backend."""
        self.driver.close()
        self.studio.close()

    def run(self, trial: Trial) -> Outcome:
        """One trial, judged by the twin's truth."""
        studio, driver = self.studio, self.driver
        studio.arrange(trial.scene)
        if studio.world.touched:
            return Outcome(trial.number, fault=f"the arm starts in contact with {studio.world.touched[0]}")
        judge = Judge(studio.world, studio.kinematics, trial, self.limits)
        driver.begin(trial.noise_seed)
        asks, done_at, tick = list(trial.asks), -1.0, 0
        while driver.now < judge.ends:
            while asks and driver.now >= asks[0][0] - TICK / 10:
                judge.said(driver.now)
                self._say(asks.pop(0)[1])
            driver.tick()
            judge.note_touches(driver.now)
            if driver.state == FAULT:
                return Outcome(trial.number, fault=driver.reason)
            if tick % LOOK_EVERY == 0:
                if self._watch is not None:
                    self._watch(driver, trial)
                if judge.look(driver.now) and not asks:
                    break
            done_at = (done_at if done_at >= 0.0 else driver.now) if driver.state == DONE else -1.0
            if not asks and done_at >= 0.0 and driver.now - done_at > self.limits.done and trial.last.target:
                break
            tick += 1
        latency = statistics.median(driver.latencies) if driver.latencies else 0.0
        return judge.outcome(driver.now, driver.chunks, latency, driver.state)

    def _say(self, ask: Ask) -> None:
        if ask.to == NULL:
            self.driver.say(NULL)
        elif ask.to == NODE and not ask.text.strip():
            self.driver.stop()
        else:
            self.driver.say(ask.text)


def _given(pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
    return lambda: pixels
