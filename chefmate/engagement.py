# SPDX-License-Identifier: Apache-2.0
"""Engaging and ending teleoperation, for `chefmate arm teleop` and `chefmate arm jog`."""

from __future__ import annotations

import time
from typing import Any

from chefmate_msgs.msg import ArmHealth

from chefmate.arm_client import ArmClient, ArmError

COMMAND_TOPIC = "teleop/joint_command"
SERVICE = "arm/teleop"
DISCOVERY = 0.5  # s more, after the arm was found, to find others
DISCOVERY_PATIENCE = 3.0  # s for the arm to hear a leader that this process hears already
STOPPED = 5.0  # s for the arm to brake and say so
# What an owner does when the arm cannot be engaged, by the arm's state.
MENDS = {
    ArmHealth.READY: "torque is off: `chefmate arm torque-on`",
    ArmHealth.ESTOPPED: "the e-stop is latched: `chefmate arm release`",
    ArmHealth.FAULT: "mend its cause, then `chefmate arm torque-on`",
    ArmHealth.UNPOWERED: "no servo answers: check supply and cable, see `chefmate arm monitor`",
    ArmHealth.FOLLOWING: "something else moves the arm: `chefmate stop`, or wait until it holds",
    ArmHealth.BRAKING: "wait until it holds",
    ArmHealth.TELEOPERATED: "another leader drives it: end that first",
}


def check_engageable(arm: ArmClient) -> None:
    """Raises ArmError, with the mend, where the arm is in no state to be engaged."""
    if arm.state != ArmHealth.HOLDING:
        reason = f" ({arm.reason})" if arm.reason else ""
        mend = MENDS.get(arm.state, "see `chefmate arm monitor`")
        raise ArmError(f"cannot engage, the arm is {arm.state}{reason}; {mend}")


def refuse_other_leaders(arm: ArmClient) -> None:
    """Raises ArmError if somebody publishes on teleop/joint_command already."""
    arm.until(lambda: bool(publishers(arm)), DISCOVERY)
    if others := publishers(arm):
        raise ArmError(
            f"{', '.join(others)} publishes {COMMAND_TOPIC} already; two leaders would fight: end that one"
        )


def publishers(arm: ArmClient) -> list[str]:
    """Full names of the nodes that publish on teleop/joint_command."""
    return [
        f"{info.node_namespace.rstrip('/')}/{info.node_name}"
        for info in arm.node.get_publishers_info_by_topic(COMMAND_TOPIC)
    ]


def engage(arm: ArmClient) -> None:
    """Has the arm follow the commands. It may find their publisher a moment later than others did: this asks
    again for DISCOVERY_PATIENCE.

    Raises:
        ArmError: the arm refuses.
    """
    deadline = time.monotonic() + DISCOVERY_PATIENCE
    while True:
        try:
            arm.switch(SERVICE, True)
            return
        except ArmError:
            if time.monotonic() > deadline:
                raise
        arm.until(lambda: False, 0.1)


def disengage(arm: ArmClient) -> str:
    """Ends teleoperation, also one that is just beginning, and returns the state in which the arm stands.

    Raises:
        ArmError: the arm is silent, or still moves.
    """
    if not arm.until(lambda: arm.alive, STOPPED):
        raise ArmError("the arm node is silent: its servos hold their last goal; see `chefmate arm monitor`")
    try:
        arm.switch(SERVICE, False)
    except ArmError:
        if arm.state == ArmHealth.TELEOPERATED:
            raise
    if not arm.until(lambda: arm.state not in (ArmHealth.TELEOPERATED, ArmHealth.BRAKING), STOPPED):
        raise ArmError(f"teleoperation was ended, but the arm is still {arm.state} after {STOPPED:g} s")
    return arm.state


def why(arm: ArmClient, fallback: Any = "") -> str:
    """State and reason in one line."""
    return f"{arm.state}: {arm.reason}" if arm.reason else str(arm.state or fallback)
