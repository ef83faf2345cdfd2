# SPDX-License-Identifier: Apache-2.0
"""An absolute time grid for the control loop, how well it was kept, and the priority that helps it."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import deque

# s, upper edges of the lateness histogram; one more bin counts what is later than the last
HISTOGRAM_EDGES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01)


class Grid:
    """Cycles at a fixed rate on the monotonic clock. A late cycle does not shift the later ones; missed ones
    are skipped."""

    def __init__(self, rate: float) -> None:
        """rate: Hz. Statistics cover the last second, histogram and missed places everything since."""
        self.rate, self.period = rate, 1.0 / rate
        self.due = time.monotonic()  # s, the place on the grid of the present cycle
        self.missed = 0  # places without a cycle
        self.histogram = [0] * (len(HISTOGRAM_EDGES) + 1)
        self._late: deque[float] = deque(maxlen=max(int(rate), 1))
        self._starts: deque[float] = deque(maxlen=max(int(rate), 1) + 1)

    def wait(self) -> int:
        """Sleeps until the next place on the grid; returns what `wake` does."""
        periods = self.wake()
        self.rest()
        return periods

    def wake(self, lead: float = 0.0) -> int:
        """Sleeps until `lead` s before the next place on the grid; returns how many periods lie between it
        and the last one (1: none missed). `rest` has to follow."""
        self.due += self.period
        now = time.monotonic()
        if self.due - lead > now:
            time.sleep(self.due - lead - now)
            now = time.monotonic()
        missed = max(int((now - self.due) / self.period), 0)
        self.due += missed * self.period
        self.missed += missed
        return 1 + missed

    def rest(self) -> None:
        """Sleeps until the place that `wake` went to; how late that became is what the statistics tell."""
        now = time.monotonic()
        if self.due > now:
            time.sleep(self.due - now)
            now = time.monotonic()
        late = now - self.due
        self.histogram[bisect_left(HISTOGRAM_EDGES, late)] += 1
        self._late.append(late)
        self._starts.append(now)

    def restart(self) -> None:
        """Goes on with the next place on the same grid: after work that is no cycle and no lateness."""
        late = time.monotonic() - self.due
        self.due += max(int(late / self.period), 0) * self.period

    def statistics(self) -> tuple[float, float, float]:
        """Rate (Hz), and lateness p50 and p99 (s), over the last second."""
        late, starts = sorted(self._late), list(self._starts)
        if len(starts) < 2:
            return 0.0, 0.0, 0.0
        rate = (len(starts) - 1) / (starts[-1] - starts[0])
        return rate, late[len(late) // 2], late[min(int(len(late) * 0.99), len(late) - 1)]


def real_time_priority(priority: int) -> str:
    """Asks for SCHED_FIFO for the calling thread; says what it got, with the mend where that is less.

    priority: 1..99; 0 leaves the thread as it is.
    """
    if priority == 0:
        return "normal scheduling, as the parameter `realtime_priority` says"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return (
            f"normal scheduling: SCHED_FIFO {priority} was refused ({error.strerror}); for steadier cycles "
            f"add '@dialout - rtprio {priority}' to /etc/security/limits.d/chefmate.conf and log in again"
        )
    return f"SCHED_FIFO, priority {priority}"
