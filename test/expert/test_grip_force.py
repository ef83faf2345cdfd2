# SPDX-License-Identifier: Apache-2.0
"""The gripper's lowered torque limit in the twin: what it lifted stays held, and is laid where it belongs."""

from __future__ import annotations

import numpy as np
from lockstep import GOAL_PERIOD, Lockstep

from chefmate_driver.arm.grip import GripForce
from chefmate_driver.arm.model import GRIPPER
from chefmate_driver.feetech.emulated_servo import AMBIENT, IDLE_CURRENT, STALL_CURRENT
from chefmate_driver.feetech.plant import STALL_TORQUE
from chefmate_driver.kitchen import truth

BREAD = "pick up the bread and put it into the white plate"
LOOK = 5  # cycles between readings of the law, as in the arm node


class LimitedGripper:
    """Puts the law between the twin's gripper and its torque limit: `world.step` is followed by a reading."""

    def __init__(self, lockstep: Lockstep) -> None:
        self.world, self.grip, self.limits, self._cycle = lockstep.world, GripForce(), [], 0
        self._most = [float(self.world.model.actuator(index).forcerange[1]) for index in range(6)]
        self._step = self.world.step
        self._apply()
        self.world.step = self.step  # type: ignore[method-assign]

    def step(self, count: int = 1) -> None:
        self._step(count)
        self._cycle += 1
        if self._cycle % LOOK == 0:
            load = float(self.world.joint_torques[GRIPPER]) / STALL_TORQUE
            self.grip.update(IDLE_CURRENT + STALL_CURRENT * abs(load), load, AMBIENT, LOOK * GOAL_PERIOD)
            self._apply()
        self.limits.append(self.grip.limit)

    def _apply(self) -> None:
        self.world.set_torque_limits([*self._most[:GRIPPER], self.grip.limit * STALL_TORQUE])

    def remove(self) -> None:
        self.world.step = self._step  # type: ignore[method-assign]
        self.world.set_torque_limits(self._most)


def test_a_slice_is_carried_and_laid_with_the_lowered_limit(lockstep: Lockstep) -> None:
    gripper = LimitedGripper(lockstep)
    try:
        assert lockstep.run(BREAD) > 0
    finally:
        gripper.remove()
    assert truth.plate_holds(lockstep.world, ["bread"])
    print(f"lowest limit while carrying: {min(gripper.limits):.3f} of the stall torque")
    assert min(gripper.limits) < 0.3


def test_a_slice_stays_held_for_half_a_minute_at_the_hold_torque(lockstep: Lockstep) -> None:
    gripper = LimitedGripper(lockstep)
    try:
        both = {"fixed", "moving"}
        lifted = lockstep.run(
            BREAD,
            until=lambda _: (
                lockstep.world.jaw_contacts().get("bread_1") == both
                and lockstep.world.object("bread_1").position[2] > 0.08
            ),
        )
        assert lifted > 0
        goal = lockstep.world.joint_targets
        heights = []
        for _ in range(300):
            lockstep.world.set_joint_targets(goal)
            for _ in range(10):
                lockstep.world.step(round(GOAL_PERIOD / lockstep.world.config.timestep))
            heights.append(lockstep.world.object("bread_1").position[2])
    finally:
        gripper.remove()
    print(f"limit {gripper.limits[-1]:.3f}, the slice sank by {1e3 * (heights[0] - heights[-1]):.2f} mm")
    assert gripper.limits[-1] < 0.25
    assert lockstep.world.jaw_contacts()["bread_1"] == both
    assert np.ptp(heights) < 0.004
