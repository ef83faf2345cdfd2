# SPDX-License-Identifier: Apache-2.0
"""What the twin's truth sees of one trial, whether its physics run here in lockstep or in another process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chefmate_driver.kitchen import truth
from chefmate_driver.kitchen.world import World
from chefmate_policy.expert.kinematics import Kinematics
from chefmate_policy.obedience.trial import Moved, Outcome, Trial

__all__ = ["Judge", "Limits"]

REACHED = 0.04  # m from the gripper's frame to a slice's middle
STILL_TOUCHING = 0.3  # s after a change of the instruction in which a touch belongs to what was before


@dataclass(frozen=True)
class Limits:
    """How long trials last, s. settle: after the named slice lies on the plate; idle: where nothing is to be
    done; done: after a policy said that it has nothing left to do."""

    pick: float = 25.0
    idle: float = 10.0
    settle: float = 1.0
    done: float = 0.5


class Judge:
    """Watches a world from the first instruction on. Times are s of the twin since then."""

    def __init__(self, world: World, kinematics: Kinematics, trial: Trial, limits: Limits) -> None:
        """The world stands as the trial begins. kinematics: of the arm, for what is reached."""
        self._world, self._kinematics, self._trial, self._limits = world, kinematics, trial, limits
        self._before = truth.places(world)
        self._contacts: dict[str, float] = {}  # slice -> s
        self._before_change: set[str] = set()
        self._changed_at = 0.0
        self._grasped: dict[str, None] = {}
        self._reached = ""
        self._lies_since = -1.0

    @property
    def ends(self) -> float:
        """s, when the trial is over whatever happened."""
        limits = self._limits
        return self._trial.asks[-1][0] + (limits.pick if self._trial.last.target else limits.idle)

    def said(self, now: float) -> None:
        """An instruction is in force from now on."""
        self._before_change = set(self._contacts)
        self._changed_at, self._lies_since = now, -1.0

    def note_touches(self, now: float) -> None:
        """Takes over what the world has noted."""
        for name in self._world.touched:
            if name not in self._contacts:
                self._contacts[name] = now
                if now - self._changed_at < STILL_TOUCHING:
                    self._before_change.add(name)

    def look(self, now: float) -> bool:
        """Looks at what is held, reached and laid down, some 20 times a second; True when the trial is over:
        a slice was carried onto the plate, and stayed."""
        world = self._world
        self.note_touches(now)
        for name, jaws in world.jaw_contacts().items():
            if len(jaws) == 2 and world.slot_of(name) is None:
                self._grasped[world.config.instances[name]] = None
        if not self._reached:
            position, _ = self._kinematics.forward(world.joint_positions)
            gaps = [(float(np.linalg.norm(item.position - position)), item) for item in world.objects()]
            nearest = min(gaps, key=lambda gap: gap[0], default=None)
            if nearest is not None and nearest[0] < REACHED:
                self._reached = nearest[1].ingredient
        return self._laid_down(now)

    def _laid_down(self, now: float) -> bool:
        if not self._grasped or not self._trial.last.target:
            return False
        lies = any(
            item.place == truth.PLATE
            and item.released
            and (item.place, item.slot) != self._before[item.state.name]
            for item in truth.observe(self._world)
        )
        self._lies_since = (now if self._lies_since < 0 else self._lies_since) if lies else -1.0
        return lies and now - self._lies_since > self._limits.settle

    def outcome(self, now: float, chunks: int, latency: float, state: str) -> Outcome:
        """What came of it. chunks, latency (s), state: of the policy, as in `Outcome`."""
        kinds = self._world.config.instances
        moved = []
        for item in truth.observe(self._world):
            if (item.place, item.slot) == self._before[item.state.name]:
                continue
            moved.append(Moved(item.state.ingredient, item.place, item.laid))
        contacts = tuple((name, kinds[name], round(when, 2)) for name, when in self._contacts.items())
        return Outcome(
            self._trial.number,
            contacts=tuple((kind, when) for _, kind, when in contacts),
            after_change=tuple(
                (kind, when) for name, kind, when in contacts if name not in self._before_change
            ),
            grasped=tuple(self._grasped),
            moved=tuple(moved),
            reached=self._reached,
            seconds=round(now, 2),
            chunks=chunks,
            latency=latency,
            state=state,
        )
