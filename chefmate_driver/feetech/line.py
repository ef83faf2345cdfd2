# SPDX-License-Identifier: Apache-2.0
"""Requests and their replies on one serial line: who answered, what did not fit, and what came too late.

Nothing of registers in here. One thread uses a line at a time.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from chefmate_driver.feetech.adapter import AdapterLatency
from chefmate_driver.feetech.counters import ErrorCounts, total
from chefmate_driver.feetech.outstanding import MARK_SIZES, Outstanding
from chefmate_driver.feetech.packet import BITS_PER_BYTE, OVERHEAD, Instruction, Packet, PacketParser, encode
from chefmate_driver.feetech.serial_port import SerialPort

LONGEST_MARK = 8  # times its own patience that a mark is waited for while older replies keep coming


class Replies:
    """Sorts the packets that come upon one request."""

    __slots__ = ("conflicts", "extra", "found", "sizes", "status", "strangers")

    def __init__(self, sizes: Mapping[int, int]) -> None:
        """sizes: parameter bytes that are expected, by id of the servos that were asked."""
        self.sizes = sizes
        self.found: dict[int, bytes] = {}  # parameters by id
        self.status: dict[int, int] = {}  # error byte by id
        self.extra: list[int] = []  # ids that replied once more
        self.conflicts: set[int] = set()  # those of which the replies differ
        self.strangers: list[Packet] = []  # of other ids, or of other sizes

    def take(self, packet: Packet, expected: bool = False) -> None:
        """One valid packet. expected: its servo owes several, so that a second one is no surprise."""
        id = packet.id
        if self.sizes.get(id) != len(packet.parameters):
            self.strangers.append(packet)
            return
        if id in self.found:
            if not expected:
                self.extra.append(id)
            if self.found[id] != packet.parameters:
                self.conflicts.add(id)
        self.found[id] = packet.parameters
        self.status[id] = packet.code


class ServoLine:
    """Exchanges on an open port, and what went wrong with them. Base of FeetechBus."""

    def __init__(self, port: str, baudrate: int, reply_timeout: float) -> None:
        """Opens the port and locks it against others. PortNotFoundError, BusPortBusyError or FeetechError.

        reply_timeout: s of silence, beyond the bytes' own time on the wire, after which a reply counts as
        lost.
        """
        self.port, self.baudrate = port, baudrate
        self.reply_timeout = reply_timeout
        self.counters: defaultdict[int, ErrorCounts] = defaultdict(ErrorCounts)  # by servo id
        self.status: dict[int, int] = {}  # error byte of the newest reply by servo id
        self.transactions = 0  # requests that got (or should have got) replies
        self.stray_packets = 0  # valid packets of servos that nobody asked lately
        self._parser = PacketParser()
        self._serial = SerialPort(port, baudrate)
        self._heard = 0  # bytes received for the present request
        self._answered: set[int] = set()  # ids that replied to the newest request
        self._outstanding = Outstanding()
        self._silent: set[int] = set()  # ids that did not even answer a mark
        self._marks = 0  # marks sent

    def close(self) -> None:
        """Frees the port. The servos keep doing what they were told."""
        self._serial.close()

    @property
    def errors(self) -> dict[int, int]:
        """Requests without a usable reply (each repetition counts) by servo id, where there were any."""
        return {id: counts.failed for id, counts in self.counters.items() if counts.failed}

    @property
    def error_kinds(self) -> dict[int, dict[str, int]]:
        """Counts by servo id and kind, see ErrorCounts; only servos with which something happened."""
        return {id: counts.as_dict() for id, counts in self.counters.items()}

    @property
    def totals(self) -> ErrorCounts:
        """Counts of all servos together."""
        return total(self.counters.values()) if self.counters else ErrorCounts()

    @property
    def garbage(self) -> int:
        """Bytes received that were no part of a valid packet."""
        return self._parser.discarded

    @property
    def latency(self) -> AdapterLatency:
        """How the adapter hands over bytes, as it was when the port was opened."""
        return self._serial.low_latency

    def late_replies(self, ids: Iterable[int], seconds: float = 0.0) -> dict[int, int]:
        """Replies of each servo that came too late so far, those of the next `seconds` among them."""
        if seconds and self._outstanding:
            for packet in self._listen(seconds):
                self._drop(packet)
        return {id: self.counters[id].late if id in self.counters else 0 for id in ids}

    def wire_time(self, *sizes: int) -> float:
        """s that so many bytes take on the wire."""
        return sum(sizes) * BITS_PER_BYTE / self.baudrate

    def _exchange(
        self,
        request: bytes,
        sizes: Mapping[int, int],
        question: object | None = None,
        *,
        count: bool = True,
        latest: float = math.inf,
    ) -> dict[int, bytes]:
        """Sends a request; returns the payload of each timely reply of the size in `sizes`.

        question: a reply to an earlier, equal one will do, since it says the same, only a little older. Any
        other late reply is told apart, or not taken. None: it equals no other. latest: s, monotonic clock,
        beyond which nothing is waited for. BusLostError.
        """
        self.transactions += 1
        question = object() if question is None else question
        self._settle(sizes, question, latest)
        parser, outstanding = self._parser, self._outstanding
        discarded = parser.discarded
        self._serial.write(request)
        expected = sum(sizes.values()) + OVERHEAD * len(sizes)
        deadline = time.monotonic() + self.wire_time(len(request), expected) + self.reply_timeout
        deadline = min(deadline, latest)
        late_ones_may_come = bool(outstanding)
        if late_ones_may_come:
            for id, size in sizes.items():
                outstanding.ask(id, size, question)
        replies = Replies(sizes)
        found = replies.found
        self._heard = 0
        while len(found) < len(sizes):
            remaining = deadline - time.monotonic()
            if remaining <= 0.0:
                break
            data = self._serial.read(remaining)
            self._heard += len(data)
            for packet in parser.feed(data):
                if late_ones_may_come:
                    self._sort(packet, replies, question)
                else:
                    replies.take(packet)
        if len(found) < len(sizes):
            for packet in parser.finish():
                if late_ones_may_come:
                    self._sort(packet, replies, question)
                else:
                    replies.take(packet)
        for id in replies.extra:
            self.counters[id].duplicate += 1
        for id in replies.conflicts:  # one of the two is late, or of another servo: neither is believed
            del found[id]
        self.status.update(replies.status)
        self._answered = set(replies.status)
        if self._silent:
            self._silent.difference_update(replies.status)
        if len(found) == len(sizes):
            if replies.strangers:
                self.stray_packets += sum(1 for packet in replies.strangers if packet.id not in sizes)
            return found
        missing = [id for id in sizes if id not in replies.status]
        if count:
            self._count_missing(missing, sizes, replies.strangers, parser.discarded - discarded)
        if not late_ones_may_come:
            for id in missing:
                outstanding.ask(id, sizes[id], question)
        return found

    def _sort(self, packet: Packet, replies: Replies, question: object) -> None:
        """One packet while replies to earlier requests may still come."""
        id, size = packet.id, len(packet.parameters)
        doubtful = self._outstanding.doubtful(id, size, question)
        owed = self._outstanding.arrived(id, size)
        self._silent.discard(id)
        if replies.sizes.get(id) == size and not doubtful:
            if owed and id in replies.found:
                self._count_late(packet)
            replies.take(packet, owed)
        elif owed:
            self._count_late(packet)
        else:
            replies.strangers.append(packet)

    def _count_late(self, packet: Packet) -> None:
        if len(packet.parameters) not in MARK_SIZES:
            self.counters[packet.id].late += 1

    def _count_missing(
        self, missing: Sequence[int], sizes: Mapping[int, int], strangers: Sequence[Packet], odd: int
    ) -> None:
        """One kind for each reply that did not come, by what came instead. odd: bytes of no packet."""
        others = sum(1 for packet in strangers if packet.id not in sizes)
        misfits = {packet.id for packet in strangers} | self._parser.accused
        for id in missing:
            counts = self.counters[id]
            if id in misfits:
                counts.corrupt += 1
                odd -= OVERHEAD + sizes[id]
            elif others:
                counts.wrong_id += 1
                others -= 1
            elif odd > 0:
                counts.corrupt += 1
                odd -= OVERHEAD + sizes[id]
            else:
                counts.lost += 1

    def _settle(self, sizes: Mapping[int, int], question: object, latest: float) -> None:
        """Makes sure that no reply to an earlier request is taken for one to the next."""
        self._drain()
        if not self._outstanding:
            return
        for id, size in sizes.items():
            if id not in self._silent and self._outstanding.doubtful(id, size, question):
                self._mark(id, latest)

    def _mark(self, id: int, latest: float) -> None:
        """Asks a servo for something whose reply nothing else looks like: what comes after it is new.

        Where it does not come, replies that may be old ones are not believed, until a mark's has come.
        """
        size = MARK_SIZES[self._marks % len(MARK_SIZES)]
        self._marks += 1
        mark = object()
        request = encode(id, Instruction.READ, bytes((0, size)))
        patience = self.wire_time(len(request), OVERHEAD + size) + self.reply_timeout
        self._serial.write(request)
        self._outstanding.ask(id, size, mark)
        heard = False
        deadline = min(time.monotonic() + patience, latest)
        latest = min(time.monotonic() + LONGEST_MARK * patience, latest)
        while self._outstanding.owes(id, mark):
            left = deadline - time.monotonic()
            if left <= 0.0:
                if not heard:
                    self._silent.add(id)
                return
            for packet in self._parser.feed(self._serial.read(left)):
                self._drop(packet)
                if packet.id == id:  # the older ones come: so will this one
                    heard, deadline = True, min(time.monotonic() + patience, latest)

    def _drain(self) -> None:
        """Forgets what came since the newest request was done with."""
        data = self._serial.read(0.0)
        while data:
            for packet in self._parser.feed(data):
                self._drop(packet)
            data = self._serial.read(0.0)
        self._parser.clear()

    def _drop(self, packet: Packet) -> None:
        if self._silent:
            self._silent.discard(packet.id)
        if self._outstanding.arrived(packet.id, len(packet.parameters)):
            self._count_late(packet)
        elif packet.id in self._answered:
            self.counters[packet.id].duplicate += 1
        else:
            self.stray_packets += 1

    def _listen(self, seconds: float) -> list[Packet]:
        """All packets of the next `seconds`."""
        deadline = time.monotonic() + seconds
        packets: list[Packet] = []
        while (left := deadline - time.monotonic()) > 0.0:
            packets += self._parser.feed(self._serial.read(left))
        return packets + self._parser.finish()
