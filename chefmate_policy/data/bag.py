# SPDX-License-Identifier: Apache-2.0
"""Writes a rosbag2 folder (MCAP) from serialized messages, in a thread of its own.

Messages pass through unchanged as CDR. Once per flush period all that has arrived is on its way to the disk,
so a killed recorder loses at most that and what was queued; the file then lacks its index, and
chefmate_policy.data.recovery makes a whole bag of what is there.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.storage_mcap import McapWriter

from chefmate_policy.data.message_types import RecordingError, add_type, jazzy_types

VERSION: Literal[9] = 9
"""Of metadata.yaml: what rosbag2 of Jazzy writes (rosbag2_storage/bag_metadata.hpp)."""


@dataclass(frozen=True)
class BagTotals:
    """What a recording holds so far."""

    messages: int
    size: int
    """bytes of messages"""
    dropped: int
    """messages that did not fit into the queue because the disk was too slow"""


class BagRecorder:
    """One recording: `add` topics, `write` messages from any thread, `close`.

    Args:
        folder: of the bag; must not exist.
        min_free_space: bytes; the recording ends with an error when the disk has less.
        queue_size: bytes of messages that may wait for the disk.
        flush_period: s.
        free_space: bytes free where a path is.

    Raises:
        RecordingError: the folder exists or cannot be made, or the disk is (nearly) full.
    """

    def __init__(
        self,
        folder: Path,
        *,
        min_free_space: int,
        queue_size: int = 64 << 20,
        flush_period: float = 1.0,
        free_space: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.folder = folder
        self._min_free_space, self._queue_size, self._flush_period = min_free_space, queue_size, flush_period
        self._free_space = free_space
        self._types = jazzy_types()
        self._queue: queue.SimpleQueue[tuple[Connection, int, bytes] | None] = queue.SimpleQueue()
        self._writing, self._counting = threading.Lock(), threading.Lock()
        self._waiting = self._messages = self._size = self._dropped = 0
        self._error = ""
        if folder.exists():
            raise RecordingError(f"{folder} exists already; give the recording a new folder.")
        self._writer: Writer | None = Writer(folder, version=VERSION, storage_plugin=StoragePlugin.MCAP)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._check_space()
            # rosbag2 expects a map here; the library writes null for an empty one.
            self._writer.set_custom_data("recorder", "chefmate")
            self._writer.open()
        except (OSError, WriterError) as error:
            raise RecordingError(f"cannot record to {folder}: {error}") from error
        self._thread = threading.Thread(target=self._run, name="bag", daemon=True)
        self._thread.start()

    @property
    def error(self) -> str:
        """Why the recording ended by itself; empty while it goes on."""
        return self._error

    @property
    def totals(self) -> BagTotals:
        """Counts so far; what still waits for the disk is not among them."""
        return BagTotals(self._messages, self._size, self._dropped)

    def add(self, topic: str, message_type: str, qos: Sequence[Qos] = ()) -> Connection:
        """Adds a topic.

        Args:
            topic: absolute name.
            message_type: for example std_msgs/msg/String.
            qos: what its publishers offer, for replay.

        Raises:
            RecordingError: the type's definition is not installed, or the recording has ended.
        """
        add_type(self._types, message_type)
        with self._writing:
            if self._error or self._writer is None:
                raise RecordingError(self._error or "the recording is closed.")
            return self._writer.add_connection(
                topic, message_type, typestore=self._types, offered_qos_profiles=list(qos)
            )

    def write(self, connection: Connection, stamp: int, data: bytes) -> bool:
        """Takes one serialized message (CDR), received at `stamp` (ns since the epoch). False: dropped."""
        if self._error or self._waiting + len(data) > self._queue_size:
            self._dropped += 1
            return False
        with self._counting:
            self._waiting += len(data)
        self._queue.put((connection, stamp, data))
        return True

    def close(self) -> None:
        """Writes what waits, the index and metadata.yaml.

        Raises:
            RecordingError: the recording had ended with an error before, or ends with one now.
        """
        self._queue.put(None)
        self._thread.join()
        with self._writing:
            self._finish()
        if self._error:
            raise RecordingError(self._error)

    def _run(self) -> None:
        flush_at = time.monotonic() + self._flush_period
        while True:
            entry = None
            with suppress(queue.Empty):
                entry = self._queue.get(timeout=max(0.0, flush_at - time.monotonic()))
                if entry is None:
                    return
            try:
                with self._writing:
                    if entry is not None:
                        self._put(*entry)
                    if time.monotonic() >= flush_at:
                        flush_at = time.monotonic() + self._flush_period
                        self._flush()
            except (OSError, RecordingError) as error:
                with self._writing:
                    self._finish(f"recording to {self.folder} ended: {error}")
                return

    def _put(self, connection: Connection, stamp: int, data: bytes) -> None:
        assert self._writer is not None
        with self._counting:
            self._waiting -= len(data)
        self._writer.write(connection, stamp, data)
        self._messages += 1
        self._size += len(data)

    def _flush(self) -> None:
        """Puts the messages so far into the file, where a killed process leaves them."""
        assert self._writer is not None
        storage = self._writer.storage
        if isinstance(storage, McapWriter):
            if storage.chunk.bio.tell():
                storage.close_chunk()
            storage.bio.flush()
        self._check_space()

    def _check_space(self) -> None:
        free = self._free_space(self.folder if self.folder.exists() else self.folder.parent)
        if free < self._min_free_space:
            raise RecordingError(
                f"{free / 1e9:.2f} GB are free on the disk of {self.folder}, fewer than "
                f"{self._min_free_space / 1e9:.2f} GB; free some space, or set min_free_space."
            )

    def _finish(self, error: str = "") -> None:
        """Closes the file; after a full disk the index may not fit any more, and the bag needs recovery."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except OSError as failure:
            with suppress(OSError):
                writer.abort()
            error = error or f"recording to {self.folder} ended: {failure}"
            mend = f"python -m chefmate_policy.data.recovery {self.folder} NEW_FOLDER"
            error += f". The index is missing: run {mend}"
        self._error = error
