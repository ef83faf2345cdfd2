# SPDX-License-Identifier: Apache-2.0
"""Master of a Feetech servo bus.

One thread uses a bus at a time. Every reply's id, length and checksum are checked; requests are repeated a
bounded number of times; what went wrong is counted by servo and kind; the error byte of each reply is kept in
`status`, since a set bit still comes with valid data. EEPROM is written only inside `FeetechBus.eeprom`.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from chefmate_driver.feetech.adapter import AdapterLatency
from chefmate_driver.feetech.counters import ErrorCounts, total
from chefmate_driver.feetech.errors import (
    BusProtocolError,
    EepromError,
    FeetechError,
    RegisterError,
    ServoMissingError,
)
from chefmate_driver.feetech.packet import (
    BITS_PER_BYTE,
    MAX_ID,
    OVERHEAD,
    Instruction,
    Packet,
    PacketParser,
    encode,
    encode_sync_read,
    encode_sync_write,
)
from chefmate_driver.feetech.ports import stable_name
from chefmate_driver.feetech.registers import BAUD_RATES, RAM_ADDRESS, Area, Register, register
from chefmate_driver.feetech.serial_port import SerialPort

PROBES = 3  # pings of one probe; replies of two servos with one id collide, or not, by chance
LOCK = register("lock").address


@dataclass(frozen=True, slots=True)
class Probe:
    """What came back on pings of one id."""

    id: int
    pings: int
    replies: int  # valid replies of this id
    most_replies: int  # to a single ping
    odd_bytes: int  # bytes that belong to no valid reply
    status: int  # error byte of the newest reply

    @property
    def present(self) -> bool:
        """Whether at least one servo answered."""
        return self.replies > 0 or self.odd_bytes > 0

    @property
    def duplicate(self) -> bool:
        """Whether two servos have this id: two replies to one ping, or replies that collided."""
        return self.most_replies > 1 or self.odd_bytes > 0


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

    def take(self, packet: Packet) -> None:
        """One valid packet."""
        id = packet.id
        if self.sizes.get(id) != len(packet.parameters):
            self.strangers.append(packet)
            return
        if id in self.found:
            self.extra.append(id)
            if self.found[id] != packet.parameters:
                self.conflicts.add(id)
        self.found[id] = packet.parameters
        self.status[id] = packet.code


class FeetechBus:
    """Verbs of the bus: ping, read, write, sync_read, sync_write. A context manager."""

    def __init__(
        self, port: str, baudrate: int = 1_000_000, *, reply_timeout: float = 0.01, retries: int = 2
    ) -> None:
        """Opens the port and locks it against others.

        reply_timeout: s of silence, beyond the bytes' own time on the wire, after which a reply counts as
        lost. retries: how often a request is repeated. Raises PortNotFoundError, BusPortBusyError or
        FeetechError.
        """
        self.port, self.baudrate = port, baudrate
        self.reply_timeout, self.retries = reply_timeout, retries
        self.counters: defaultdict[int, ErrorCounts] = defaultdict(ErrorCounts)  # by servo id
        self.status: dict[int, int] = {}  # error byte of the newest reply by servo id
        self.transactions = 0  # requests that got (or should have got) replies
        self.failures = 0  # transactions that failed after all repetitions
        self.stray_packets = 0  # valid packets of servos that nobody asked lately
        self._parser = PacketParser()
        self._serial = SerialPort(port, baudrate)
        self.stable_port = stable_name(port)  # name under which the device is found after unplugging
        self._heard = 0  # bytes received for the present request
        self._overdue: set[int] = set()  # ids whose reply to the newest request is missing
        self._overdue_of = b""  # what they were asked for
        self._answered: set[int] = set()  # ids that replied to the newest request
        self._silent: set[int] = set()  # ids that did not even answer late
        self._unlocked: set[int] = set()  # ids whose EEPROM is open

    def __enter__(self) -> FeetechBus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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

    def wire_time(self, *sizes: int) -> float:
        """s that so many bytes take on the wire."""
        return sum(sizes) * BITS_PER_BYTE / self.baudrate

    def ping(self, id: int) -> int:
        """Error byte of the servo. ServoMissingError or BusProtocolError if it does not answer."""
        self._request(encode(id, Instruction.PING), {id: 0}, f"ping of servo {id}")
        return self.status[id]

    def probe(self, id: int, pings: int = PROBES) -> Probe:
        """Pings an id and listens on after the first reply, so that a second servo of that id is heard.

        A silent id costs one reply timeout, an answering one `pings` of them. BusLostError.
        """
        replies = most = odd = sent = 0
        for _ in range(pings):
            self._drain()
            before = self._parser.discarded
            self._serial.write(encode(id, Instruction.PING))
            sent += 1
            packets = self._listen(self.wire_time(2 * OVERHEAD) + self.reply_timeout)
            mine = [packet for packet in packets if packet.id == id and not packet.parameters]
            for packet in mine:
                self.status[id] = packet.code
            strange = sum(OVERHEAD + len(packet.parameters) for packet in packets if packet not in mine)
            replies += len(mine)
            most = max(most, len(mine))
            odd += self._parser.discarded - before + strange
            if not mine and not odd:
                break
        return Probe(id, sent, replies, most, odd, self.status.get(id, 0) if replies else 0)

    def read(self, id: int, name: str) -> int:
        """Value of a register, decoded. Raises as `ping` does."""
        entry = register(name)
        return entry.decode(self.read_block(id, entry.address, entry.size))

    def read_block(self, id: int, address: int, size: int) -> bytes:
        """`size` bytes from `address`. Raises as `ping` does."""
        request = encode(id, Instruction.READ, bytes((address, size)))
        return self._request(request, {id: size}, f"read of register {address} of servo {id}")[id]

    def write(self, id: int, name: str, value: int) -> None:
        """Writes a register and waits for the servo's word. Raises as `ping` does, and RegisterError.

        EEPROM: only inside `eeprom`; then a value that is there already is not written again, and what was
        written is read back (EepromError).
        """
        entry = _writable(name)
        data = entry.encode(value)
        if entry.area is Area.EEPROM:
            self._allow([id], name)
            if self.read_block(id, entry.address, entry.size) != data:
                self._write_eeprom(id, entry, data)
            return
        self._guard_block(entry.address, {id: data})
        self._write(id, entry, data)

    def sync_read(self, name: str, ids: Sequence[int]) -> dict[int, int]:
        """Value of a register of several servos. ServoMissingError if one does not answer."""
        entry = register(name)
        blocks = self.sync_read_block(entry.address, entry.size, ids, patient=True)
        missing = [id for id in ids if id not in blocks]
        if missing:
            raise self._failure(f"sync read of {name}", missing, strange=self._heard > 0 and not blocks)
        return {id: entry.decode(block) for id, block in blocks.items()}

    def sync_read_block(
        self,
        address: int,
        size: int,
        ids: Sequence[int],
        *,
        patient: bool = False,
        deadline: float = math.inf,
    ) -> dict[int, bytes]:
        """`size` bytes from `address` of several servos in one exchange, by id, without silent servos.

        Asks again, for the missing ones alone. If nothing at all came back it gives up unless `patient`, so
        that in a control loop a dead bus costs one timeout and not several. Nothing is waited for beyond
        `deadline` (s, monotonic clock).
        """
        request = encode_sync_read(address, size, ids)
        found = self._exchange(request, dict.fromkeys(ids, size), latest=deadline)
        if len(found) == len(ids):
            return found
        for _ in range(self.retries):
            missing = [id for id in ids if id not in found]
            if not missing or not (patient or found or self._heard) or time.monotonic() >= deadline:
                break
            self._count_retry(missing)
            request = encode_sync_read(address, size, missing)
            found |= self._exchange(request, dict.fromkeys(missing, size), latest=deadline)
        if len(found) < len(ids):
            self.failures += 1
        return found

    def sync_write(self, name: str, values: Mapping[int, int]) -> None:
        """Writes a register of several servos at once. Nobody confirms it. RegisterError, BusLostError."""
        entry = _writable(name)
        self.sync_write_block(entry.address, {id: entry.encode(value) for id, value in values.items()})

    def sync_write_block(self, address: int, values: Mapping[int, bytes]) -> None:
        """Writes equally long bytes from `address` of several servos at once. RegisterError, BusLostError."""
        self._guard_block(address, values)
        self._serial.write(encode_sync_write(address, values))

    def scan(self, ids: Sequence[int] = range(1, MAX_ID)) -> list[int]:
        """Ids that answer a ping, each asked once."""
        return [id for id in ids if id in self._exchange(encode(id, Instruction.PING), {id: 0}, count=False)]

    @contextmanager
    def eeprom(self, ids: Sequence[int]) -> Iterator[FeetechBus]:
        """Opens the EEPROM of servos for `write`, and locks it again whatever happens. For set-up tools only.

        Raises EepromError if a servo holds torque, or does not take the lock.
        """
        holding = [id for id, on in self.sync_read("torque_enable", ids).items() if on]
        if holding:
            raise EepromError(
                f"{self.port}: servo {', '.join(map(str, holding))} holds torque; switch torque off before "
                "its EEPROM is written"
            )
        self._unlocked = set(ids)
        try:
            for id in ids:
                if not self._write_verified(id, register("lock"), b"\0"):
                    raise EepromError(
                        f"{self.port}: servo {id} does not unlock its EEPROM; switch it off and on"
                    )
            yield self
        finally:
            opened, self._unlocked = sorted(self._unlocked), set()
            self._lock_eeprom(opened)

    def _lock_eeprom(self, ids: Sequence[int]) -> None:
        unlocked = list(ids)
        failure: FeetechError | None = None
        for id in ids:
            try:
                if self._write_verified(id, register("lock"), b"\1"):
                    unlocked.remove(id)
            except (ServoMissingError, BusProtocolError) as error:
                failure = error
        if unlocked:
            raise EepromError(
                f"{self.port}: the EEPROM of servo {', '.join(map(str, unlocked))} may still be unlocked; it "
                "locks itself when its supply is switched off and on"
            ) from failure

    def _write_eeprom(self, id: int, entry: Register, data: bytes) -> None:
        if entry.name == "id":
            self._write_unanswered(id, entry, data)
            self._unlocked.remove(id)
            id = data[0]
            self._unlocked.add(id)
        elif entry.name == "baud_rate" and data[0] in BAUD_RATES:
            self._write_unanswered(id, entry, data)
            self.baudrate = BAUD_RATES[data[0]]
            self._serial.set_baudrate(self.baudrate)
        else:
            self._write_verified(id, entry, data)
        kept = self.read_block(id, entry.address, entry.size)
        if kept != data:
            raise EepromError(
                f"{self.port}: servo {id} did not keep {entry.name} (register {entry.address}): "
                f"{entry.decode(data)} written, {entry.decode(kept)} read back"
            )

    def _write_verified(self, id: int, entry: Register, data: bytes) -> bool:
        """Writes until the value reads back, a bounded number of times; whether it did."""
        for _ in range(self.retries + 1):
            self._write_unanswered(id, entry, data)
            if self.read_block(id, entry.address, entry.size) == data:
                return True
        return False

    def _write_unanswered(self, id: int, entry: Register, data: bytes) -> None:
        # As a sync write: a servo with response_level 0 confirms no other one.
        self._serial.write(encode_sync_write(entry.address, {id: data}))

    def _write(self, id: int, entry: Register, data: bytes) -> None:
        request = encode(id, Instruction.WRITE, bytes((entry.address,)) + data)
        self._request(request, {id: 0}, f"write of {entry.name} of servo {id}")

    def _allow(self, ids: Sequence[int], what: str) -> None:
        if not self._unlocked.issuperset(ids):
            raise RegisterError(
                f"{what} is EEPROM, which only `arm calibrate`, `arm configure` and `arm scan --set-id` "
                f"write, inside FeetechBus.eeprom (servo {', '.join(map(str, ids))})"
            )

    def _guard_block(self, address: int, values: Mapping[int, bytes]) -> None:
        if address < RAM_ADDRESS:
            self._allow(list(values), f"register {address}")
        for id, data in values.items():
            if address <= LOCK < address + len(data) and not data[LOCK - address]:
                self._allow([id], "unlocking it (register lock = 0)")

    def _request(self, request: bytes, sizes: dict[int, int], what: str) -> dict[int, bytes]:
        heard = 0
        for attempt in range(self.retries + 1):
            if attempt:
                self._count_retry(list(sizes))
            found = self._exchange(request, sizes)
            if len(found) == len(sizes):
                return found
            heard += self._heard
        self.failures += 1
        self._heard = heard
        raise self._failure(what, [id for id in sizes if id not in found], strange=heard > 0)

    def _failure(self, what: str, missing: list[int], *, strange: bool) -> FeetechError:
        """strange: bytes came, and no reply among them."""
        names = ", ".join(map(str, missing))
        if strange:
            return BusProtocolError(
                f"{what} on {self.port}: {self._heard} bytes came back and none is a reply of servo "
                f"{names}; is this a Feetech servo bus at {self.baudrate} baud, with one servo per id?"
            )
        return ServoMissingError(
            f"{what} on {self.port}: no answer from servo {names} "
            f"at {self.baudrate} baud; check the servo supply, the cable and the ids"
        )

    def _count_retry(self, ids: Sequence[int]) -> None:
        for id in ids:
            self.counters[id].retries += 1

    def _exchange(
        self, request: bytes, sizes: Mapping[int, int], *, count: bool = True, latest: float = math.inf
    ) -> dict[int, bytes]:
        """Sends a request; returns the payload of each timely reply of the size in `sizes`."""
        self.transactions += 1
        subject = request[4:7]  # instruction, address, size: replies to equal ones cannot be told apart
        self._settle(subject, latest)
        parser = self._parser
        discarded = parser.discarded
        self._serial.write(request)
        expected = sum(sizes.values()) + OVERHEAD * len(sizes)
        deadline = time.monotonic() + self.wire_time(len(request), expected) + self.reply_timeout
        deadline = min(deadline, latest)
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
                replies.take(packet)
        if len(found) < len(sizes):
            for packet in parser.finish():
                replies.take(packet)
        if replies.extra:
            self._count_extra(replies)
        self.status.update(replies.status)
        self._answered = set(replies.status)
        if len(found) == len(sizes):
            if replies.strangers:
                self._count_strangers(replies.strangers, sizes)
            if self._silent:
                self._silent.difference_update(found)
            return found
        missing = [id for id in sizes if id not in replies.status]
        if count:
            self._count_missing(missing, sizes, replies.strangers, parser.discarded - discarded)
        self._silent.difference_update(found)
        self._overdue, self._overdue_of = set(missing), subject
        return found

    def _count_extra(self, replies: Replies) -> None:
        """Two replies of one id: one of them is late, or two servos have that id. If they differ, neither is
        believed."""
        for id in replies.extra:
            if id in self._overdue:
                self._overdue.discard(id)
                self.counters[id].late += 1
            else:
                self.counters[id].duplicate += 1
        for id in replies.conflicts:
            del replies.found[id]

    def _count_strangers(self, strangers: Sequence[Packet], sizes: Mapping[int, int]) -> None:
        for packet in strangers:
            if packet.id in self._overdue:
                self._overdue.discard(packet.id)
                self.counters[packet.id].late += 1
            elif packet.id not in sizes:
                self.stray_packets += 1

    def _count_missing(
        self, missing: Sequence[int], sizes: Mapping[int, int], strangers: Sequence[Packet], odd: int
    ) -> None:
        """One kind for each reply that did not come, by what came instead. odd: bytes of no packet."""
        others = sum(1 for packet in strangers if packet.id not in sizes and packet.id not in self._overdue)
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

    def _settle(self, subject: bytes, latest: float) -> None:
        """Makes sure that no reply to an earlier request is taken for one to the next.

        Replies carry no number. So after a missing one the line is watched for one more timeout, unless the
        same thing is asked again (then a late reply is merely older) or the servo has been silent all along.
        """
        if self._overdue and subject != self._overdue_of and not self._overdue <= self._silent:
            deadline = min(time.monotonic() + self.reply_timeout, latest)
            while self._overdue and (left := deadline - time.monotonic()) > 0.0:
                self._drop(self._serial.read(left))
            self._silent |= self._overdue
            self._overdue.clear()
        self._drain()
        if subject != self._overdue_of:
            self._overdue.clear()

    def _drain(self) -> None:
        """Forgets what came since the newest request was done with."""
        data = self._serial.read(0.0)
        while data:
            self._drop(data)
            data = self._serial.read(0.0)
        self._parser.clear()

    def _drop(self, data: bytes) -> None:
        for packet in self._parser.feed(data):
            if packet.id in self._overdue:
                self._overdue.discard(packet.id)
                self.counters[packet.id].late += 1
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


def _writable(name: str) -> Register:
    entry = register(name)
    if not entry.writable:
        raise RegisterError(f"{name} (register {entry.address}) is read-only")
    return entry
