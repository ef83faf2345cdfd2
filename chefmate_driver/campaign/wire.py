# SPDX-License-Identifier: Apache-2.0
"""A second reading of the Feetech wire, for the monitor alone: nothing of `chefmate_driver.feetech` is used.

FF FF | id | length | code | parameters | checksum, with length = parameters + 2 and checksum = the inverted
low byte of the sum from id to the last parameter. Source: Feetech's communication protocol manual (SMS/STS).
"""

from __future__ import annotations

from dataclasses import dataclass

BROADCAST = 254
PING, READ, WRITE, REG_WRITE, ACTION, RESET, SYNC_READ, SYNC_WRITE = 1, 2, 3, 4, 5, 6, 0x82, 0x83
LONGEST_PAUSE = 0.02  # s; a packet of the driver is written at once, so its rest never comes this late


@dataclass(frozen=True)
class Frame:
    """One packet with a right checksum."""

    time: float  # s, when its first byte was seen
    id: int
    code: int
    body: bytes


@dataclass(frozen=True)
class Scrap:
    """Bytes that are no packet."""

    time: float  # s
    data: bytes
    checksum: bool  # True: a whole packet whose checksum is wrong


class FrameReader:
    """Cuts a stream of bytes into frames and scraps."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._times: list[float] = []  # one per byte

    def forget(self) -> list[Scrap]:
        """The wire was cut; returns what was begun and not finished."""
        scraps = [Scrap(self._times[0], bytes(self._bytes), False)] if self._bytes else []
        self._drop(len(self._bytes))
        return scraps

    def feed(self, time: float, data: bytes) -> list[Frame | Scrap]:
        """What is complete with `data`, seen at `time` (s)."""
        found: list[Frame | Scrap] = []
        if self._times and time - self._times[-1] > LONGEST_PAUSE:
            found += self.forget()
        self._bytes += data
        self._times += [time] * len(data)
        while self._bytes:
            start = self._bytes.find(b"\xff\xff")
            if start < 0:
                # A last FF may be the first half of a header.
                start = len(self._bytes) - (1 if self._bytes[-1] == 0xFF else 0)
            if start:
                found.append(Scrap(self._times[0], bytes(self._bytes[:start]), False))
                self._drop(start)
            if len(self._bytes) < 4 or len(self._bytes) < 4 + self._bytes[3]:
                break
            size = 4 + self._bytes[3]
            packet, when = bytes(self._bytes[:size]), self._times[0]
            if size < 6 or packet[2] == 0xFF:
                found.append(Scrap(when, packet[:1], False))
                self._drop(1)
                continue
            if (sum(packet[2:]) & 0xFF) != 0xFF:
                # The length may be what is wrong, and a good packet begin inside.
                found.append(Scrap(when, packet, True))
                self._drop(2)
            else:
                found.append(Frame(when, packet[2], packet[4], packet[5:-1]))
                self._drop(size)
        return found

    def _drop(self, count: int) -> None:
        del self._bytes[:count]
        del self._times[:count]


def word(data: bytes, place: int) -> int:
    """Little-endian word, sign-magnitude with the sign in bit 15: goal and present position."""
    raw = data[place] | data[place + 1] << 8
    return -(raw & 0x7FFF) if raw & 0x8000 else raw


def sync_entries(body: bytes) -> list[tuple[int, bytes]] | None:
    """(id, data) of a sync write's body: address, size, size + 1 bytes each. None if it does not divide."""
    if len(body) < 2 or body[1] < 1 or len(body) == 2 or (len(body) - 2) % (body[1] + 1):
        return None
    step = body[1] + 1
    return [(body[place], body[place + 1 : place + step]) for place in range(2, len(body), step)]
