# SPDX-License-Identifier: Apache-2.0
"""`chefmate data convert`: recordings of the running graph as a LeRobot dataset."""

from __future__ import annotations

import argparse
import json

from chefmate.errors import ArgumentError
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_policy.data.conversion import Wanted, convert
from chefmate_policy.units import JointUnits, so101_units

UNIT = "degrees"  # of the body joints; the gripper is 0..100


def run(options: argparse.Namespace) -> int:
    """0: a dataset stands; what was left out is said. Raises ArgumentError, DatasetError, RecordingError."""
    if options.fps < 1 or options.gap <= 0 or options.least < 0:
        raise ArgumentError("--fps must be at least 1, --gap above 0, --least 0 or more")
    cameras = {}
    for entry in options.cameras:
        name, equals, topic = entry.partition("=")
        if not (name and equals and topic):
            raise ArgumentError(f"--cameras {entry!r} is not of the form NAME=TOPIC, as scene=scene_camera")
        cameras[name] = topic
    wanted = Wanted(
        fps=options.fps,
        units=JointUnits(so101_units(JOINT_NAMES, UNIT)),
        cameras=cameras,
        size=options.size,
        version=options.version,
        gap=options.gap,
        least=options.least,
        only_success=options.only_success,
    )
    found = convert(options.bags, options.to, wanted)
    if options.json:
        left = [str(one) for one in found.left]
        print(json.dumps({"episodes": found.episodes, "frames": found.frames, "left_out": left}, indent=2))
        return 0
    print(f"{found.episodes} episodes, {found.frames} frames in {options.to}")
    for one in found.left:
        print(f"left out: {one}")
    return 0
