# SPDX-License-Identifier: Apache-2.0
"""The last half minute of the arm, in memory until something goes wrong, then in a file.

The control loop fills rows of fixed arrays; a thread of its own copies and writes them. A file is a NumPy
archive (.npz, `numpy.load` reads it, no pickles). docs/arm.md lists its arrays. `python -m
chefmate_driver.arm.black_box FILE` prints what happened.
"""

from __future__ import annotations

import os
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.model import JOINT_NAMES

SECONDS = 30.0  # of data in a file
AFTERMATH = 0.7  # s recorded after what went wrong: the braking belongs to the story
SPARE = 2.0  # s more in the ring than in a file: the loop goes on while a file is made
EVENTS = 2000  # newest events kept
END_PATIENCE = 3.0  # s that the end of the node waits for a file
COLUMNS = ("position", "velocity", "command", "load", "current", "temperature", "voltage", "status")
FORMAT = 1

Array = NDArray[Any]


def default_folder() -> Path:
    """Where ROS keeps its logs, by its own rules, and in there `black_box`."""
    if folder := os.environ.get("ROS_LOG_DIR"):
        return Path(folder).expanduser() / "black_box"
    home = os.environ.get("ROS_HOME") or "~/.ros"
    return Path(home).expanduser() / "log" / "black_box"


class BlackBox:
    """Rows of joint data and events, written by `trigger`. `record` and `note` never block and never fail."""

    def __init__(self, folder: Path, name: str, rate: float, most: int) -> None:
        """folder: made when needed. name: first part of the files' names. rate: rows per second, Hz. most:
        files of this name kept, the oldest go; 0: nothing is written."""
        self.folder, self.most = folder, most
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")
        self.newest = ""  # path of the newest file
        self.problem = ""  # why the newest attempt to write failed; empty: it did not
        self._size = max(int(rate * (SECONDS + SPARE)), 1)
        self._last = max(int(rate * SECONDS), 1)
        self._wall: Array = np.zeros(self._size, dtype=np.int64)
        self._rows: Array = np.zeros((self._size, len(COLUMNS), len(JOINT_NAMES)), dtype=np.float32)
        self._next = 0  # rows ever written
        self._events: deque[tuple[int, str, str]] = deque(maxlen=EVENTS)
        self._orders: queue.SimpleQueue[tuple[str, str, int] | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._writer: threading.Thread | None = None

    def record(self, wall: int, *columns: Array | Sequence[float]) -> None:
        """One cycle: wall time, ns, and the values of COLUMNS, (6,) each. In the loop's thread."""
        index = self._next % self._size
        self._wall[index] = wall
        row = self._rows[index]
        for place, values in enumerate(columns):
            row[place] = values
        self._next += 1

    def note(self, kind: str, text: str, wall: int | None = None) -> None:
        """An event: a command, a state, an instruction. wall: ns; None: now."""
        self._events.append((time.time_ns() if wall is None else wall, kind, text))

    def trigger(self, kind: str, reason: str) -> None:
        """Something went wrong (`kind`: fault, estop, loop): a file will be written, from another thread."""
        self.note(kind, reason)
        if self.most == 0:
            return
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="black-box", daemon=True)
            self._writer.start()
        self._orders.put((kind, reason, time.time_ns()))

    def close(self) -> None:
        """Writes what is due, without waiting for an aftermath, in bounded time."""
        self._hurry.set()
        if self._writer is not None:
            self._orders.put(None)
            self._writer.join(END_PATIENCE)
            self._writer = None
        self._hurry.clear()

    def _write_all(self) -> None:
        while (order := self._orders.get()) is not None:
            self._hurry.wait(AFTERMATH)
            try:
                self.newest = str(self._write(*order))
                self.problem = ""
            except OSError as error:
                self.problem = (
                    f"the black box could not be written to {self.folder}: {error.strerror or error}; free "
                    "space there or set the parameter `black_box_folder`"
                )

    def _write(self, kind: str, reason: str, wall: int) -> Path:
        moment = datetime.fromtimestamp(wall / 1e9).strftime("%Y%m%d-%H%M%S.%f")[:-3]
        path = self.folder / f"{self.name}-{moment}-{kind}.npz"
        content = self._content(kind, reason, wall)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                np.savez(file, **content)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        for old in sorted(self.folder.glob(f"{self.name}-*.npz"))[: -self.most]:
            old.unlink(missing_ok=True)
        return path

    def _content(self, kind: str, reason: str, wall: int) -> dict[str, Array]:
        end = self._next
        rows = np.arange(max(end - self._last, 0), end) % self._size
        events = list(self._events)
        first = int(self._wall[rows[0]]) if len(rows) else 0
        events = [event for event in events if event[0] >= first] or events[-1:]
        data = self._rows[rows]
        return {
            "format": np.array(FORMAT),
            "kind": np.array(kind),
            "reason": np.array(reason),
            "written_for": np.array(wall),
            "joints": np.array(JOINT_NAMES),
            "time": self._wall[rows],
            **{column: data[:, place] for place, column in enumerate(COLUMNS)},
            "event_time": np.array([event[0] for event in events], dtype=np.int64),
            "event_kind": np.array([event[1] for event in events], dtype=np.str_),
            "event_text": np.array([event[2] for event in events], dtype=np.str_),
        }


def story(path: Path) -> str:
    """What a file tells, for people: why it was written, its events, and where the joints were at the end."""
    with np.load(path, allow_pickle=False) as box:
        wall = int(box["written_for"])
        lines = [
            f"{path.name}: {box['kind']}: {box['reason']}",
            f"at {datetime.fromtimestamp(wall / 1e9).isoformat(timespec='milliseconds')}, "
            f"{len(box['time'])} rows",
            "",
            *(
                f"{(when - wall) / 1e9:9.3f} s  {kind:<12} {text}"
                for when, kind, text in zip(
                    box["event_time"], box["event_kind"], box["event_text"], strict=True
                )
            ),
        ]
        if len(box["time"]):
            last = {column: box[column][-1] for column in COLUMNS}
            lines += ["", f"{'last row':<14}" + "".join(f"{column:>13}" for column in COLUMNS)]
            lines += [
                f"{joint:<14}" + "".join(f"{last[column][row]:13.3f}" for column in COLUMNS)
                for row, joint in enumerate(box["joints"])
            ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.stdout.write("\n\n".join(story(Path(name)) for name in sys.argv[1:]) + "\n")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}; name a file written by the black box")
