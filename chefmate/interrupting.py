# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C as a flag: work that has to be left in order looks at it at its next turn."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupt", "interruptible"]


class Interrupt:
    """Remembers that SIGINT or SIGTERM came; the work looks at it at its next turn."""

    def __init__(self) -> None:
        self.asked = False
        self.times = 0

    def __call__(self) -> bool:
        return self.asked

    def check(self) -> None:
        """Raises KeyboardInterrupt if it came: for waits that are given up at once."""
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def interruptible(*others: signal.Signals) -> Iterator[Interrupt]:
    """Turns SIGINT, SIGTERM and other signals into a flag for the length of the block."""
    interrupt = Interrupt()

    def remember(number: int, frame: FrameType | None) -> None:
        interrupt.asked = True
        interrupt.times += 1

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM, *others)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
