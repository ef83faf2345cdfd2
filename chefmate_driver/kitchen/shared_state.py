# SPDX-License-Identifier: Apache-2.0
"""The twin's state in shared memory: one process writes it, renderers in other processes read it.

A file in /dev/shm holds a header, one state under a sequence lock, and the compiled model, so that a
renderer needs nothing but the name. The lock counts up before and after each write; a reader that saw an odd
count, or two counts, reads again. It leans on x86's order of stores; design.md names x86-64 as the platform.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.kitchen.config import KitchenError

FOLDER = Path("/dev/shm")
PREFIX = "chefmate-twin."
# magic, layout version, pid, start time of pid (clock ticks since boot), nq, looks, bytes of the model, its
# SHA-256
_HEADER = struct.Struct("<8sIIQIIQ32s")
_MAGIC, _VERSION = b"CHEFTWIN", 1
_STATE_AT = 128  # bytes; two cache lines behind the header
_NUMBERS = 5  # lock, stamp, writes, generation, simulated time: 8 bytes each
READ_PATIENCE = 0.05  # s, a write takes some microseconds


@dataclass(frozen=True)
class StateSample:
    """One state. stamp: wall time, ns. writes: states written so far. generation: changes with the
    appearance.

    simulated: s of physics since the start. qpos: (nq,) as MuJoCo orders it; m, rad, quaternions w x y z.
    """

    stamp: int
    writes: int
    generation: int
    simulated: float
    qpos: NDArray[np.float64]


class _Block:
    """Views of the mapped file."""

    def __init__(self, memory: mmap.mmap, nq: int, looks: int) -> None:
        self.counts = np.frombuffer(memory, dtype=np.int64, count=4, offset=_STATE_AT)
        self.simulated = np.frombuffer(memory, dtype=np.float64, count=1, offset=_STATE_AT + 32)
        at = _STATE_AT + 8 * _NUMBERS
        self.qpos = np.frombuffer(memory, dtype=np.float64, count=nq, offset=at)
        self.look = np.frombuffer(memory, dtype=np.float64, count=looks, offset=at + 8 * nq)

    @staticmethod
    def model_at(nq: int, looks: int) -> int:
        return _STATE_AT + 8 * (_NUMBERS + nq + looks)


def path_of(name: str) -> Path:
    """File of a shared state. Raises KitchenError for a name that is no plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise KitchenError(f"shared_memory {name!r} may hold letters, digits, _ . and - only.")
    return FOLDER / (PREFIX + name)


def owner_of(path: Path) -> int | None:
    """Process id of the living writer of a shared state, None when it is dead or the file is none of ours."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except OSError:
        return None
    if len(header) < _HEADER.size or header[:8] != _MAGIC:
        return None
    _, _, pid, started, *_ = _HEADER.unpack(header)
    return pid if _start_time(pid) == started else None


def remove_abandoned() -> list[Path]:
    """Removes shared states whose writer is dead (killed before it could). Returns what it removed."""
    removed = []
    for path in FOLDER.glob(PREFIX + "*"):
        try:
            if path.stat().st_uid == os.getuid() and owner_of(path) is None:
                path.unlink()
                removed.append(path)
        except FileNotFoundError:
            continue  # its owner was quicker
    return removed


class StateWriter:
    """The writing end. One per name: raises KitchenError while another living process writes to it."""

    def __init__(self, name: str, model: bytes, nq: int, look: NDArray[np.float64]) -> None:
        """model: the compiled model as MuJoCo saves it. look: (n,) the appearance, see render.pack_look."""
        self.path = path_of(name)
        remove_abandoned()
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        at = _Block.model_at(nq, look.size)
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            os.getpid(),
            _start_time(os.getpid()) or 0,
            nq,
            look.size,
            len(model),
            hashlib.sha256(model).digest(),
        )
        with temporary.open("w+b") as file:
            file.write(header)
            file.seek(at)
            file.write(model)
            file.flush()
            self._memory = mmap.mmap(file.fileno(), at + len(model))
        try:
            # A link fails if the name exists: two kitchens that start together cannot both get it.
            os.link(temporary, self.path)
        except FileExistsError as error:
            raise KitchenError(
                f"a twin with shared_memory {name!r} already runs (process {owner_of(self.path)}): "
                "stop it, or choose another name."
            ) from error
        finally:
            temporary.unlink()
        self._block = _Block(self._memory, nq, look.size)
        self._block.look[:] = look
        self._writes = 0
        self._generation = 1

    def write(
        self, qpos: NDArray[np.float64], simulated: float, look: NDArray[np.float64] | None = None
    ) -> int:
        """Publishes a state; look where it changed. Returns its stamp: now, wall time in ns."""
        block = self._block
        counts = block.counts
        self._writes += 1
        counts[0] += 1
        stamp = time.time_ns()
        counts[1] = stamp
        counts[2] = self._writes
        if look is not None:
            self._generation += 1
            block.look[:] = look
        counts[3] = self._generation
        block.simulated[0] = simulated
        block.qpos[:] = qpos
        counts[0] += 1
        return stamp

    def close(self) -> None:
        """Removes the file; readers that have it open notice by its age."""
        if owner_of(self.path) == os.getpid():
            self.path.unlink(missing_ok=True)


class StateReader:
    """A reading end. Raises KitchenError when there is no such shared state, or a foreign one."""

    def __init__(self, name: str) -> None:
        self.path = path_of(name)
        try:
            with self.path.open("rb") as file:
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, ValueError) as error:
            raise KitchenError(
                f"no twin runs under the name {name!r} ({self.path} does not exist): start kitchen_node with "
                f"shared_memory:={name}."
            ) from error
        magic, version, self.pid, self._started, nq, looks, size, digest = _HEADER.unpack(
            self._memory[: _HEADER.size]
        )
        if magic != _MAGIC or version != _VERSION:
            raise KitchenError(f"{self.path} is no state of this version of the twin: restart kitchen_node.")
        at = _Block.model_at(nq, looks)
        self.model = bytes(self._memory[at : at + size])
        if hashlib.sha256(self.model).digest() != digest:
            raise KitchenError(f"the model in {self.path} is damaged: restart kitchen_node.")
        self._block = _Block(self._memory, nq, looks)
        self.look = np.array(self._block.look)
        self.generation = 0

    @property
    def alive(self) -> bool:
        """Whether the writing process still runs."""
        return _start_time(self.pid) == self._started

    def read(self) -> StateSample | None:
        """The newest state, None before the first. `look` follows when its generation changed.

        Raises KitchenError when no whole state can be read: the writer died while it wrote.
        """
        block, deadline = self._block, time.monotonic() + READ_PATIENCE
        while True:
            before = int(block.counts[0])
            if before == 0:
                return None
            if before % 2 == 0:
                _, stamp, writes, generation = (int(v) for v in block.counts)
                simulated = float(block.simulated[0])
                qpos = np.array(block.qpos)
                look = np.array(block.look) if generation != self.generation else None
                if int(block.counts[0]) == before:
                    if look is not None:
                        self.look, self.generation = look, generation
                    return StateSample(stamp, writes, generation, simulated, qpos)
            if time.monotonic() > deadline:
                raise KitchenError(f"{self.path} holds half a state: its writer, process {self.pid}, died.")
            time.sleep(0.0)

    def close(self) -> None:
        """Lets go of the memory (with the last view of it)."""
        del self._block
        self._memory.close() if not self._memory.closed else None


def _start_time(pid: int) -> int | None:
    """Start of a living process in clock ticks since boot (proc(5), field 22), None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    # A zombie has an entry and does nothing any more.
    return None if fields[0] in ("Z", "X") else int(fields[19])
