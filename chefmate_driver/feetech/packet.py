# SPDX-License-Identifier: Apache-2.0
"""Feetech packets as bytes.

Instruction: FF FF | id | length | instruction | parameters | checksum; status: the same with an error byte in
place of the instruction. length = parameters + 2; checksum = ~(id + length + code + parameters) & FF; words
little-endian. Source: Feetech communication protocol manual for SMS/STS servos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import NamedTuple

HEADER = b"\xff\xff"
BROADCAST_ID = 0xFE
MAX_ID = 0xFD
MIN_LENGTH = 2
# header 2, id 1, length 1, code 1, checksum 1
OVERHEAD = 6
BITS_PER_BYTE = 10  # 8N1


class Instruction(IntEnum):
    """Instruction codes of the STS series."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    RESET = 0x06
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


class StatusBit(IntFlag):
    """Fault bits of error byte and register 65. Bit 4's meaning is disputed: not a fault here."""

    VOLTAGE = 1
    SENSOR = 2
    TEMPERATURE = 4
    CURRENT = 8
    OVERLOAD = 32


def status_text(status: int) -> str:
    """Names of the set fault bits, comma-separated; empty for a healthy servo."""
    return ", ".join(bit.name.lower() for bit in StatusBit if bit.name is not None and status & bit)


class Packet(NamedTuple):
    """One packet. `code` is the instruction, or the error byte of a status packet."""

    id: int
    code: int
    parameters: bytes = b""


def checksum(body: bytes) -> int:
    """Checksum over id, length, code and parameters."""
    return ~sum(body) & 0xFF


def encode(id: int, code: int, parameters: bytes = b"") -> bytes:
    """A whole packet, instruction or status."""
    length = len(parameters) + MIN_LENGTH
    if not 0 <= id <= BROADCAST_ID or not 0 <= code <= 0xFF or length > 0xFF:
        raise ValueError(f"packet out of range: id {id}, code {code}, {len(parameters)} parameter bytes")
    body = bytes((id, length, code)) + parameters
    return HEADER + body + bytes((checksum(body),))


def encode_sync_read(address: int, size: int, ids: Sequence[int]) -> bytes:
    """Asks each of `ids` for `size` bytes from `address`; they answer in turn."""
    return _encode_sync_read(address, size, tuple(ids))


@lru_cache(maxsize=64)  # a control loop asks the same in each cycle
def _encode_sync_read(address: int, size: int, ids: tuple[int, ...]) -> bytes:
    return encode(BROADCAST_ID, Instruction.SYNC_READ, bytes((address, size, *ids)))


def encode_sync_write(address: int, values: Mapping[int, bytes]) -> bytes:
    """Writes equally long data from `address` to several servos at once; nobody answers."""
    sizes = {len(data) for data in values.values()}
    if len(sizes) != 1:
        raise ValueError(
            f"sync write needs equally long data for at least one servo, got lengths {sorted(sizes)}"
        )
    parameters = bytes((address, sizes.pop())) + b"".join(bytes((id,)) + data for id, data in values.items())
    return encode(BROADCAST_ID, Instruction.SYNC_WRITE, parameters)


class PacketParser:
    """Finds packets in a byte stream, whatever lies between them.

    A wrong checksum or length costs one byte, after which the search goes on, so a packet that follows
    garbage is found even where the garbage looked like a header. Attributes `discarded` (bytes) and `corrupt`
    (checksums) count; `accused` holds the ids that the packets with a wrong checksum named, until cleared.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.discarded = 0
        self.corrupt = 0
        self.accused: set[int] = set()

    def clear(self) -> None:
        """Forgets an unfinished packet."""
        self.discarded += len(self._buffer)
        self._buffer.clear()
        self.accused.clear()

    @property
    def pending(self) -> int:
        """Bytes of a packet that has begun and is not complete."""
        return len(self._buffer)

    def finish(self) -> list[Packet]:
        """No more bytes come: packets that hid behind a header that never became a packet."""
        packets: list[Packet] = []
        while self._buffer:
            del self._buffer[0]
            self.discarded += 1
            packets += self.feed(b"")
        return packets

    def feed(self, data: bytes) -> list[Packet]:
        """Adds received bytes; returns the packets that are complete now."""
        buffer = self._buffer
        buffer += data
        packets: list[Packet] = []
        start = 0
        while True:
            found = buffer.find(HEADER, start)
            if found < 0:
                # The last byte may be the first half of a header.
                keep = len(buffer) - 1 if buffer.endswith(b"\xff") else len(buffer)
                keep = max(keep, start)
                self.discarded += keep - start
                start = keep
                break
            self.discarded += found - start
            start = found
            if len(buffer) - start < 4:
                break
            length = buffer[start + 3]
            if buffer[start + 2] == 0xFF or length < MIN_LENGTH:
                self.discarded += 1
                start += 1
                continue
            end = start + 4 + length
            if len(buffer) < end:
                break
            if ~sum(buffer[start + 2 : end - 1]) & 0xFF != buffer[end - 1]:
                self.corrupt += 1
                self.accused.add(buffer[start + 2])
                self.discarded += 1
                start += 1
                continue
            packets.append(Packet(buffer[start + 2], buffer[start + 4], bytes(buffer[start + 5 : end - 1])))
            start = end
        del buffer[:start]
        return packets
