# SPDX-License-Identifier: Apache-2.0
"""What is looked at once when servos were found: are they set up as this arm's should be, and how fast is the
bus. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.settings import ArmKind, Difference, Severity, compare_settings
from chefmate_driver.feetech.timing import TimingReport, diagnose_timing

SLOWEST_RATE = 10.0  # Hz; a bus that cannot hold this is not driven more slowly, but misses cycles
# Unexplained latency may be this machine's work at the moment: it is named, and does not slow the loop.
PASSING = frozenset(("latency",))


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    differences: tuple[Difference, ...]
    timing: TimingReport

    def rate(self, wanted: float) -> float:
        """The loop's rate, Hz: `wanted`, or less if something lasting keeps the bus from holding that."""
        lasting = any(cause.name not in PASSING for cause in self.timing.causes)
        if not lasting or self.timing.holdable_rate >= wanted:
            return wanted
        return max(float(int(self.timing.holdable_rate)), SLOWEST_RATE)

    def slow_bus(self, wanted: float) -> str:
        """Why the loop runs below `wanted`, Hz, with the mend; empty if it does not."""
        if (rate := self.rate(wanted)) >= wanted:
            return ""
        return f"runs at {rate:g} instead of {wanted:g} Hz: {self.timing.text}"

    def of_joint(self, joint: str, *severities: Severity) -> str:
        """The differences of a joint's servo in words, each with its mend; empty if there are none."""
        return "; ".join(
            str(found) for found in self.differences if found.joint == joint and found.severity in severities
        )


def inspect_servos(servos: ArmServos, kind: ArmKind) -> Inspection:
    """Compares settings and times the bus, in some 0.2 s.

    Raises ArmError where the arm must not move with these settings, ServoMissingError, BusProtocolError,
    BusLostError.
    """
    differences = tuple(compare_settings(servos.bus, servos.ids, kind))
    if wrong := [str(found) for found in differences if found.severity is Severity.ERROR]:
        raise ArmError(f"the servos are not set up as this arm's: {'; '.join(wrong)}")
    return Inspection(differences, diagnose_timing(servos.bus, servos.ids))
