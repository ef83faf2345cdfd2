# SPDX-License-Identifier: Apache-2.0
"""`chefmate data shortcut`: can the instruction be told from the pictures alone?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chefmate_policy.data.shortcut_report import ShortcutReport

STATUS = {"TEACHES_LANGUAGE": 0, "CANNOT_TEACH_LANGUAGE": 1, "UNDECIDED": 3}  # 2 is argparse's


def add(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate data shortcut`."""
    command.add_argument(
        "datasets", type=Path, nargs="+", metavar="DATASET", help="folder of a LeRobot dataset"
    )
    command.add_argument(
        "--checkpoint", help="look through the vision tower of this GR00T checkpoint (default: at pixels)"
    )
    command.add_argument("--device", default="cpu", help="of the vision tower (default cpu)")
    command.add_argument(
        "--seed", type=int, default=0, help="of the shuffled labels and the choice of episodes (default 0)"
    )
    command.add_argument("--plot", type=Path, help="draw decodability over time (png, pdf, svg)")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(options: argparse.Namespace) -> int:
    """0: the data teaches language; 1: it cannot; 3: undecided. Raises PolicyError: it does not open."""
    from chefmate_policy.data.features import pixel_features, tower_features
    from chefmate_policy.data.mixture import Mixture
    from chefmate_policy.data.shortcut import judge
    from chefmate_policy.data.shortcut_plot import draw

    mixture = Mixture.open(options.datasets)
    features = tower_features(options.checkpoint, options.device) if options.checkpoint else pixel_features()
    report = judge(mixture, features, options.seed)
    if options.plot:
        draw(report, options.plot)
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        for line in lines(report):
            print(line)
    return STATUS[report.verdict.value]


def lines(report: ShortcutReport) -> list[str]:
    """The report for a terminal."""
    text = [
        f"features: {report.features}",
        f"{report.episodes} episodes in {report.layouts} layouts, named by {report.layouts_from};"
        f" {report.paired:.0%} in layouts with several instructions",
    ]
    for name, label in report.labels.items():
        texts = ", ".join(repr(words) for words in label.texts[:3]) + (
            ", ..." if len(label.texts) > 3 else ""
        )
        text.append(f"  {name}: {label.episodes} episodes, {label.layouts} layouts ({texts})")
    if report.before is not None and report.chance is not None:
        mean, highest = report.chance
        text += [
            f"before a joint moves by {report.moved:.0%} of its range ({report.still:.2f} s): told right"
            f" {report.before.accuracy:.0%} (95 %: {report.before.low:.0%} to {report.before.high:.0%});"
            f" with shuffled labels {mean:.0%}, at most {highest:.0%}",
            "over the episode: "
            + ", ".join(f"{point.time:.0%} {point.score.accuracy:.0%}" for point in report.curve[::2]),
        ]
    text.append(f"{report.verdict.value}: {report.reason}")
    text += [f"to mend it, {line}" for line in report.mend]
    return text
