# SPDX-License-Identifier: Apache-2.0
"""Real time for the physics: how many steps are due, and how real the time was."""

from __future__ import annotations

import time
from collections import deque

WINDOW = 2.0  # s, over which the real-time factor is taken


class RealTimeClock:
    """Wakes at fixed places of the wall clock and says how many physics steps are due.

    Time that the machine could not keep up with is dropped: physics then runs slower than the wall, and
    never in a burst that would make a stalled process look like a jumping arm.
    """

    def __init__(self, timestep: float, rate: float, lead: float = 0.0015, most_behind: float = 0.05) -> None:
        """timestep: s of one physics step. rate: Hz of waking. most_behind: s that are caught up with, at
        most.

        lead: s before each k / rate of the wall clock at which it wakes, so that cameras, which grab at k /
        30, find a state that is already complete and always equally old.
        """
        self._timestep = timestep
        self._period = 1e9 / rate
        self._lead = lead * 1e9
        self._most_behind = most_behind
        self._behind = 0.0
        self._woke = time.monotonic()
        self._history: deque[tuple[float, float]] = deque([(self._woke, 0.0)])
        self.simulated = 0.0  # s
        self.dropped = 0.0  # s

    def wait(self) -> int:
        """Sleeps until the next place and returns the number of steps to make now (0 or more)."""
        now = time.time_ns()
        place = int((now + self._lead) // self._period) + 1
        time.sleep(max(0.0, (place * self._period - self._lead - now) * 1e-9))
        return self.due(time.monotonic())

    def due(self, now: float) -> int:
        """Steps due at the monotonic time now (s); they count as made."""
        behind = self._behind + now - self._woke
        self._woke = now
        if behind > self._most_behind:
            self.dropped += behind - self._most_behind
            behind = self._most_behind
        steps = int(behind / self._timestep + 1e-9)
        self._behind = behind - steps * self._timestep
        self.simulated += steps * self._timestep
        self._history.append((now, self.simulated))
        while now - self._history[0][0] > WINDOW:
            self._history.popleft()
        return steps

    @property
    def factor(self) -> float:
        """Simulated time over wall time in the last 2 s; 1 is real time."""
        (start, simulated), (end, simulated_now) = self._history[0], self._history[-1]
        return (simulated_now - simulated) / (end - start) if end - start > 0.1 else 1.0
