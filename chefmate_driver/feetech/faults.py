# SPDX-License-Identifier: Apache-2.0
"""What can go wrong on a servo bus, as data: kinds, timed scripts, and what a reply looks like afterwards.

A `FaultScript` is played by `EmulatedPort`; the same script and seed give the same faults again.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from chefmate_driver.feetech.errors import FeetechError
from chefmate_driver.feetech.packet import MAX_ID, encode

FOREVER = float("inf")


class FaultKind(Enum):
    """Classes of faults. What `Fault.amount` means, and its default, is in AMOUNTS."""

    LATENCY = "latency"
    JITTER = "jitter"
    USB_QUANTISATION = "usb_quantisation"
    RETURN_DELAY = "return_delay"
    LOST_REPLIES = "lost_replies"
    LOST_COMMANDS = "lost_commands"
    DROPPED_BYTES = "dropped_bytes"
    CORRUPTED_BYTES = "corrupted_bytes"
    HALF_PACKET = "half_packet"
    WRONG_ID = "wrong_id"
    DUPLICATE_ID = "duplicate_id"
    STUCK = "stuck"
    OVERLOAD = "overload"
    UNDERVOLTAGE = "undervoltage"
    BROWN_OUT = "brown_out"
    DISCONNECT = "disconnect"


class Amount(NamedTuple):
    """Meaning of a fault's amount."""

    default: float
    meaning: str


