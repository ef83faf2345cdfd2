# SPDX-License-Identifier: Apache-2.0
"""Master of a Feetech servo bus.

One thread uses a bus at a time. Every reply's id, length and checksum are checked; requests are repeated a
bounded number of times; what went wrong is counted by servo and kind; the error byte of each reply is kept in
`status`, since a set bit still comes with valid data. EEPROM is written only inside `FeetechBus.eeprom`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from chefmate_driver.feetech.errors import (
    BusProtocolError,
    EepromError,
    FeetechError,
    RegisterError,
    ServoMissingError,
)
from chefmate_driver.feetech.line import ServoLine
from chefmate_driver.feetech.packet import (
    MAX_ID,
    OVERHEAD,
    Instruction,
    encode,
    encode_sync_read,
    encode_sync_write,
)
from chefmate_driver.feetech.ports import stable_name
from chefmate_driver.feetech.registers import BAUD_RATES, RAM_ADDRESS, Area, Register, register

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


class FeetechBus(ServoLine):
    """Verbs of the bus: ping, read, write, sync_read, sync_write. A context manager."""

    def __init__(
        self, port: str, baudrate: int = 1_000_000, *, reply_timeout: float = 0.01, retries: int = 2
    ) -> None:
        """Opens the port and locks it against others.

        reply_timeout: s of silence, beyond the bytes' own time on the wire, after which a reply counts as
        lost. retries: how often a request is repeated. Raises PortNotFoundError, BusPortBusyError or
        FeetechError.
        """
        super().__init__(port, baudrate, reply_timeout)
        self.retries = retries
        self.failures = 0  # transactions that failed after all repetitions
        self.stable_port = stable_name(port)  # name under which the device is found after unplugging
        self._unlocked: set[int] = set()  # ids whose EEPROM is open

    def __enter__(self) -> FeetechBus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
            question = object()
            self._settle({id: 0}, question, math.inf)
            before = self._parser.discarded
            self._serial.write(encode(id, Instruction.PING))
            sent += 1
            self._outstanding.ask(id, 0, question)
            mine = strange = 0
            for packet in self._listen(self.wire_time(2 * OVERHEAD) + self.reply_timeout):
                size = len(packet.parameters)
                doubtful = self._outstanding.doubtful(id, 0, question)
                owed = self._outstanding.arrived(packet.id, size)
                if packet.id == id and not size and not doubtful:
                    self.status[id] = packet.code
                    mine += 1
                elif owed:
                    self._count_late(packet)
                else:
                    strange += OVERHEAD + size
            replies += mine
            most = max(most, mine)
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
        # A late reply of an earlier cycle is merely older. Who asks to be sure wants a new one.
        question = object() if patient else (address, size)
        found = self._exchange(request, dict.fromkeys(ids, size), question, latest=deadline)
        if len(found) == len(ids):
            return found
        for _ in range(self.retries):
            missing = [id for id in ids if id not in found]
            if not missing or not (patient or found or self._heard) or time.monotonic() >= deadline:
                break
            self._count_retry(missing)
            request = encode_sync_read(address, size, missing)
            found |= self._exchange(request, dict.fromkeys(missing, size), question, latest=deadline)
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
        """Ids that answer a ping, each asked once; also those that answer while the next ones are asked."""
        before = self.late_replies(ids)
        found = {id for id in ids if id in self._exchange(encode(id, Instruction.PING), {id: 0}, count=False)}
        late = self.late_replies(ids, self.reply_timeout)
        return [id for id in ids if id in found or late[id] > before[id]]

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
        heard, late = 0, self.late_replies(sizes)
        question = object()
        for attempt in range(self.retries + 1):
            if attempt:
                self._count_retry(list(sizes))
            found = self._exchange(request, sizes, question)
            if len(found) == len(sizes):
                return found
            heard += self._heard
        self.failures += 1
        self._heard = heard
        missing = [id for id in sizes if id not in found]
        if self.late_replies(sizes) != late:
            raise ServoMissingError(
                f"{what} on {self.port}: servo {', '.join(map(str, missing))} answers later than "
                f"{1e3 * self.reply_timeout:g} ms; raise `reply_timeout`, and look at the adapter "
                "(chefmate doctor)"
            )
        raise self._failure(what, missing, strange=heard > 0)

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


def _writable(name: str) -> Register:
    entry = register(name)
    if not entry.writable:
        raise RegisterError(f"{name} (register {entry.address}) is read-only")
    return entry
