# SPDX-License-Identifier: Apache-2.0
"""Timed joint motions: rest-to-rest segments through waypoints, within speed and acceleration limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Motion", "Segment", "brake", "segment"]

Array = NDArray[np.float64]
SPEED = 1.9  # rad/s, of the 2 that an SO-101 does under load
ACCELERATION = 7.0  # rad/s^2, of 8
CAUTION = 1.2  # slowness of a segment that goes on after it was cut


@dataclass(frozen=True)
class Segment:
    """One motion of `duration` s through `waypoints` [k, 6] rad on a smooth curve, at rest at both ends.

    With `velocity` [6] rad/s: instead, a stop at constant deceleration from that velocity.
    """

    phase: str
    waypoints: Array
    duration: float
    velocity: Array | None = None

    @property
    def end(self) -> Array:
        """[6] rad."""
        return self.waypoints[-1]

    def sample(self, time: float) -> Array:
        """Joint angles [6] (rad) `time` s after the segment's start; its end afterwards."""
        return self.samples(np.array([time]))[0]

    def samples(self, times: Array) -> Array:
        """The same [m, 6] at several times [m]."""
        spent = np.minimum(np.maximum(times, 0.0), self.duration)
        if self.velocity is not None:
            t = spent[:, None]
            return self.waypoints[0] + self.velocity * (t - t * t / (2 * self.duration))
        share = spent / self.duration if self.duration > 0 else np.ones_like(spent)
        return _curve(self.waypoints, _minimum_jerk(share), *self._shape)

    @cached_property
    def _shape(self) -> tuple[Array, Array]:
        """Path parameters [k] and slopes [k, 6] of the waypoints: the same for every sample."""
        return _marks_and_slopes(self.waypoints)


@dataclass
class Motion:
    """Segments one after the other, from `start` (s, any clock)."""

    start: float
    segments: list[Segment]

    @property
    def finish(self) -> float:
        """When the last segment ends, s."""
        return self.start + sum(part.duration for part in self.segments)

    @property
    def end(self) -> Array:
        """[6] rad."""
        return self.segments[-1].end

    def at(self, time: float) -> tuple[Segment, float, int]:
        """The segment of a time, when it began (s) and its index."""
        begin = self.start
        for index, part in enumerate(self.segments):
            if time < begin + part.duration or index == len(self.segments) - 1:
                return part, begin, index
            begin += part.duration
        raise ValueError("a motion needs at least one segment")

    def sample(self, time: float) -> Array:
        """Joint angles [6] (rad) at a time (s, the clock of `start`)."""
        part, begin, _ = self.at(time)
        return part.sample(time - begin)

    def samples(self, times: Array) -> Array:
        """The same [m, 6] at several times [m]."""
        ends = self.start + np.cumsum([part.duration for part in self.segments])
        parts = np.minimum(np.searchsorted(ends, times, side="right"), len(self.segments) - 1)
        found = np.empty((len(times), self.end.size))
        for index in np.unique(parts):
            here, part = parts == index, self.segments[index]
            found[here] = part.samples(times[here] - (ends[index] - part.duration))
        return found

    def from_rest(self, time: float, start: float) -> Motion:
        """What is left of the motion at `time`, begun anew from rest at `start` (both on this clock)."""
        part, begin, index = self.at(time)
        spent = min(max(time - begin, 0.0), part.duration)
        if part.velocity is not None:
            rest = brake(part.sample(spent), np.zeros_like(part.end))
        else:
            rest = segment(part.phase, part.samples(np.linspace(spent, part.duration, 9)), CAUTION)
        return Motion(start, [rest, *self.segments[index + 1 :]])

    def velocity(self, time: float) -> Array:
        """Joint velocities [6] (rad/s), by a difference over 10 ms."""
        return self.velocities(np.array([time]))[0]

    def velocities(self, times: Array) -> Array:
        """The same [m, 6] at several times [m]."""
        return (self.samples(times + 0.005) - self.samples(times - 0.005)) / 0.01


def segment(
    phase: str, waypoints: Sequence[Array] | Array, slowness: float = 1.0, minimum: float = 0.15
) -> Segment:
    """A rest-to-rest segment [k, 6] as fast as the limits allow, times `slowness` (at least 1)."""
    points = np.asarray(waypoints, dtype=np.float64)
    share = np.linspace(0.0, 1.0, 41)
    path = _curve(points, _minimum_jerk(share), *_marks_and_slopes(points))
    speed = np.max(np.abs(np.diff(path, axis=0))) * 40  # at a duration of 1 s
    bend = np.max(np.abs(np.diff(path, n=2, axis=0))) * 1600
    duration = max(speed / SPEED, np.sqrt(bend / ACCELERATION), minimum)
    return Segment(phase, points, float(duration) * max(slowness, 1.0))


def brake(position: Array, velocity: Array) -> Segment:
    """A stop from `position` [6] rad and `velocity` [6] rad/s at constant deceleration within the limit."""
    duration = max(float(np.max(np.abs(velocity))), 0.01) / ACCELERATION
    points = np.stack([position, position + velocity * duration / 2])
    return Segment("brake", points, duration, velocity)


def _minimum_jerk(share: Any) -> Any:
    """Flash and Hogan's profile: 0 to 1 with no speed and no acceleration at both ends."""
    return share**3 * (10 - 15 * share + 6 * share**2)


def _marks_and_slopes(points: Array) -> tuple[Array, Array]:
    lengths = np.max(np.abs(np.diff(points, axis=0)), axis=1) + 1e-9
    marks = np.concatenate([[0.0], np.cumsum(lengths)])
    marks /= marks[-1]
    return marks, np.gradient(points, marks, axis=0)


def _curve(points: Array, along: Array, marks: Array, slopes: Array) -> Array:
    """Points [m, 6] at path parameters `along` [m] in 0..1: cubic Hermite through the waypoints [k, 6]
    (Catmull-Rom)."""
    i = np.minimum(np.maximum(np.searchsorted(marks, along, side="right") - 1, 0), len(points) - 2)
    width = marks[i + 1] - marks[i]
    u = ((along - marks[i]) / width)[:, None]
    width = width[:, None]
    return (
        (2 * u**3 - 3 * u**2 + 1) * points[i]
        + (u**3 - 2 * u**2 + u) * width * slopes[i]
        + (3 * u**2 - 2 * u**3) * points[i + 1]
        + (u**3 - u**2) * width * slopes[i + 1]
    )