AMOUNTS: dict[FaultKind, Amount] = {
    FaultKind.LATENCY: Amount(0.002, "s added to every reply"),
    FaultKind.JITTER: Amount(0.002, "s, most that is added to a reply, evenly spread"),
    FaultKind.USB_QUANTISATION: Amount(0.001, "s, grid on which replies reach the host"),
    FaultKind.RETURN_DELAY: Amount(250.0, "value of register 7, in 2 us"),
    FaultKind.LOST_REPLIES: Amount(1.0, "share of replies that get lost"),
    FaultKind.LOST_COMMANDS: Amount(0.3, "share of instruction packets that no servo hears"),
    FaultKind.DROPPED_BYTES: Amount(0.02, "share of reply bytes that get lost"),
    FaultKind.CORRUPTED_BYTES: Amount(0.02, "share of reply bytes with one bit turned"),
    FaultKind.HALF_PACKET: Amount(0.5, "share of replies of which only the first half arrives"),
    FaultKind.WRONG_ID: Amount(0.5, "share of replies that carry another id, with a right checksum"),
    FaultKind.DUPLICATE_ID: Amount(1.0, "share of replies to which a second servo of that id adds its own"),
    FaultKind.STUCK: Amount(0.0, "unused: the shaft stays where it is, whatever is commanded"),
    FaultKind.OVERLOAD: Amount(0.0, "unused: latched at the start; a write of torque_enable ends it"),
    FaultKind.UNDERVOLTAGE: Amount(3.5, "V at the servos, which stay awake and set the voltage bit"),
    FaultKind.BROWN_OUT: Amount(0.0, "unused: no supply, then the EEPROM's values and torque off"),
    FaultKind.DISCONNECT: Amount(0.0, "unused: the port goes away, and comes back under the same link"),
}
# Kinds that concern the adapter, so all servos at once, whatever ids the fault names.
WHOLE_BUS = frozenset((FaultKind.USB_QUANTISATION, FaultKind.DISCONNECT, FaultKind.LOST_COMMANDS))


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: from `start`, for `duration` (both s, from the script's start), on `ids` (empty: all)."""

    kind: FaultKind
    start: float = 0.0
    duration: float = FOREVER
    ids: tuple[int, ...] = ()
    amount: float | None = None  # None: the default of AMOUNTS

    @property
    def value(self) -> float:
        """The amount, or its default."""
        return AMOUNTS[self.kind].default if self.amount is None else self.amount

    def concerns(self, id: int) -> bool:
        """Whether servo `id` has this fault."""
        return not self.ids or id in self.ids


class FaultEvent(NamedTuple):
    """A fault of a script began or ended."""

    time: float  # s, monotonic clock
    fault: Fault
    began: bool


@dataclass(frozen=True)
class FaultScript:
    """Timed faults and the seed of everything random in them."""

    faults: tuple[Fault, ...]
    seed: int = 0

    @classmethod
    def random(
        cls,
        seed: int,
        kind: FaultKind,
        *,
        ids: Sequence[int] = (1, 2, 3, 4, 5, 6),
        start: tuple[float, float] = (0.1, 0.5),
        duration: tuple[float, float] = (0.1, 0.5),
    ) -> FaultScript:
        """One fault of a kind at a random time on one to three random servos; the amount is the default.

        start, duration: s, least and most.
        """
        generator = random.Random(f"{seed} {kind.value}")
        chosen = tuple(sorted(generator.sample(list(ids), generator.randint(1, min(3, len(ids))))))
        fault = Fault(
            kind,
            generator.uniform(*start),
            generator.uniform(*duration),
            () if kind in WHOLE_BUS else chosen,
        )
        return cls((fault,), seed)

    def to_json(self) -> str:
        """The script as one JSON document."""
        entries = [{**asdict(fault), "kind": fault.kind.value} for fault in self.faults]
        for entry in entries:
            if entry["duration"] == FOREVER:
                entry["duration"] = None
        return json.dumps({"seed": self.seed, "faults": entries})

    @classmethod
    def from_json(cls, text: str) -> FaultScript:
        """A script that `to_json` wrote. FeetechError if it is none."""
        try:
            document = json.loads(text)
            return cls(tuple(_fault(entry) for entry in document["faults"]), int(document["seed"]))
        except (ValueError, KeyError, TypeError) as error:
            raise FeetechError(f"this is no fault script: {error!r}; see FaultScript.to_json") from error


def _fault(entry: dict[str, Any]) -> Fault:
    duration = entry.get("duration")
    return Fault(
        FaultKind(entry["kind"]),
        float(entry.get("start", 0.0)),
        FOREVER if duration is None else float(duration),
        tuple(int(id) for id in entry.get("ids", ())),
        entry.get("amount"),
    )


@dataclass
class Faults:
    """What goes wrong between the servos and the wire now. Change it while the emulator runs.

    The first three are for quick tests; everything else is a `Fault` in `active`.
    """

    silent: set[int] = field(default_factory=set)  # ids that answer nothing
    drop: float = 0.0  # share of replies that get lost, 0..1
    corrupt: float = 0.0  # share of replies with one wrong byte, 0..1
    random: random.Random = field(default_factory=lambda: random.Random(0))
    active: list[Fault] = field(default_factory=list)
    counts: Counter[FaultKind] = field(default_factory=Counter)  # replies (or commands) spoiled, by kind

    def of(self, kind: FaultKind, id: int | None = None) -> Iterable[Fault]:
        """Active faults of a kind, on servo `id` if given."""
        return (fault for fault in self.active if fault.kind is kind and (id is None or fault.concerns(id)))

    def has(self, kind: FaultKind) -> bool:
        """Whether a fault of this kind is active."""
        return any(fault.kind is kind for fault in self.active)

    def hears(self) -> bool:
        """Whether the servos hear the next instruction packet."""
        for fault in self.of(FaultKind.LOST_COMMANDS):
            if self._happens(fault):
                return False
        return True

    def delay(self, id: int) -> float:
        """s by which a reply of servo `id` comes later than the wire alone would have it."""
        if not self.active:
            return 0.0
        late = sum(fault.value for fault in self.of(FaultKind.LATENCY, id))
        for fault in self.of(FaultKind.JITTER, id):
            late += self.random.uniform(0.0, fault.value)
        return late

    @property
    def grid(self) -> float:
        """s of the grid on which replies reach the host; 0: none."""
        return max((fault.value for fault in self.of(FaultKind.USB_QUANTISATION)), default=0.0)

    def apply(self, id: int, reply: bytes) -> bytes:
        """The reply as it comes out of the cable."""
        if id in self.silent or (self.drop and self.random.random() < self.drop):
            return b""
        if self.corrupt and self.random.random() < self.corrupt:
            reply = self._flip(reply, self.random.randrange(len(reply)))
        for fault in self.active:
            if fault.concerns(id):
                reply = self._spoil(fault, reply)
        return reply

    def _happens(self, fault: Fault) -> bool:
        if self.random.random() >= fault.value:
            return False
        self.counts[fault.kind] += 1
        return True

    def _flip(self, reply: bytes, place: int) -> bytes:
        turned = reply[place] ^ (1 << self.random.randrange(8))
        return reply[:place] + bytes((turned,)) + reply[place + 1 :]

    def _spoil(self, fault: Fault, reply: bytes) -> bytes:
        kind = fault.kind
        if not reply:
            return reply
        if kind is FaultKind.LOST_REPLIES and self._happens(fault):
            return b""
        if kind is FaultKind.HALF_PACKET and self._happens(fault):
            return reply[: len(reply) // 2]
        if kind is FaultKind.WRONG_ID and self._happens(fault):
            other = (reply[2] + self.random.randint(1, MAX_ID)) % (MAX_ID + 1)
            return encode(other, reply[4], reply[5:-1])
        if kind is FaultKind.DUPLICATE_ID and self._happens(fault):
            return self._second_servo(reply)
        if kind is FaultKind.DROPPED_BYTES:
            kept = bytes(byte for byte in reply if self.random.random() >= fault.value)
            self.counts[kind] += len(kept) < len(reply)
            return kept
        if kind is FaultKind.CORRUPTED_BYTES:
            for place in range(len(reply)):
                if self._happens(fault):
                    reply = self._flip(reply, place)
        return reply

    def _second_servo(self, reply: bytes) -> bytes:
        """Two servos of one id: their replies follow each other, or collide (a low bit wins on the wire)."""
        parameters = bytes(byte ^ 0x15 for byte in reply[5:-1])
        other = encode(reply[2], reply[4], parameters)
        if self.random.random() < 0.5:
            return reply + other
        skewed = bytes((byte >> 1) | 0x80 for byte in other)
        return bytes(one & two for one, two in zip(reply, skewed, strict=True))
