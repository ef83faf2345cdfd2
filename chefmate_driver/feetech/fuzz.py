# SPDX-License-Identifier: Apache-2.0
"""Random and spoilt replies against the path that every reply takes: parser, sorting by request, decoding.

What must hold for each input, judged without the code under test:
- nothing raises;
- what is accepted as a servo's reply stands in the input as a whole packet: header, an id that was asked, the
  expected length, a right checksum;
- decoded fields keep to what their bits can hold, and a position that is taken as a measurement lies within
  0..4095;
- whole replies that nobody spoilt are all accepted;
- after a reset the next good packet is found, whatever came before.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any

from chefmate_driver.feetech.line import Replies
from chefmate_driver.feetech.packet import PacketParser
from chefmate_driver.feetech.registers import FEEDBACK_SIZE, Feedback, decode_feedback, within_one_turn

IDS = (1, 2, 3, 4, 5, 6)
SIZES = dict.fromkeys(IDS, FEEDBACK_SIZE)
PORTION = 50_000  # inputs of one seed
KEPT = 20  # violations that a report shows
# Largest magnitude of each field of Feedback, from the register table's sizes and sign bits.
RANGES = {"position": 0x7FFF, "speed": 0x7FFF, "load": 0x3FF, "current": 0x7FFF}
BYTES = ("voltage", "temperature", "status")


@dataclass
class FuzzFigures:
    """What came of the inputs. `violations`: the first few, each with its input in hexadecimal."""

    seed: int
    inputs: int = 0
    bytes: int = 0
    accepted: int = 0  # replies
    refused_positions: int = 0  # replies with a right checksum and a position outside of one turn
    violation_count: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)

    def as_text(self) -> str:
        """A line for people."""
        head = (
            f"packet decoder: {self.inputs:,} inputs, {self.bytes:,} bytes, {self.accepted:,} replies "
            f"accepted, {self.refused_positions:,} impossible positions refused, "
            f"{self.violation_count} violations ({self.seconds:.1f} s, seed {self.seed})"
        )
        return "\n".join((head, *(f"  {text}" for text in self.violations)))


def fuzz(
    inputs: int = 20_000,
    seed: int = 0,
    *,
    parser: Callable[[], PacketParser] = PacketParser,
    measurement: Callable[[Feedback], bool] = lambda feedback: within_one_turn(feedback.position),
) -> FuzzFigures:
    """Runs `inputs` inputs of a seed.

    parser, measurement: what is tested; broken ones show that this finds faults.
    """
    generator, figures = random.Random(seed), FuzzFigures(seed)
    began = time.perf_counter()
    for _ in range(inputs):
        data, spoilt = _input(generator)
        figures.inputs += 1
        figures.bytes += len(data)
        try:
            pieces = 1 + int(1.0 / (generator.random() + 0.005))  # mostly few, sometimes single bytes
            wrong = _judge(data, spoilt, max(1, len(data) // pieces), parser(), measurement, figures)
        except Exception as error:  # whatever it is, it is the finding
            wrong = f"raised {error!r}"
        if wrong:
            figures.violation_count += 1
            if len(figures.violations) < KEPT:
                figures.violations.append(f"{wrong}: {data.hex()}")
    figures.seconds = time.perf_counter() - began
    return figures


def measure_fuzz(
    inputs: int = 1_000_000, seed: int = 0, progress: Callable[[str], None] = lambda text: None
) -> FuzzFigures:
    """`fuzz` with seeds from `seed` on, PORTION inputs each, on all cores; seconds are of the wall clock."""
    whole, began = FuzzFigures(seed), time.perf_counter()
    portions = [min(PORTION, inputs - done) for done in range(0, inputs, PORTION)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for figures in pool.map(fuzz, portions, range(seed, seed + len(portions))):
            for name in ("inputs", "bytes", "accepted", "refused_positions", "violation_count"):
                setattr(whole, name, getattr(whole, name) + getattr(figures, name))
            whole.violations = (whole.violations + figures.violations)[:KEPT]
            progress(f"{whole.inputs:,} of {inputs:,} inputs, {whole.violation_count} violations")
    whole.seconds = time.perf_counter() - began
    return whole


def _packet(id: int, code: int, parameters: bytes) -> bytes:
    """A packet after the protocol's rule, not by the code under test."""
    body = bytes((id, len(parameters) + 2, code)) + parameters
    return b"\xff\xff" + body + bytes((255 - sum(body) % 256,))


