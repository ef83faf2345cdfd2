# SPDX-License-Identifier: Apache-2.0
"""When a job gives its policy up: nobody is there to mend it, and waiting longer tells nothing new."""

from __future__ import annotations

PATIENCE = 10.0  # s of trouble without a chunk in between; a camera or a server that hiccups is back sooner
LONGEST_LOOK = 0.5  # s that one look counts at most: time in which the job itself stood still is no trouble
FAULT, HOLDING = "FAULT", "HOLDING"  # of chefmate_msgs/PolicyStatus, as are the next two
AT_WORK = ("DRIVING", "DONE")
BACKEND = "backend"  # begins the reasons that come from the policy's backend


class PolicyTrouble:
    """Adds up how long the policy has been in trouble since it last drove.

    Trouble is FAULT, and HOLDING from the moment that its backend is the reason. An instruction that is
    withdrawn meanwhile (IDLE) neither counts nor mends: a sequencer does so between attempts.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        """Begins without trouble; `patience` in s."""
        self._patience = patience
        self._troubled = 0.0
        self._looked: float | None = None
        self._why = ""

    def look(self, state: str, reason: str, now: float) -> str:
        """Takes the policy's status over; returns why the job ends, or "" while it goes on. `now` in s."""
        passed = 0.0 if self._looked is None else min(now - self._looked, LONGEST_LOOK)
        self._looked = now
        if state in AT_WORK:
            self._troubled, self._why = 0.0, ""
        elif state == FAULT or (state == HOLDING and reason.startswith(BACKEND)):
            self._why = f"the policy is {state}: {reason}"
        if self._why and state in (FAULT, HOLDING):
            self._troubled += passed
        return self._why if self._troubled >= self._patience else ""
