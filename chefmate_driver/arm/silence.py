# SPDX-License-Identifier: Apache-2.0
"""Which servos have been silent, and for how long: told apart from the time in which nobody listened."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from chefmate_driver.arm.units import JointUnits

QUIET = 0.05  # s of a servo's silence after which the arm brakes; it is a fault after `answer_timeout`


class Hearing:
    """When each servo answered last. Times are s, monotonic clock; the loop's thread only."""

    def __init__(self, answer_timeout: float) -> None:
        """answer_timeout: s without an answer after which a servo counts as lost."""
        self.answer_timeout = answer_timeout
        self.complete = 0.0  # the newest reading of all servos
        self.stalls = 0  # times that the loop itself stood still
        self.longest_stall = 0.0  # s
        self._joints: Sequence[JointUnits] = ()
        self._heard: dict[int, float] = {}  # by servo id
        self._listened = 0.0  # end of the newest reading, whole or not

    def begin(self, joints: Sequence[JointUnits], now: float) -> None:
        """All of them have just answered."""
        self._joints = joints
        self._heard = {joint.id: now for joint in joints}
        self._listened = self.complete = now

    def took(self, ids: Collection[int], now: float) -> None:
        """These answered in a reading that has just ended."""
        for id in ids:
            self._heard[id] = now
        self._listened = now
        if len(ids) == len(self._joints):
            self.complete = now

    def pause(self, now: float, period: float) -> float:
        """s beyond `period` (s, of a cycle) since the newest reading: nobody listened, so that no servo was
        silent. 0 where that is nothing unusual."""
        away = now - self._listened - period
        if away <= max(QUIET, period):
            return 0.0
        self._heard = {id: heard + away for id, heard in self._heard.items()}
        self.complete += away
        self._listened += away
        return away

    def stall(self, now: float, period: float) -> float:
        """The same, when the loop had nothing else to do: it stood still itself, which counts."""
        away = self.pause(now, period)
        if away:
            self.stalls += 1
            self.longest_stall = max(self.longest_stall, away)
        return away

    def lost(self, now: float) -> str:
        """Why servos count as lost; empty: none does."""
        names = self._silent_for(self.answer_timeout, now)
        if not names:
            return ""
        return (
            f"servo {names} has not answered for {self.answer_timeout:g} s; "
            "check cable and supply, then call arm/torque"
        )

    def blind(self, now: float, answered: Collection[int], period: float) -> str:
        """Why nobody knows where the arm is; empty: it is known."""
        if names := self._silent_for(QUIET, now):
            return f"servo {names} has not answered for {QUIET:g} s"
        # Servos that are silent in turns: each answers often enough, and where the arm is nobody knows.
        limit = max(QUIET, 2.0 * period)
        if len(answered) < len(self._joints) and now - self.complete > limit:
            missing = ", ".join(str(joint.id) for joint in self._joints if joint.id not in answered)
            return f"no reading of all servos for {limit:g} s, servo {missing} has not answered last"
        return ""

    def _silent_for(self, limit: float, now: float) -> str:
        return ", ".join(
            f"{joint.id} ({joint.name})" for joint in self._joints if now - self._heard[joint.id] > limit
        )