def _input(generator: random.Random) -> tuple[bytes, bool]:
    """Bytes that a bus might bring, and whether anything in them was spoilt."""
    kind = generator.random()
    if kind < 0.15:
        return generator.randbytes(generator.randrange(80)), True
    if kind < 0.25:  # rich in headers and short lengths
        return bytes(generator.choices((255, 255, 1, 2, 3, 4, 17, 0), k=generator.randrange(80))), True
    block = bytearray(generator.randbytes(FEEDBACK_SIZE * len(IDS)))
    for start in range(1, len(block), FEEDBACK_SIZE):
        # The high byte of the position, so that it often is a possible one.
        block[start] &= generator.choice((0x0F, 0x1F, 0xFF))
    replies = [
        _packet(id, block[start], bytes(block[start : start + FEEDBACK_SIZE]))
        for id, start in zip(IDS, range(0, len(block), FEEDBACK_SIZE), strict=True)
    ]
    if kind < 0.35:
        return b"".join(replies), False
    if kind < 0.5:  # another id or another size, well-formed
        place = generator.randrange(len(replies))
        size = generator.choice((FEEDBACK_SIZE, 0, 2, FEEDBACK_SIZE - 1, FEEDBACK_SIZE + 1))
        replies[place] = _packet(generator.randrange(254), 0, generator.randbytes(size))
        return b"".join(replies), True
    data = bytearray(b"".join(replies))
    for _ in range(generator.randrange(1, 6)):
        _spoil(generator, data)
    return bytes(data), True


def _spoil(generator: random.Random, data: bytearray) -> None:
    if not data:
        return
    place, kind = generator.randrange(len(data)), generator.randrange(5)
    if kind == 0:
        data[place] ^= 1 << generator.randrange(8)
    elif kind == 1:
        data[place] = generator.choice((0, 255, 2, 17, 253))
    elif kind == 2:
        del data[place : place + generator.randrange(1, 30)]
    elif kind == 3:
        data[place:place] = generator.randbytes(generator.randrange(1, 12))
    else:
        end = place + generator.randrange(1, 40)
        data[place:place] = data[place:end]


def _judge(
    data: bytes,
    spoilt: bool,
    cut: int,
    parser: PacketParser,
    measurement: Callable[[Feedback], bool],
    figures: FuzzFigures,
) -> str:
    """Runs one input in pieces of `cut` bytes; what is wrong with the outcome, or nothing."""
    replies = Replies(SIZES)
    for start in range(0, len(data), cut):
        for packet in parser.feed(data[start : start + cut]):
            replies.take(packet)
    for packet in parser.finish():
        replies.take(packet)
    if not spoilt and len(replies.found) < len(IDS):
        return f"whole replies of {sorted(set(IDS) - set(replies.found))} were not accepted"
    for id, parameters in replies.found.items():
        if id not in IDS or len(parameters) != FEEDBACK_SIZE:
            return f"accepted {len(parameters)} bytes of servo {id}"
        if _packet(id, replies.status[id], parameters) not in data:
            return f"accepted a reply of servo {id} that is not in the input"
        feedback = decode_feedback(parameters)
        if any(abs(getattr(feedback, name)) > most for name, most in RANGES.items()):
            return f"decoded {feedback}"
        if any(not 0 <= getattr(feedback, name) <= 255 for name in BYTES):
            return f"decoded {feedback}"
        if measurement(feedback):
            if not 0 <= feedback.position <= 4095:
                return f"took position {feedback.position} of servo {id} for a measurement"
        else:
            figures.refused_positions += 1
    figures.accepted += len(replies.found)
    parser.clear()
    good = parser.feed(_packet(1, 0, data[:2]))
    return "" if [packet.id for packet in good] == [1] else "did not find a good packet after a reset"
