# SPDX-License-Identifier: Apache-2.0
"""`chefmate kitchen`: the twin's table, laid anew or changed by hand. Clients of kitchen_node's services."""

from __future__ import annotations

import argparse
from typing import Any

from chefmate.graph import MAX_SEED

NEXT_SEED, FIRST_FREE = -1, -1  # as KitchenReset.srv and KitchenPlace.srv define them
PLACES = ("holder", "plate", "elsewhere")


def add(kitchen: argparse.ArgumentParser) -> None:
    """Adds the commands to the parser of `chefmate kitchen`; `verb` names the chosen one."""
    verbs = kitchen.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    reset = verbs.add_parser("reset", help="new layout, light and colours; the arm stays where it is")
    reset.add_argument(
        "--seed", type=whole, default=NEXT_SEED, help="of the layout (default: the one after the last)"
    )
    reset.add_argument(
        "--slots",
        default="",
        help="ingredient of each holder slot, comma separated, nothing between commas for an empty slot "
        "(default: drawn from the seed)",
    )
    place = verbs.add_parser("place", help="move one slice, as a hand would")
    place.add_argument("name", help="a slice (bread_1) or an ingredient (bread: the first of its slices)")
    place.add_argument("place", choices=PLACES, help="elsewhere is out of the scene")
    place.add_argument(
        "--slot", type=whole, default=FIRST_FREE, help="of the holder, from 0 (default: the first free one)"
    )
    for command in (reset, place):
        command.add_argument("--namespace", default="", help="namespace of the graph")
        command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def whole(text: str) -> int:
    """A whole number from 0 to MAX_SEED; raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MAX_SEED}")
    return int(text)


def request_of(options: argparse.Namespace) -> tuple[str, Any, Any]:
    """Service, its type and the request for these options."""
    from chefmate_msgs.srv import KitchenPlace, KitchenReset

    if options.verb == "reset":
        slots = [name.strip() for name in options.slots.split(",")] if options.slots else []
        return "kitchen/reset", KitchenReset, KitchenReset.Request(seed=options.seed, slots=slots)
    request = KitchenPlace.Request(name=options.name, place=options.place, slot=options.slot)
    return "kitchen/place", KitchenPlace, request
