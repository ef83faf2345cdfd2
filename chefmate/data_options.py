# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that make datasets; light to import, for all parsers are built at once."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from chefmate_policy.data.lerobot_layout import V2_1, WRITABLE

RATES = (1, 2, 4, 5, 10, 20, 25, 50)  # Hz: the arm's cycle of 10 ms is a part of a frame


def generate_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate data generate`."""
    command.add_argument("out", type=Path, help="folder of the new dataset")
    command.add_argument("--layouts", type=int, default=100, help="scenes (default 100)")
    command.add_argument("--seed", type=int, default=1, help="other seeds share no scene (default 1)")
    command.add_argument("--workers", type=int, help="processes (default: one for each core)")
    command.add_argument("--seconds", type=float, help="begin no layout after that; whole ones are written")
    command.add_argument(
        "--fps", type=int, default=10, help=f"one of {', '.join(map(str, RATES))} (default 10)"
    )
    command.add_argument("--size", type=picture_size, default=(96, 96), help="N or WxH pixels (default 96)")
    command.add_argument("--format", choices=WRITABLE, default=V2_1, dest="version", help=f"default {V2_1}")
    command.add_argument("--no-images", action="store_true", help="joints and instructions alone")
    command.add_argument("--one-ingredient", action="store_true", help="one slice in each scene and its name")
    command.add_argument("--ingredients", nargs="+", metavar="NAME", help="default: all of the kitchen")
    command.add_argument(
        "--instructions",
        nargs="+",
        metavar="ID",
        default=(),
        help="sentences of config/phrasings.yaml to use",
    )
    command.add_argument(
        "--phrasings", type=int, default=1, help="sentences per named ingredient (default 1)"
    )
    command.add_argument("--idle", type=int, default=2, help="idle episodes per layout (default 2)")
    command.add_argument(
        "--switches", type=int, default=0, help="per layout, instructions changed in mid-reach (default 0)"
    )
    command.add_argument(
        "--stacked", type=float, default=0.5, help="share of layouts with a laid plate (0.5)"
    )
    command.add_argument(
        "--start-spread", type=float, default=0.04, help="rad, half-width of the start pose (default 0.04)"
    )
    command.add_argument(
        "--kicked", type=float, default=0.25, help="share of disturbed episodes (default 0.25)"
    )
    command.add_argument("--kick", type=float, default=0.12, help="rad, largest disturbance (default 0.12)")
    command.add_argument(
        "--restyled", type=float, default=0.0, help="share of sentences in other letters and marks (0)"
    )
    command.add_argument(
        "--policy",
        type=Path,
        metavar="CHECKPOINT",
        help="a policy that drives, unrecorded, before the expert shows what to do where it got (DAgger)",
    )
    command.add_argument(
        "--driven", type=float, default=0.7, help="share of episodes with that (default 0.7; up to 10 s)"
    )
    command.add_argument(
        "--held-out", nargs="*", metavar="ENTRY", help="instead of the list in config/phrasings.yaml"
    )
    command.add_argument("--kitchen", type=Path, help="scene file (default config/kitchen_scene.yaml)")
    command.add_argument("--phrasing-table", type=Path, help="default config/phrasings.yaml")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def picture_size(text: str) -> tuple[int, int]:
    """96 -> (96, 96); 128x96 -> (128, 96)."""
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither N nor WxH")
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def convert_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate data convert`."""
    command.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 folders of the graph")
    command.add_argument(
        "--to", type=Path, required=True, metavar="DATASET", help="folder of the new dataset"
    )
    command.add_argument("--fps", type=int, default=10, help="frames per second of the dataset (default 10)")
    command.add_argument("--size", type=picture_size, help="N or WxH pixels (default: the cameras')")
    command.add_argument("--format", choices=WRITABLE, default=V2_1, dest="version", help=f"default {V2_1}")
    command.add_argument(
        "--cameras",
        nargs="+",
        default=["scene=scene_camera", "wrist=wrist_camera"],
        metavar="NAME=TOPIC",
        help="default scene=scene_camera wrist=wrist_camera",
    )
    command.add_argument(
        "--gap",
        type=float,
        default=0.15,
        help="s between messages that make an episode faulty (default 0.15)",
    )
    command.add_argument(
        "--least", type=float, default=1.0, help="s, shorter episodes are left out (default 1)"
    )
    command.add_argument("--only-success", action="store_true", help="episodes that the sequencer judged so")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def record_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate data record`."""
    command.add_argument("folder", type=Path, help="gets a rosbag2 folder for each episode")
    command.add_argument("--namespace", default="", help="namespace of the graph")
