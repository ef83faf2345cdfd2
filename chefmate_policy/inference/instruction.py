# SPDX-License-Identifier: Apache-2.0
"""The instruction in force: what changes it, how changes are counted, and whose lease it stands on."""

from __future__ import annotations

from dataclasses import dataclass

RUNNING = "RUNNING"
"""SequencerStatus.RUNNING"""
LONGEST = 1000
"""Characters of the longest text that is obeyed: it goes into every status, chunk and log."""


@dataclass
class InstructionInForce:
    """The text that the policy obeys.

    A text that a running sequencer asks for is leased: when that sequencer falls silent for `lease_limit`
    seconds the policy stops, and goes on only when the sequencer speaks again or anyone gives an instruction.
    A text that nobody leases stands until it is replaced.
    """

    lease_limit: float
    """s"""
    text: str = ""
    number: int = 0
    since: float = 0.0
    """When the text came into force, s since the epoch."""
    _sequencer_text: str = ""
    _sequencer_heard: float = 0.0

    def arrived(self, text: str, now: float) -> bool:
        """A message on /instruction. True when it changes what is in force; an equal text does not, except
        that it takes over one whose lease has ended."""
        text = text if text.strip() else ""
        if text == self.text and not self.lease_fault(now):
            return False
        if text == self.text:
            self._sequencer_text = ""
        self.text = text
        self.number += 1
        self.since = now
        return True

    def sequencer(self, state: str, instruction: str, now: float) -> None:
        """A message on sequencer/status."""
        self._sequencer_text = instruction if state == RUNNING else ""
        self._sequencer_heard = now

    @property
    def leased(self) -> bool:
        """True while the text in force is the running sequencer's."""
        return bool(self.text) and self.text == self._sequencer_text

    def lease_fault(self, now: float) -> str:
        """Why the lease has ended; empty while it stands or is not needed."""
        silent = now - self._sequencer_heard
        if self.leased and silent > self.lease_limit:
            limit = self.lease_limit
            return (
                f"the sequencer's lease ended: no sequencer/status for {silent:.1f} s (limit {limit:.1f} s)"
            )
        return ""

    def clear(self) -> None:
        """Nothing is in force any more, for example after deactivation."""
        if self.text:
            self.number += 1
        self.text = ""
