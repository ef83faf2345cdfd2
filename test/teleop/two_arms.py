# SPDX-License-Identifier: Apache-2.0
"""A leader and a follower of emulated servos: their poses, calibration and units."""

from __future__ import annotations

import json
from pathlib import Path

from chefmate_driver.arm.model import JOINT_NAMES

REST = [0.1, -0.6, 0.5, 0.4, 0.0, 0.3]  # rad, of both arms at first
ANY_SUPPLY = 15.0  # V; emulated servos run on 12 V


def write_leader_file(path: Path) -> Path:
    """A leader's calibration: other offsets and ranges than the follower's, the gripper mounted mirrored."""
    ranges = {"wrist_roll": (0, 4095), "gripper": (1900, 3100)}
    entries = {}
    for index, name in enumerate(JOINT_NAMES):
        low, high = ranges.get(name, (700 + 20 * index, 3300 + 20 * index))
        entries[name] = {
            "id": index + 1,
            "drive_mode": int(name == "gripper"),
            "homing_offset": 100 * index - 250,
            "range_min": low,
            "range_max": high,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=4))
    return path
