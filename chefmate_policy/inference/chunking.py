# SPDX-License-Identifier: Apache-2.0
"""How one chunk follows another: the modes of the parameter `chunking`, without ROS.

Every mode but `sync` infers while the arm moves. What the arm gets is a chunk on the clock; only its
positions (blend) or its times (sync) are changed here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from chefmate_policy.inference.backend import Array, BackendError, Chunk, Planned
from chefmate_policy.inference.chunks import ChunkTimeline

__all__ = ["Chunking", "Mode", "goes_on", "mode_of"]

AUTO = "auto"


class Mode(Enum):
    """Values of the parameter `chunking`, besides auto."""

    SWITCH = "switch"  # the new chunk takes over as it is
    SYNC = "sync"  # the arm stands while the next chunk is inferred
    BLEND = "blend"  # positions go over from the old chunk to the new one
    RTC = "rtc"  # real-time chunking: the new chunk is led to what is left of the old one
    RTC_HARD = "rtc_hard"  # the new chunk begins exactly with what the arm does until it arrives

    @property
    def led(self) -> bool:
        """True where the backend gets what is planned."""
        return self in (Mode.RTC, Mode.RTC_HARD)


def goes_on(backend: Any) -> bool:
    """Whether a backend makes use of `Observation.planned`."""
    return bool(getattr(backend, "goes_on", False))


def mode_of(name: str, backend: Any) -> Mode:
    """The mode of the parameter `chunking`; auto: rtc for a backend that can, else switch.

    Raises:
        BackendError: no such mode, or the backend cannot do it.
    """
    if name == AUTO:
        return Mode.RTC if goes_on(backend) else Mode.SWITCH
    try:
        mode = Mode(name)
    except ValueError:
        known = ", ".join([AUTO, *(mode.value for mode in Mode)])
        raise BackendError(f"parameter chunking is {name!r}; use one of {known}.") from None
    if mode.led and not goes_on(backend):
        raise BackendError(
            f"parameter chunking is {name}, which this backend cannot do; use auto, blend, switch or sync."
        )
    return mode


@dataclass(frozen=True)
class Chunking:
    """How the node lets one chunk follow another."""

    mode: Mode = Mode.SWITCH
    blend_time: float = 0.0  # s over which positions go over, in mode blend

    def planned(self, timeline: ChunkTimeline, since: float, start: float) -> Planned | None:
        """What a backend gets of the chunk that runs: from `since` (s since the epoch) to its end, fixed
        until `start`. None where nothing runs, or in a mode without it."""
        running = timeline.running
        if not self.mode.led or running is None:
            return None
        edges = np.array([since, running.takeover])
        old = np.zeros(0) if timeline.before is None else timeline.before.times
        times = np.unique(np.concatenate([edges, old[old < running.takeover], running.times]))
        times = times[(times >= since) & (times <= running.end)]
        if times.size == 0:
            return None
        positions = np.stack([timeline.position_at(float(time)) for time in times])  # type: ignore[misc]
        return Planned(times, positions, start, hard=self.mode is Mode.RTC_HARD)

    def joined(self, chunk: Chunk, timeline: ChunkTimeline, now: float) -> Chunk:
        """The chunk as the arm is to get it, at `now`; checked and not empty."""
        if self.mode is Mode.SYNC:
            return _on_arrival(chunk, timeline.execution_horizon, now)
        if self.mode is Mode.BLEND and timeline.moving(now) and self.blend_time > 0.0:
            return _blended(chunk, timeline, self.blend_time, now)
        return chunk


def _on_arrival(chunk: Chunk, horizon: float, now: float) -> Chunk:
    """Its first action is due now, and it ends with the execution horizon."""
    kept = max(2, int(np.searchsorted(chunk.times, horizon, side="right")))
    rates = None if chunk.velocities is None else chunk.velocities[:kept]
    over = chunk.times.size <= kept
    return replace(
        chunk,
        origin=now,
        times=chunk.times[:kept],
        positions=chunk.positions[:kept],
        velocities=rates,
        done=chunk.done and over,
    )


def _blended(chunk: Chunk, timeline: ChunkTimeline, blend_time: float, now: float) -> Chunk:
    """Positions from the running chunk (held at its end) to the new one, from the takeover on. Velocities, if
    any, are left out."""
    times = chunk.origin + chunk.times
    takeover = max(now, chunk.origin)
    share: Array = np.clip((times - takeover) / blend_time, 0.0, 1.0)
    share = (share * share * (3.0 - 2.0 * share))[:, None]
    old = np.stack([timeline.position_at(float(time)) for time in times])  # type: ignore[misc]
    return replace(chunk, positions=(1.0 - share) * old + share * chunk.positions, velocities=None)
