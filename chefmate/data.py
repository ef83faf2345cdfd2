# SPDX-License-Identifier: Apache-2.0
"""`chefmate data`: makes datasets, and says what is in them."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from chefmate import data_shortcut
from chefmate.data_options import convert_options, generate_options, record_options
from chefmate_driver.arm.model import JOINTS
from chefmate_policy.units import so101_units

UNITS = ("degrees", "rad", "-100..100")


def add(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate data`."""
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    look = actions.add_parser("inspect", help="validate a LeRobot dataset, and show what is in it")
    look.add_argument("dataset", type=Path, help="folder of the dataset (v2.0, v2.1 or v3.0)")
    look.add_argument(
        "--units", choices=UNITS, help="of the joints: checks them against the SO-ARM 101's limits"
    )
    look.add_argument("--plot", type=Path, help="write a picture (png, pdf, svg)")
    look.add_argument("--json", action="store_true", help="one JSON document on standard output")
    convert_options(actions.add_parser("convert", help="recordings of the running graph as a dataset"))
    generate_options(actions.add_parser("generate", help="episodes of the expert in the twin"))
    record_options(actions.add_parser("record", help="episodes of the running graph, by keys or services"))
    data_shortcut.add(actions.add_parser("shortcut", help="can the instruction be told from pictures alone?"))


def run(options: argparse.Namespace) -> int:
    """0: the dataset is whole; 1: it has faults. Raises DatasetError: it does not open."""
    if options.action == "convert":
        from chefmate import data_convert

        return data_convert.run(options)
    if options.action == "record":
        from chefmate import data_record

        return data_record.run(options)
    if options.action == "generate":
        from chefmate import data_generate

        return data_generate.run(options)
    if options.action == "shortcut":
        return data_shortcut.run(options)
    from chefmate_policy.data.dataset import Dataset
    from chefmate_policy.data.inspection import Summary, draw, summarise
    from chefmate_policy.data.lerobot_layout import DatasetError
    from chefmate_policy.data.validation import validate

    dataset = Dataset(options.dataset)
    faults = validate(dataset, limits(options.units) if options.units else None)
    summary: Summary | None = None
    try:
        summary = summarise(dataset)
        if options.plot:
            draw(dataset, summary, options.plot)
    except DatasetError:
        if not faults:  # otherwise they say it, with the episode
            raise
    if options.json:
        found = [
            {
                "file": str(fault.file),
                "episode": fault.episode,
                "frame": fault.frame,
                "message": fault.message,
            }
            for fault in faults
        ]
        contents = summary.to_dict() if summary else None
        print(json.dumps({"ok": not faults, "faults": found, "contents": contents}, indent=2))
    else:
        for line in (*(lines(summary) if summary else ()), *map(str, faults), f"{len(faults)} faults"):
            print(line)
    return 1 if faults else 0


def limits(units: str) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each joint in a dataset's units: the URDF's limits, or the unit's ends."""
    if units == "-100..100":
        return {joint.name: (0.0 if joint.name == "gripper" else -100.0, 100.0) for joint in JOINTS}
    table = so101_units([joint.name for joint in JOINTS], units)
    ends = {}
    for joint, unit in zip(JOINTS, table, strict=True):
        slope, offset = unit.line
        slack = 1e-4 * slope  # float32 and the URDF's six digits
        ends[joint.name] = (slope * joint.lower + offset - slack, slope * joint.upper + offset + slack)
        assert all(map(math.isfinite, ends[joint.name]))
    return ends


def lines(summary: object) -> list[str]:
    """The contents for a terminal."""
    from chefmate_policy.data.inspection import Summary

    assert isinstance(summary, Summary)
    fps, lengths = summary.fps, summary.lengths
    text = [
        f"{summary.version}, {summary.robot or 'robot not named'}, {fps:g} Hz",
        f"{len(lengths)} episodes, {sum(lengths)} frames,"
        f" {min(lengths) / fps:.1f} to {max(lengths) / fps:.1f} s long",
    ]
    text += [f"camera {name}: {width}x{height}" for name, (width, height) in summary.cameras.items()]
    text += [f"{count:5d} episodes: {words!r}" for words, count in summary.instructions.items()]
    text += [f"{joint}: {low:.2f} to {high:.2f}" for joint, (low, high) in summary.ranges.items()]
    for name, ends in (("heads", summary.idle_heads), ("tails", summary.idle_tails)):
        text.append(
            f"idle {name}: {sum(ends) / len(ends) / fps:.2f} s on average, {max(ends) / fps:.2f} s at most"
        )
    return text
