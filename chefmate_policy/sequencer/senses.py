# SPDX-License-Identifier: Apache-2.0
"""Newest inputs of the sequencer with their age, and what is missing among them."""

from __future__ import annotations

from chefmate_policy.perception.workcell import Workcell
from chefmate_policy.sequencer.views import ArmView, Limits, PolicyView

NO_TORQUE = "READY"
# Whoever sees one of these must not find an arm that moves by itself as soon as it is over.
ARM_STOPS = ("FAULT", "ESTOPPED")
ARM_FAULTS = ("UNPOWERED", "FAULT", "ESTOPPED", "TELEOPERATED")
# States of the policy in which an empty instruction means that nothing drives the arm.
POLICY_AT_REST = ("IDLE", "DONE")
POLICY_ABSENT = ("UNCONFIGURED", "INACTIVE", "FAULT")


class Senses:
    """Newest workcell state, policy status, arm health and joint angles.

    All times are seconds of one monotonic clock.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.workcell: Workcell | None = None
        self.policy: PolicyView | None = None
        self.arm: ArmView | None = None
        self._workcell_time = self._policy_time = self._arm_time = 0.0
        self._equal_frames = 0
        self._signature: object = None
        self._joints: tuple[float, ...] = ()
        self._joints_before: tuple[float, ...] = ()
        self._moved = False

    def see(self, workcell: Workcell, captured: float) -> None:
        """Takes a workcell state over; `captured` is when its image was taken."""
        signature = _signature(workcell)
        self._equal_frames = self._equal_frames + 1 if signature == self._signature else 1
        self._signature = signature
        self.workcell, self._workcell_time = workcell, captured

    def hear_policy(self, policy: PolicyView, now: float) -> None:
        """Takes a policy status over."""
        self.policy, self._policy_time = policy, now

    def hear_arm(self, arm: ArmView, now: float) -> None:
        """Takes an arm health over."""
        self.arm, self._arm_time = arm, now

    def hear_joints(self, positions: tuple[float, ...]) -> None:
        """Takes joint angles over, rad."""
        self._joints = positions
        if not self._joints_before:
            self._joints_before = positions
        pairs = zip(positions, self._joints_before, strict=False)
        self._moved = self._moved or any(
            abs(now - before) > self._limits.moved_angle for now, before in pairs
        )

    def watch_motion(self) -> None:
        """Forgets earlier motion: `moved` tells about motion from now on."""
        self._joints_before, self._moved = self._joints, False

    @property
    def moved(self) -> bool:
        """Whether a joint moved since `watch_motion`."""
        return self._moved

    def missing(self, now: float) -> str:
        """Which inputs are missing, stale or unfit, as a sentence; empty: none."""
        limits, problems = self._limits, []
        problems.append(
            _age(
                "perception: no workcell state",
                self.workcell,
                now - self._workcell_time,
                limits.perception_timeout,
            )
        )
        problems.append(
            _age("policy: no status", self.policy, now - self._policy_time, limits.policy_timeout)
        )
        problems.append(_age("arm: no health", self.arm, now - self._arm_time, limits.arm_timeout))
        found = [problem for problem in problems if problem]
        if not found and self.policy is not None and self.policy.state in POLICY_ABSENT:
            found.append(
                f"policy is {self.policy.state}" + (f": {self.policy.reason}" if self.policy.reason else "")
            )
        return "; ".join(found) or self.arm_fault()

    def arm_fault(self) -> str:
        """Why the arm cannot be commanded; empty: it can."""
        if self.arm is not None and self.arm.state == NO_TORQUE:
            return "the arm's torque is off: call the service arm/torque"
        if self.arm is None or self.arm.state not in ARM_FAULTS:
            return ""
        return f"the arm is {self.arm.state}" + (f": {self.arm.reason}" if self.arm.reason else "")

    def seen(self) -> Workcell | None:
        """The workcell when nothing is hidden and it has been the same for `stable_frames`, else None."""
        if (
            self.workcell is None
            or not self.workcell.visible
            or self._equal_frames < self._limits.stable_frames
        ):
            return None
        return self.workcell

    def policy_idle(self) -> bool:
        """Whether the policy has no instruction in force."""
        return (
            self.policy is not None and self.policy.instruction == "" and self.policy.state in POLICY_AT_REST
        )

    def policy_heard_since(self, time: float) -> bool:
        """Whether the newest status of the policy is younger than this."""
        return self._policy_time > time

    def policy_done(self, instruction: str) -> bool:
        """Whether the policy has nothing left to do for this instruction."""
        return (
            self.policy is not None and self.policy.instruction == instruction and self.policy.state == "DONE"
        )


def _age(what: str, value: object, age: float, limit: float) -> str:
    if value is None:
        return what
    return f"{what} for {age:.1f} s" if age > limit else ""


def _signature(workcell: Workcell) -> object:
    """What must stay equal for a view to be stable: everything but positions and exact confidences."""
    objects = sorted((seen.place, seen.slot, seen.stack_index, seen.ingredient) for seen in workcell.objects)
    return workcell.plate_visible, workcell.holder_visible, workcell.plate(), tuple(objects)
