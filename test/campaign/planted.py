# SPDX-License-Identifier: Apache-2.0
"""Recordings made by hand: a well-behaved driver at 100 Hz, into which violations are planted as bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from chefmate_driver.campaign.envelope import Envelope
from chefmate_driver.campaign.recording import Mark, Recording

PERIOD = 0.01  # s
SYNC_READ, SYNC_WRITE, WRITE = 0x82, 0x83, 0x03


def packet(id: int, code: int, body: Sequence[int] | bytes = b"") -> bytes:
    """A packet with its checksum."""
    inner = bytes((id, len(body) + 2, code, *body))
    return b"\xff\xff" + inner + bytes((~sum(inner) & 0xFF,))


def word(value: int) -> bytes:
    return (abs(value) | (0x8000 if value < 0 else 0)).to_bytes(2, "little")


def sync_write(address: int, values: dict[int, bytes]) -> bytes:
    size = len(next(iter(values.values())))
    return packet(
        254, SYNC_WRITE, bytes((address, size)) + b"".join(bytes((i,)) + v for i, v in values.items())
    )


class Driver:
    """Writes a recording cycle by cycle; the servos are where they were told to be one cycle before."""

    def __init__(self, envelope: Envelope, pose: Sequence[float]) -> None:
        self.envelope, self.recording = envelope, Recording()
        self.now = 100.0
        self.position = np.array(pose, dtype=np.float64)  # rad
        self.silent: set[int] = set()
        self.torque = False

    def ticks(self, pose: np.ndarray) -> np.ndarray:
        return np.rint(self.envelope.zero + self.envelope.scale * pose).astype(int)

    def send(self, data: bytes) -> None:
        self.recording.command(self.now, data)
        self.now += 1e-4

    def mark(self, what: Mark) -> None:
        self.recording.mark(self.now, what)

    def read(self) -> None:
        """One feedback read, as every cycle has it."""
        self.send(packet(254, SYNC_READ, (56, 15, *self.envelope.ids)))
        for id, ticks in zip(self.envelope.ids, self.ticks(self.position), strict=True):
            if id not in self.silent:
                self.recording.reply(self.now, packet(id, 0, word(int(ticks)) + bytes(13)))

    def read_torque(self) -> None:
        self.send(packet(254, SYNC_READ, (40, 1, *self.envelope.ids)))
        for id in self.envelope.ids:
            self.recording.reply(self.now, packet(id, 0, bytes((int(self.torque),))))

    def goals(self, ticks: Sequence[int] | np.ndarray) -> None:
        self.send(sync_write(42, {i: word(int(t)) for i, t in zip(self.envelope.ids, ticks, strict=True)}))

    def torque_on(self, *, ask: bool = True, preload: bool = True) -> None:
        """As an arm node switches torque on."""
        if ask:
            self.mark(Mark.TORQUE_ON_ASKED)
        self.read()
        if preload:
            self.goals(self.ticks(self.position))
        self.send(sync_write(55, {id: b"\1" for id in self.envelope.ids}))
        self.send(sync_write(40, {id: b"\1" for id in self.envelope.ids}))
        self.torque = True

    def cycle(self, goal: np.ndarray | None = None) -> None:
        """One control cycle; `goal` in rad."""
        start = self.now
        self.read()
        if goal is not None:
            self.goals(self.ticks(goal))
            if self.torque:
                self.position = np.array(goal, dtype=np.float64)
        self.now = start + PERIOD

    def follow(self, path: Callable[[float], np.ndarray], seconds: float, *, late: float = 0.0) -> None:
        """Cycles along `path` (s -> rad), each up to `late` s after its place on the grid."""
        noise = np.random.default_rng(7)
        begin = self.now
        for index in range(round(seconds / PERIOD)):
            self.now = begin + index * PERIOD + float(noise.uniform(0.0, late))
            self.cycle(path((index + 1) * PERIOD))
        self.now = begin + seconds

    def wait(self, seconds: float) -> None:
        """Cycles without a goal."""
        for _ in range(round(seconds / PERIOD)):
            self.cycle()


def smooth(start: np.ndarray, goal: np.ndarray, seconds: float) -> Callable[[float], np.ndarray]:
    """From rest to rest by a cubic."""

    def at(time: float) -> np.ndarray:
        s = min(max(time / seconds, 0.0), 1.0)
        return start + (3 * s * s - 2 * s**3) * (goal - start)

    return at
