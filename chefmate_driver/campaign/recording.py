# SPDX-License-Identifier: Apache-2.0
"""What passed over the servo wire in one run, with what was asked of the driver and what it said."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class Direction(str, Enum):
    """Who put the bytes on the wire."""

    COMMAND = "command"  # the driver
    REPLY = "reply"  # the servos


class Mark(str, Enum):
    """What happened beside the wire, as far as it decides what may be on it."""

    TORQUE_ON_ASKED = "torque on asked"
    TORQUE_OFF_ASKED = "torque off asked"
    MOTION_ASKED = "motion asked"  # a trajectory or a move was given to the driver
    ESTOP = "e-stop latched"
    ESTOP_RELEASED = "e-stop released"
    FAULT = "driver says FAULT"  # its state, as the outside sees it
    PORT_OPENED = "port opened"  # a fresh wire: what was half sent before is gone


@dataclass(frozen=True)
class Chunk:
    """Bytes as they were seen at once."""

    time: float  # s, CLOCK_MONOTONIC, of the first byte
    direction: Direction
    data: bytes


@dataclass
class Recording:
    """Chunks and marks of one run; both on CLOCK_MONOTONIC, which all processes of a machine share."""

    chunks: list[Chunk] = field(default_factory=list)
    marks: list[tuple[float, Mark]] = field(default_factory=list)

    def command(self, time: float, data: bytes) -> None:
        """The driver wrote `data`."""
        self.chunks.append(Chunk(time, Direction.COMMAND, data))

    def reply(self, time: float, data: bytes) -> None:
        """The servos wrote `data`."""
        self.chunks.append(Chunk(time, Direction.REPLY, data))

    def mark(self, time: float, what: Mark) -> None:
        """`what` happened at `time`."""
        self.marks.append((time, what))

    def in_order(self) -> Iterable[tuple[float, Chunk | Mark]]:
        """Everything by time; at equal times marks come first."""
        entries: list[tuple[float, int, Chunk | Mark]] = [(time, 0, mark) for time, mark in self.marks]
        entries += [(chunk.time, 1, chunk) for chunk in self.chunks]
        return ((time, entry) for time, _, entry in sorted(entries, key=lambda entry: entry[:2]))

    def save(self, path: Path) -> None:
        """One JSON object per line, for a look at a failed run."""
        lines = []
        for time, entry in self.in_order():
            if isinstance(entry, Chunk):
                lines.append({"time": time, entry.direction.value: entry.data.hex()})
            else:
                lines.append({"time": time, "mark": entry.value})
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def load(cls, path: Path) -> Recording:
        """What `save` wrote."""
        recording = cls()
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if "mark" in entry:
                recording.mark(entry["time"], Mark(entry["mark"]))
            elif "command" in entry:
                recording.command(entry["time"], bytes.fromhex(entry["command"]))
            else:
                recording.reply(entry["time"], bytes.fromhex(entry["reply"]))
        return recording
