# SPDX-License-Identifier: Apache-2.0
"""How fast a bus can be cycled, and if that is slower than the wire, why and what to do about it."""

from __future__ import annotations

import cmath
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.errors import ServoMissingError
from chefmate_driver.feetech.packet import OVERHEAD
from chefmate_driver.feetech.registers import FEEDBACK_ADDRESS, FEEDBACK_SIZE, register

RETURN_DELAY_UNIT = 2e-6  # s per count of register 7
USB_FRAME = 0.001  # s, of a full-speed USB port; an adapter hands over what it has once in each
CYCLES = 24  # block reads that are timed
PINGS = 24  # at random phases, to see whether replies keep to USB frames
LOCKED = 0.7  # resultant length of the arrivals' phases above which they keep to a grid; 0.2 is chance for 24
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0  # its multiples spread evenly over a period
NOTABLE = 0.0003  # s per cycle; smaller delays are not worth a word
PATIENCE = 0.05  # s of reply timeout meanwhile: more than any adapter's latency timer
MARGIN = 0.0004  # s per cycle for everything but the bus
HEADROOM = 0.95  # share of the shortest period's rate that is promised
MEASURE_NAMES = ("return_delay", "usb_quantisation", "adapter_timer", "latency")


@dataclass(frozen=True, slots=True)
class SlowCause:
    """Something that makes a cycle longer than the bytes' time on the wire."""

    name: str  # one of MEASURE_NAMES
    seconds: float  # per cycle
    text: str
    mend: str


@dataclass(frozen=True, slots=True)
class TimingReport:
    """How long a full cycle takes: registers 56-70 of all servos read, goals written."""

    wire: float  # s that the bytes of a cycle take at this baud rate
    cycle: float  # s, median
    slow_cycle: float  # s, of one in four: a busy computer delays a few, and that is no property of the bus
    return_delays: dict[int, int]  # register 7 by servo id
    grid: float  # s, USB frames that replies keep to; 0: none seen
    causes: tuple[SlowCause, ...]  # the longest first
    holdable_rate: float  # Hz at which a loop of such cycles does not fall behind

    @property
    def text(self) -> str:
        """One line for people: what is slow and what mends it; empty if nothing is."""
        return "; ".join(f"{cause.text}: {cause.mend}" for cause in self.causes)


def cycle_sizes(servos: int) -> tuple[int, int, int]:
    """Bytes of one cycle: request and replies of the block read, and the goal write."""
    request = OVERHEAD + 2 + servos
    replies = servos * (OVERHEAD + FEEDBACK_SIZE)
    write = OVERHEAD + 2 + servos * (1 + register("goal_position").size)
    return request, replies, write


def diagnose_timing(bus: FeetechBus, ids: Sequence[int]) -> TimingReport:
    """Times the bus for some 0.1 s; writes nothing.

    Raises ServoMissingError, BusProtocolError, BusLostError.
    """
    request, replies, write = cycle_sizes(len(ids))
    timeout, bus.reply_timeout = bus.reply_timeout, max(bus.reply_timeout, PATIENCE)
    try:
        delays = bus.sync_read("return_delay", ids)
        reads = _reads(bus, ids)
        grid = USB_FRAME if _keeps_to(USB_FRAME, _arrivals(bus, ids[0], USB_FRAME)) else 0.0
    finally:
        bus.reply_timeout = timeout
    on_wire = bus.wire_time(request, replies)
    waiting = sum(delays.values()) * RETURN_DELAY_UNIT
    middle, slow = statistics.median(reads), sorted(reads)[int(0.75 * len(reads))]
    excess = middle - on_wire - waiting
    causes = _causes(bus, delays, waiting, grid, excess)
    # A read that just misses a frame takes one more, whatever the median says.
    longest = max(slow, middle + 0.5 * grid) + bus.wire_time(write) + MARGIN
    return TimingReport(
        wire=on_wire + bus.wire_time(write),
        cycle=middle + bus.wire_time(write),
        slow_cycle=slow + bus.wire_time(write),
        return_delays=delays,
        grid=grid,
        causes=tuple(sorted(causes, key=lambda cause: -cause.seconds)),
        holdable_rate=HEADROOM / longest,
    )


def _causes(
    bus: FeetechBus, delays: dict[int, int], waiting: float, grid: float, excess: float
) -> list[SlowCause]:
    causes = []
    if waiting > NOTABLE:
        slow = {id: delay for id, delay in delays.items() if delay}
        most = max(slow.values())
        causes.append(
            SlowCause(
                "return_delay",
                waiting,
                f"servo {', '.join(map(str, slow))} wait up to {1e6 * most * RETURN_DELAY_UNIT:.0f} us "
                f"before each reply (return delay, register 7, is {most}), {1e3 * waiting:.1f} ms in each "
                "cycle",
                "run `chefmate arm configure`",
            )
        )
    if bus.latency.slow:
        timer = (bus.latency.timer or 0) * 1e-3
        causes.append(SlowCause("adapter_timer", timer, "the adapter collects bytes", bus.latency.text))
    if grid:
        causes.append(
            SlowCause(
                "usb_quantisation",
                0.5 * grid,
                f"replies reach the computer only every {1e3 * grid:g} ms (USB frames of the adapter), "
                f"{1e3 * 0.5 * grid:g} ms in each cycle on average",
                "an adapter with high-speed USB has frames of 0.125 ms; otherwise lower `rate`",
            )
        )
    unexplained = excess - (grid if grid else 0.0)
    if unexplained > NOTABLE and not bus.latency.slow:
        causes.append(
            SlowCause(
                "latency",
                unexplained,
                f"replies come {1e3 * unexplained:.1f} ms later than wire and servos explain",
                "use a USB port of the computer itself, no hub, and see what else runs (`top`)",
            )
        )
    return causes


def _reads(bus: FeetechBus, ids: Sequence[int]) -> list[float]:
    """s of complete block reads."""
    times = []
    for _ in range(CYCLES):
        began = time.monotonic()
        found = bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, ids)
        if len(found) == len(ids):
            times.append(time.monotonic() - began)
    if not times:
        raise ServoMissingError(
            f"{bus.port}: no complete answer of servo {', '.join(map(str, ids))} in {CYCLES} reads; check "
            "cable and supply"
        )
    return times


def _arrivals(bus: FeetechBus, id: int, period: float) -> list[float]:
    """s, when the replies to pings came that were sent at even phases of `period`."""
    times = []
    for number in range(PINGS):
        phase = (number * GOLDEN) % 1.0
        time.sleep((phase - time.monotonic() / period) % 1.0 * period)
        bus.ping(id)
        times.append(time.monotonic())
    return times


def _keeps_to(period: float, times: Sequence[float]) -> bool:
    """Whether times have one phase in common: resultant length of circular statistics."""
    turns = [cmath.exp(2j * math.pi * (time / period % 1.0)) for time in times]
    return abs(sum(turns)) / len(turns) > LOCKED
