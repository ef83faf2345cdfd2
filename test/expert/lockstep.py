# SPDX-License-Identifier: Apache-2.0
"""Physics and expert in lockstep, without ROS: for development and tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from chefmate.demonstrations import seen_by_expert
from chefmate_driver.arm.safety import Limits, SafetyFilter
from chefmate_driver.kitchen.world import World
from chefmate_policy.expert.observation import Place, Plan, SceneObject
from chefmate_policy.expert.skill import Expert

GOAL_PERIOD = 0.01  # s, the arm node's cycle
LIMITS = Limits(  # the arm node's, config/arm.yaml
    lower=np.array([-1.91986, -1.74533, -1.69, -1.65806, -2.74385, -0.174533]),
    upper=np.array([1.91986, 1.74533, 1.69, 1.65806, 2.84121, 1.74533]),
    velocity=np.array([2.0, 2.0, 2.5, 3.0, 4.0, 4.0]),
    acceleration=np.array([10.0, 10.0, 12.0, 20.0, 30.0, 40.0]),
    floor=0.005,
)


@dataclass
class Observed:
    """What one act sees."""

    positions: np.ndarray
    velocities: np.ndarray
    objects: list[SceneObject]


class Holds:
    """Holds for want of fresh frames, as a machine with too few cores has them: at random moments, `every` s
    apart in the mean, for 0.2 to 0.5 s each."""

    def __init__(self, seed: int, every: float) -> None:
        self._random = np.random.default_rng(seed)
        self._every = every
        self._next = float("nan")
        self.count = 0

    def due(self, now: float) -> int:
        """Cycles of this tick (of 10) before the arm is held; 10: it is not."""
        if not self._next < now + 10.0 * self._every:  # the first one, or the world began anew
            self._next = now + self._random.exponential(self._every)
        if self._next > now + 0.1:
            return 10
        return max(0, min(9, int((self._next - now) / GOAL_PERIOD)))

    def seconds(self) -> float:
        """s that this hold takes; the next one is drawn."""
        self.count += 1
        length = float(self._random.uniform(0.2, 0.5))
        self._next += length + self._random.exponential(self._every)
        return length


@dataclass
class Lockstep:
    """A world driven by an expert at 10 Hz; joint goals are interpolated linearly at 100 Hz. delay: s, of
    what it sees."""

    world: World = field(default_factory=World)
    expert: Expert = field(default_factory=Expert)
    delay: float = 0.0
    speed_override: float = 1.0
    number: int = 0
    on_tick: Callable[[Lockstep, Plan], None] | None = None
    on_cycle: Callable[[Lockstep], None] | None = None
    holds: Holds | None = None

    def __post_init__(self) -> None:
        self._seen: deque[Observed] = deque(maxlen=max(1, 1 + round(self.delay / 0.1)))
        self._goal = self.world.joint_positions
        self._filter = SafetyFilter(LIMITS)
        self._filter.speed_override = self.speed_override
        self._filter.reset(self._goal)

    def reset(self, seed: int, slots: list[str] | None = None) -> None:
        """New layout; the arm at rest."""
        self.world.set_arm((0.0, -1.55, 1.45, 0.75, 0.0, 0.0))
        self.world.reset(seed, slots)
        self.expert.reset()
        self.__post_init__()

    def run(
        self, instruction: str, timeout: float = 25.0, until: Callable[[Plan], bool] | None = None
    ) -> float:
        """Gives a new instruction and goes on until it is done; the seconds, or -1 when out of time."""
        self.number += 1
        begin = self.world.time
        while self.world.time - begin < timeout:
            plan = self.tick(instruction)
            if plan.done or (until is not None and until(plan)):
                return self.world.time - begin
        return -1.0

    def tick(self, instruction: str) -> Plan:
        """One act and 0.1 s of motion along its plan."""
        self._seen.append(observe(self.world))
        seen = self._seen[0]
        plate, tray = Place(*self.world.plate_pose()), Place(*self.world.tray_pose())
        plan = self.expert.act(
            seen.positions,
            seen.velocities,
            seen.objects,
            plate,
            tray,
            instruction,
            self.world.time,
            self.number,
        )
        times = np.concatenate([[0.0], plan.times])
        points = np.vstack([self._goal, plan.positions])
        steps = round(GOAL_PERIOD / self.world.config.timestep)
        held_from = self.holds.due(self.world.time) if self.holds is not None else 10
        for cycle in range(1, held_from + 1):
            wanted = np.array([np.interp(cycle * GOAL_PERIOD, times, column) for column in points.T])
            self._goal = self._filter.step(wanted, GOAL_PERIOD)
            self.world.set_joint_targets(self._goal)
            self.world.step(steps)
            if self.on_cycle is not None:
                self.on_cycle(self)
        if self.holds is not None and held_from < 10:
            self.hold(self.holds.seconds())
        if self.on_tick is not None:
            self.on_tick(self, plan)
        return plan

    def hold(self, seconds: float) -> None:
        """As the arm does when the policy says HOLDING: brakes, and nobody asks the expert meanwhile."""
        cycles = round(seconds / GOAL_PERIOD)
        for cycle in range(cycles):
            if cycle == cycles - 10:
                self._seen.append(observe(self.world))
            self._goal = self._filter.brake(GOAL_PERIOD)
            self.world.set_joint_targets(self._goal)
            self.world.step(round(GOAL_PERIOD / self.world.config.timestep))
            if self.on_cycle is not None:
                self.on_cycle(self)


def observe(world: World) -> Observed:
    """The privileged observation, as the twin's node publishes it."""
    return Observed(world.joint_positions, world.joint_velocities, seen_by_expert(world))
