# SPDX-License-Identifier: Apache-2.0
"""What went wrong on the bus, counted by servo and by kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields


@dataclass(slots=True)
class ErrorCounts:
    """Events since the port was opened, of one servo or of the whole bus."""

    lost: int = 0  # nothing came within the reply timeout
    corrupt: int = 0  # bytes came that were no whole, right reply: checksum, length, or cut short
    wrong_id: int = 0  # a valid reply came, of a servo that had not been asked
    late: int = 0  # a reply came after its request had been given up
    duplicate: int = 0  # a second reply to one request: two servos of one id
    implausible: int = 0  # a valid reply with a value that the servo's mode cannot have; not used
    retries: int = 0  # times that this servo was asked again

    @property
    def failed(self) -> int:
        """Requests (each repetition counts) that brought no usable reply."""
        return self.lost + self.corrupt + self.wrong_id

    def as_dict(self) -> dict[str, int]:
        """Counts by kind."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """The sum of several servos' counts."""
    return ErrorCounts(*(sum(column) for column in zip(*map(astuple, counts), strict=True)))
