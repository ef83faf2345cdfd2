# SPDX-License-Identifier: Apache-2.0
"""How strongly the gripper may squeeze: its torque limit (register 48, RAM), lowered while it squeezes.

A position-controlled jaw on an object pushes as hard as it may for as long as it holds. Squeezing is seen by
the load: the motor's duty stands at its limit. After `patience` the limit sinks until current and load are
those of a hold, never below `least`; it rises again when the jaw no longer pushes. Sinking and rising have a
dead band between them, so holding settles.

Sources: LeRobot configures the gripper with at most 50 % torque and an overload threshold of 25 % (registers
16 and 36), which the servo tolerates for 2 s (register 35): the hold lies below it, and is reached before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from chefmate_driver.arm.errors import ArmError

STALL_CURRENT = 2.7  # A at 12 V, STS3215 data sheet
GAIN = 2.0  # 1/s, how fast the limit follows the excess; the loop settles in about 1 s
RECOVERY = 1.0  # share of the stall torque per second, on the way back up
SQUEEZING, LOOSE = (
    0.8,
    0.5,
)  # shares of the limit: above the first the jaw pushes, below the second it does not
STEP = 0.01  # share of the stall torque; smaller changes are not worth a write on the bus
SMOOTHING = 0.15  # s, time constant for current and load
COOL = 10.0  # K above `warm` at which the hold has come down to `least`


@dataclass(frozen=True)
class GripSettings:
    """Torques are shares of the stall torque."""

    torque: float = 0.5  # while it closes, opens, and for `patience` after it began to push
    hold_torque: float = 0.22  # load of a long hold; 0.65 N m, some 6 N at the finger tip
    hold_current: float = 0.6  # A of a long hold, 22 % of the stall current
    least: float = 0.15  # never lower, however warm: what is held stays held
    patience: float = 0.3  # s of pushing before the limit sinks
    warm: float = (
        50.0  # degree Celsius of the gripper's servo, from there on the hold weakens towards `least`
    )

    def __post_init__(self) -> None:
        rising = 0.0 < self.least <= self.hold_torque <= self.torque <= 1.0
        positive = self.hold_current > 0.0 and self.patience >= 0.0
        if not (rising and positive and math.isfinite(self.warm)):
            raise ArmError(
                f"grip: needs 0 < least <= hold_torque <= torque <= 1 and hold_current above zero, got {self}"
            )


class GripForce:
    """The control law. One call of `update` for each reading of the gripper's servo."""

    def __init__(self, settings: GripSettings | None = None) -> None:
        """settings: None takes the defaults."""
        self.settings = settings or GripSettings()
        self.lowered = 0  # how often a squeeze was relieved since start
        self.restore()

    def restore(self) -> None:
        """Back to the full limit, as after torque was switched on."""
        self._exact = self.limit = self.settings.torque  # share of the stall torque; `limit` moves in steps
        self._current = self._load = 0.0  # A, share; smoothed magnitudes
        self._pushed = 0.0  # s since the jaw began to push
        self._sinking = False

    def update(self, current: float, load: float, temperature: float, dt: float) -> float:
        """The limit, share of the stall torque, after `dt` s with this current (A), load (share of full duty)
        and temperature (degree Celsius) of the gripper's servo."""
        settings = self.settings
        share = 1.0 - math.exp(-dt / SMOOTHING)
        self._current += share * (abs(current) - self._current)
        self._load += share * (abs(load) - self._load)
        pushes = self._load > SQUEEZING * self._exact
        self._pushed = self._pushed + dt if pushes else 0.0
        weaker = min(max((temperature - settings.warm) / COOL, 0.0), 1.0)
        hold = settings.hold_torque + (settings.least - settings.hold_torque) * weaker
        most_current = settings.hold_current * hold / settings.hold_torque
        excess = max((self._current - most_current) / STALL_CURRENT, self._load - hold)
        if pushes and self._pushed >= settings.patience and excess > 0.0:
            self.lowered += not self._sinking
            self._sinking = True
            self._exact -= GAIN * excess * dt
        elif self._load < LOOSE * self._exact:
            self._sinking = False
            self._exact += RECOVERY * dt
        self._exact = min(max(self._exact, settings.least), settings.torque)
        at_end = self._exact in (settings.least, settings.torque)
        if abs(self._exact - self.limit) >= STEP or at_end:
            self.limit = self._exact
        return self.limit
