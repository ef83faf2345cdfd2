# SPDX-License-Identifier: Apache-2.0
"""Which arrivals on /instruction are our own.

ROS 2 gives a subscriber no publisher id, but rmw gives each sample its publisher's sequence number (from 1).
What we published is kept as a multiset of (text, number); an arrival that is not in it, or is in it once and
comes twice, is somebody else's.
"""

from __future__ import annotations

# A sample of our own comes back within milliseconds. A lost one must not excuse somebody else's for ever.
EXPIRY = 2.0  # s


class OwnInstructions:
    """Multiset of published (text, publication sequence number) pairs that have not come back yet."""

    def __init__(self) -> None:
        self._published = 0
        self._pending: list[tuple[str, int, float]] = []

    def published(self, text: str, now: float) -> int:
        """Notes a text that is about to be published; returns its sequence number.

        Args:
            text: the instruction.
            now: s, any monotonic clock.
        """
        self._published += 1
        self._pending = [entry for entry in self._pending if now - entry[2] < EXPIRY]
        self._pending.append((text, self._published, now))
        return self._published

    def is_own(self, text: str, number: int, now: float) -> bool:
        """True once for each published pair; False for every other arrival."""
        for entry in self._pending:
            if entry[0] == text and entry[1] == number and now - entry[2] < EXPIRY:
                self._pending.remove(entry)
                return True
        return False
