# SPDX-License-Identifier: Apache-2.0
"""An absolute time grid for the control loop, and how well it was kept."""

from __future__ import annotations

import time
from collections import deque


class Grid:
    """Cycles at a fixed rate on the monotonic clock. A late cycle does not shift the later ones; missed ones
    are skipped."""

    def __init__(self, rate: float) -> None:
        """rate: Hz. Statistics cover the last second."""
        self.period = 1.0 / rate
        self._next = time.monotonic()
        self._late: deque[float] = deque(maxlen=max(int(rate), 1))
        self._starts: deque[float] = deque(maxlen=max(int(rate), 1) + 1)

    def wait(self) -> int:
        """Sleeps until the next place on the grid; returns how many periods passed since the last one (1:
        none missed)."""
        self._next += self.period
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
            now = time.monotonic()
        late = now - self._next
        missed = int(late / self.period)
        self._next += missed * self.period
        self._late.append(late)
        self._starts.append(now)
        return 1 + missed

    def statistics(self) -> tuple[float, float, float]:
        """Rate (Hz), and lateness p50 and p99 (s), over the last second."""
        late, starts = sorted(self._late), list(self._starts)
        if len(starts) < 2:
            return 0.0, 0.0, 0.0
        rate = (len(starts) - 1) / (starts[-1] - starts[0])
        return rate, late[len(late) // 2], late[min(int(len(late) * 0.99), len(late) - 1)]
