# SPDX-License-Identifier: Apache-2.0
"""When the next chunk is asked for, and from where it starts.

Each chunk is executed for the execution horizon; then the next one takes over. That one is asked for a lead
earlier, so that it is there in time, and its observation says where the arm's command will be when it takes
over: a chunk starts where the arm will be, not where it was when the camera looked. The lead is at least the
parameter's, and at least the slowest of the last inferences and the refill margin.

    |<------ execution horizon ------>|
    takeover          ask             takeover of the next        end
    |-----------------|<--- lead ---->|---------------------------|
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from chefmate_policy.inference.backend import Array, Chunk

REMEMBERED = 10
"""Inferences whose delays count; two seconds and more at the usual rates."""


@dataclass(frozen=True)
class RunningChunk:
    """A chunk on the arm. Times are s since the epoch."""

    takeover: float
    times: Array
    """(k,) absolute."""
    positions: Array
    """(k, n) rad."""
    done: bool
    phase: str

    @property
    def end(self) -> float:
        """When its last point is reached."""
        return float(self.times[-1])

    def position_at(self, time: float) -> Array:
        """(n,) rad; linear between points as the arm interpolates, held before the first and after the
        last."""
        columns = range(self.positions.shape[1])
        return np.array([np.interp(time, self.times, self.positions[:, joint]) for joint in columns])


class ChunkTimeline:
    """The chunk that runs, and its predecessor until it takes over."""

    def __init__(
        self,
        execution_horizon: float,
        lead: float,
        refill_margin: float = 0.0,
        remembered: int = REMEMBERED,
        waits: bool = False,
    ) -> None:
        """
        Args:
            execution_horizon: s of each chunk to execute.
            lead: s between asking for a chunk and its takeover, at least.
            refill_margin: s by which a chunk shall be there before it is needed, after measured delays.
            remembered: of how many inferences the slowest counts.
            waits: ask for a chunk only when the one before has ended (synchronous mode).
        """
        self.execution_horizon = execution_horizon
        self.waits = waits
        self._least_lead, self._refill_margin = lead, refill_margin
        self._delays: deque[float] = deque(maxlen=remembered)
        self._running: RunningChunk | None = None
        self._before: RunningChunk | None = None

    @property
    def delay(self) -> float:
        """s from asking for a chunk until it is there: the slowest of the last inferences; 0 before the
        first."""
        return max(self._delays, default=0.0)

    @property
    def lead(self) -> float:
        """s between asking for a chunk and its takeover."""
        if not self._delays:
            return self._least_lead
        return max(self._least_lead, self.delay + self._refill_margin)

    def measured(self, delay: float) -> None:
        """An inference's result is there, `delay` s after it was asked for."""
        self._delays.append(max(0.0, delay))

    @property
    def before(self) -> RunningChunk | None:
        """The chunk that the newest one replaced; None when it ended by itself."""
        return self._before

    @property
    def running(self) -> RunningChunk | None:
        """The newest chunk, also after its end; None after a flush."""
        return self._running

    def moving(self, now: float) -> bool:
        """True while a chunk has points ahead."""
        return self._running is not None and now < self._running.end

    def finished(self, now: float) -> bool:
        """True when the newest chunk was the instruction's last and has ended."""
        return self._running is not None and self._running.done and now >= self._running.end

    def due(self, now: float, slack: float = 0.0) -> bool:
        """True when it is time to ask for the next chunk; `slack` (s) makes it earlier, for a coarse
        timer."""
        if self._running is None:
            return True
        if self._running.done:
            return False
        if self.waits:
            return now >= self._running.end
        splice = min(self._running.takeover + self.execution_horizon, self._running.end)
        return now + slack >= splice - self.lead

    def start_of_next(self, now: float) -> float:
        """When a chunk that is asked for now takes over, s since the epoch.

        While nothing runs that is now: the arm would follow a chunk that is still stamped in the future only
        later, and until then whatever it had before.
        """
        return now + self.lead if self.moving(now) else now

    def position_at(self, time: float) -> Array | None:
        """(n,) rad: where the command will be at that time; None while no chunk runs."""
        if self._running is None:
            return None
        if time < self._running.takeover and self._before is not None:
            return self._before.position_at(time)
        return self._running.position_at(time)

    def accept(self, chunk: Chunk, now: float) -> bool:
        """Puts a checked, not empty chunk on the timeline.

        Returns:
            True when it replaces one that still had points ahead.
        """
        replaced = self.moving(now)
        self._before = self._running if replaced else None
        self._running = RunningChunk(
            takeover=max(now, chunk.origin),
            times=chunk.origin + chunk.times,
            positions=chunk.positions,
            done=chunk.done,
            phase=chunk.phase,
        )
        return replaced

    def flush(self) -> None:
        """Forgets everything: the arm brakes and the next chunk starts from the measured pose."""
        self._running = None
        self._before = None
