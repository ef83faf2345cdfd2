# SPDX-License-Identifier: Apache-2.0
"""The nodes' executables. Importing this module is cheap; each function imports its own node."""

from __future__ import annotations

from chefmate_ros.entry import enter


def policy() -> int:
    """policy_node."""
    return enter("chefmate_policy.inference.node")


def perception() -> int:
    """perception_node."""
    return enter("chefmate_policy.perception.node")


def sequencer() -> int:
    """sequencer_node."""
    return enter("chefmate_policy.sequencer.node")


def recorder() -> int:
    """recorder_node."""
    return enter("chefmate_policy.data.recorder")
