# SPDX-License-Identifier: Apache-2.0
"""Position, speed, acceleration and height of a sequence of goals as they were seen on the wire.

What a goal on the wire can tell, and what the tolerances are for:

- Goals are whole ticks: each is off by half a tick, so a difference of two by one tick.
- A goal is computed for a place on the driver's time grid and seen later: by the driver's lateness, by the
  bus read before it, and by the witness's own wake-up. What differs between two goals is at most `jitter`
  cycles; more would be a missed cycle. So the distance of two goals may be off by the speed in that time.
- When nothing was sent for more than LONGEST cycles the servos have reached the last goal: the next goal may
  be no farther than LONGEST cycles at the speed limit, and the speed after the pause must follow from rest,
  from the speed before it (a late cycle), or from something in between.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.campaign.envelope import JOINTS, Envelope

Array = NDArray[np.float64]
LONGEST = 3.0  # cycles
# Spans, in s, over which mean speeds are compared: short ones see a jump, long ones a small lasting excess.
SPEED_SPANS = (0.0, 0.05, 0.2)
ACCELERATION_SPANS = (0.03, 0.06, 0.1)
QUANTUM = 1.0  # ticks, of a difference of two goals
TABLE_TOLERANCE = 0.002  # m: half a tick in each of five joints at 0.4 m reach is 1.5 mm at the very worst
Breach = tuple[str, float, str]  # rule, s, detail


class Motion:
    """Goals since the arm was last at rest by force (start, torque on); judged in `breaches`."""

    def __init__(self, envelope: Envelope, jitter: float) -> None:
        """`jitter`: cycles by which the time between two goals may differ from what they were made for."""
        self.envelope, self.jitter = envelope, jitter * envelope.period
        self.fresh = True  # no goal yet since the start or since torque came on
        self._paths: list[tuple[list[float], list[Array]]] = []

    def restart(self, reference: Array, time: float) -> None:
        """Torque came on at `time` (s) with the goals `reference`, ticks."""
        self.fresh = True
        self._paths.append(([time], [reference]))

    def add(self, time: float, goal: Array, before: Array | None) -> None:
        """A goal seen at `time`; `before`: the goal that the servos had, if known."""
        if not self._paths:
            self._paths.append(([], []) if before is None else ([time - self.envelope.period], [before]))
        times, goals = self._paths[-1]
        self.fresh = False
        times.append(time)
        goals.append(goal)

    def speed(self) -> Array:
        """ticks/s, over the newest 50 ms in which goals were sent."""
        if not self._paths:
            return np.zeros(6)
        times, goals = self._paths[-1]
        if len(times) < 2:
            return np.zeros(6)
        clock = self._clock(times[-12:])
        first = int(np.searchsorted(clock, min(clock[-1] - 0.05, clock[-2]), side="right")) - 1
        first = max(first, 0)
        return np.abs(goals[-1] - goals[first - len(clock)]) / (clock[-1] - clock[first])

    def breaches(self) -> list[Breach]:
        """Everything outside the limits, at most one of each rule and joint for each path."""
        found: list[Breach] = []
        for times, goals in self._paths:
            if len(times) > 1:
                path = np.array(goals)
                found += self._positions(times, path)
                found += self._heights(times, path)
                found += self._speeds(times, path)
                found += self._accelerations(times, path)
        return found

    def _clock(self, times: list[float]) -> Array:
        """The times (N,) with pauses cut to LONGEST cycles."""
        steps = np.minimum(np.diff(times), LONGEST * self.envelope.period)
        return np.concatenate([[0.0], np.cumsum(steps)])

    def _positions(self, times: list[float], path: Array) -> Iterator[Breach]:
        # An arm that was found outside (pushed by hand) may stay where it is or come back, not go on out.
        low = np.minimum(self.envelope.low, path[0]) - QUANTUM
        high = np.maximum(self.envelope.high, path[0]) + QUANTUM
        outside = (path < low) | (path > high)
        for joint in np.flatnonzero(outside.any(axis=0)):
            row = int(np.argmax(outside[:, joint]))
            limits = f"{self.envelope.low[joint]:.0f}..{self.envelope.high[joint]:.0f}"
            yield "position", times[row], f"{JOINTS[joint]}: {path[row, joint]:.0f}, allowed {limits}"

    def _heights(self, times: list[float], path: Array) -> Iterator[Breach]:
        heights = self.envelope.heights(path)
        lowest = min(self.envelope.floor, float(heights[0])) - TABLE_TOLERANCE
        row = int(np.argmin(heights))
        if heights[row] < lowest:
            yield (
                "table",
                times[row],
                f"a finger tip at {1000 * heights[row]:.1f} mm, allowed {1000 * lowest:.1f}",
            )

    def _speeds(self, times: list[float], path: Array) -> Iterator[Breach]:
        clock = self._clock(times)
        worst = np.zeros(6)
        where = np.zeros(6, dtype=int)
        for span in SPEED_SPANS:
            ends = np.minimum(np.searchsorted(clock, clock + max(span, 1e-9), side="left"), len(clock) - 1)
            moved = np.abs(path[ends] - path)
            allowed = self.envelope.speed * (clock[ends] - clock + self.jitter)[:, None] + QUANTUM
            excess = moved / allowed
            rows = excess.argmax(axis=0)
            top = excess[rows, np.arange(6)]
            where, worst = np.where(top > worst, ends[rows], where), np.maximum(top, worst)
        for joint in np.flatnonzero(worst > 1.0):
            yield (
                "speed",
                times[where[joint]],
                f"{JOINTS[joint]}: {100 * worst[joint]:.0f} % of what is allowed",
            )

    def _accelerations(self, times: list[float], path: Array) -> Iterator[Breach]:
        # Before its first goal the arm stood at it.
        rest = int(max(ACCELERATION_SPANS) / self.envelope.period) + 1
        clock = self._clock(times) + rest * self.envelope.period
        clock = np.concatenate([np.arange(rest) * self.envelope.period, clock])
        path = np.vstack([np.tile(path[0], (rest, 1)), path])
        pauses = np.concatenate([np.zeros(rest), [0.0], np.diff(times) > LONGEST * self.envelope.period])
        paused = np.cumsum(pauses)
        worst = np.zeros(6)
        where = np.zeros(6, dtype=int)
        for span in ACCELERATION_SPANS:
            for row in range(rest, len(clock) - 1):
                first = int(np.searchsorted(clock, clock[row] - span - 1e-9))
                last = min(int(np.searchsorted(clock, clock[row] + span - 1e-9)), len(clock) - 1)
                if clock[last] - clock[row] < 0.5 * span or first == row:
                    continue
                excess = self._turn(clock, path, first, row, last, paused[last] > paused[first])
                better = excess > worst
                where[better], worst[better] = row - rest, excess[better]
        for joint in np.flatnonzero(worst > 1.0):
            detail = f"{JOINTS[joint]}: {100 * worst[joint]:.0f} % of what is allowed"
            yield "acceleration", times[where[joint]], detail

    def _turn(self, clock: Array, path: Array, first: int, row: int, last: int, paused: bool) -> Array:
        """Change of the mean speed from first..row to row..last as a share of what is allowed, (6,)."""
        before, after = clock[row] - clock[first], clock[last] - clock[row]
        old, new = (path[row] - path[first]) / before, (path[last] - path[row]) / after
        if paused:
            steps = np.maximum(np.diff(clock[first : row + 1]), 1e-3)  # two goals may be seen at once
            slopes = np.diff(path[first : row + 1], axis=0) / steps[:, None]
            old = np.clip(new, np.minimum(slopes.min(axis=0), 0.0), np.maximum(slopes.max(axis=0), 0.0))
        # Two means differ by no more than the acceleration over the time between the middles of their spans.
        allowed = self.envelope.acceleration * (before + after) / 2.0
        share = 1.0 / before + 1.0 / after
        noise = QUANTUM * share + np.maximum(np.abs(old), np.abs(new)) * self.jitter * share / 2.0
        return np.asarray(np.abs(new - old) / (allowed + noise))
