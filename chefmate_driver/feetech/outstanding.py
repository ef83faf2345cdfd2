# SPDX-License-Identifier: Apache-2.0
"""Replies that were asked for and have not come. They may come yet, and look like replies to later requests.

A reply carries no number: only its servo and its size tell which request it belongs to. But a servo answers
in the order in which it was asked, and no adapter changes that order. So a reply that can only belong to one
request proves that nothing older is on its way any more.
"""

from __future__ import annotations

MOST = 64  # requests kept for each servo; one that never answers is asked on and on
# Sizes of the replies to marks: reads whose only purpose is a reply that looks like no other. They take
# turns, so that a late one is not taken for the next.
MARK_SIZES = range(24, 40)


class Outstanding:
    """What each servo still owes, oldest first."""

    def __init__(self) -> None:
        self._owed: dict[int, list[tuple[int, object]]] = {}  # size of the reply and the question, by id

    def __bool__(self) -> bool:
        return bool(self._owed)

    def ask(self, id: int, size: int, question: object) -> None:
        """A servo was asked for `size` bytes. Replies to equal questions may stand for each other."""
        entries = self._owed.setdefault(id, [])
        entries.append((size, question))
        del entries[:-MOST]

    def doubtful(self, id: int, size: int, question: object) -> bool:
        """Whether a reply of this size may be one to another question."""
        return any(owed == size and asked != question for owed, asked in self._owed.get(id, ()))

    def owes(self, id: int, question: object) -> bool:
        """Whether this question has had no reply, nor any that was asked later."""
        return any(asked == question for _, asked in self._owed.get(id, ()))

    def arrived(self, id: int, size: int) -> bool:
        """A reply came: the oldest one of its size that is owed, and what is older than that is past. False
        if none was."""
        entries = self._owed.get(id, ())
        for place, (owed, _) in enumerate(entries):
            if owed == size:
                self._owed[id] = list(entries[place + 1 :])
                if not self._owed[id]:
                    del self._owed[id]
                return True
        return False
