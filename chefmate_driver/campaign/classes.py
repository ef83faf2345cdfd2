# SPDX-License-Identifier: Apache-2.0
"""What each class of fault does in the campaign, and what the driver owes its owner under it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chefmate_driver.feetech.faults import FaultKind


class Duty(Enum):
    """What the driver has to do about a fault."""

    STOP = "stop"  # brake or cease writing within REACTION
    COUNT = "count"  # go on as long as the readings suffice, and count what was spoiled
    CARRY_ON = "carry on"  # slower wire, nothing is spoiled; stop if it gets too slow


@dataclass(frozen=True)
class FaultClass:
    """One class. Amounts and their meaning: feetech.faults.AMOUNTS."""

    kind: FaultKind
    duty: Duty
    amounts: tuple[float, ...]  # one is drawn for each run
    words: tuple[str, ...]  # a reason that names this fault has at least one of them
    counters: tuple[str, ...] = ()  # of ErrorCounts that name it while the arm goes on
    duration: tuple[float, float] = (0.15, 0.8)  # s
    argued: float = 0.1  # s, longest reaction; more than REACTION is argued in docs/campaign.md


SILENT = ("not answered",)
SPOILED = (*SILENT, "corrupt", "checksum", "bytes came back", "irregular")
TORQUE = ("torque went off", "lost its supply", "overload", "voltage", " V of ")
LOST = ("is lost", "found again")
COUNTED = ("lost", "corrupt", "wrong_id", "late", "duplicate", "implausible", "retries")

CLASSES: tuple[FaultClass, ...] = (
    FaultClass(FaultKind.LATENCY, Duty.CARRY_ON, (0.002, 0.008, 0.03), SILENT, COUNTED),
    FaultClass(FaultKind.JITTER, Duty.CARRY_ON, (0.002, 0.01, 0.04), SILENT, COUNTED),
    FaultClass(FaultKind.USB_QUANTISATION, Duty.CARRY_ON, (0.001, 0.016), SILENT, COUNTED),
    FaultClass(FaultKind.RETURN_DELAY, Duty.CARRY_ON, (50.0, 250.0), SILENT, COUNTED),
    FaultClass(FaultKind.LOST_REPLIES, Duty.STOP, (1.0,), SILENT, COUNTED),
    FaultClass(FaultKind.LOST_COMMANDS, Duty.COUNT, (0.1, 0.3), SILENT, COUNTED),
    FaultClass(FaultKind.DROPPED_BYTES, Duty.COUNT, (0.005, 0.02, 0.1), SPOILED, COUNTED),
    FaultClass(FaultKind.CORRUPTED_BYTES, Duty.COUNT, (0.005, 0.02, 0.1), SPOILED, COUNTED),
    FaultClass(FaultKind.HALF_PACKET, Duty.COUNT, (0.2, 0.5), SPOILED, COUNTED),
    FaultClass(FaultKind.WRONG_ID, Duty.COUNT, (0.2, 0.5), SPOILED, COUNTED),
    FaultClass(FaultKind.DUPLICATE_ID, Duty.COUNT, (1.0,), (*SPOILED, "duplicate", "id"), COUNTED),
    FaultClass(FaultKind.STUCK, Duty.STOP, (0.0,), ("does not follow", "load", "blocks")),
    FaultClass(FaultKind.OVERLOAD, Duty.STOP, (0.0,), TORQUE),
    FaultClass(FaultKind.UNDERVOLTAGE, Duty.STOP, (3.5,), TORQUE),
    FaultClass(FaultKind.BROWN_OUT, Duty.STOP, (0.0,), (*TORQUE, *SILENT)),
    FaultClass(FaultKind.DISCONNECT, Duty.STOP, (0.0,), LOST, duration=(0.2, 1.0)),
)
REACTION = 0.1  # s
RECOVERY = 2.0  # s
# A jam can be told only from a joint that is farther behind than it lags in free motion; the reaction counts
# from there: rad, and s times the joint's commanded speed. docs/safety.md has the driver's own thresholds.
JAM_SHOWS, JAM_LAG = 0.25, 0.1
