# SPDX-License-Identifier: Apache-2.0
"""Options of `chefmate train`, `params` and `memory` on the command line, in every spelling that the
reference's script takes: `--tune-llm`, `--tune_llm True`, `--no-tune_llm`, `--dataset-path a b`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from chefmate_policy.training.options import REPLACED, TrainOptions, kind_of, load_options
from chefmate_policy.training.presets import PRESETS, preset

__all__ = ["add", "read"]


def add(command: argparse.ArgumentParser) -> None:
    """CONFIG, --preset and an option for every field of TrainOptions."""
    command.allow_abbrev = False
    command.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="YAML file of options")
    command.add_argument("--preset", help=f"options to start from, before CONFIG: {', '.join(PRESETS)}")
    group = command.add_argument_group("overrides of CONFIG (dashes or underscores)")
    for item in fields(TrainOptions):
        kind, several, _ = kind_of(item.name)
        among, default = item.metadata["among"], item.default
        text = item.metadata["help"] + (f": {', '.join(among)}" if among else "")
        if default not in ((), None):
            text += f" (default {str(default).lower() if kind is bool else default})"
        settings: dict[str, Any] = {"dest": f"set_{item.name}", "default": argparse.SUPPRESS}
        if kind is bool:
            group.add_argument(
                *_spellings(item.name),
                nargs="?",
                const=True,
                metavar="BOOL",
                help=text,
                **settings,
            )
            group.add_argument(
                *_spellings(f"no_{item.name}"),
                action="store_const",
                const=False,
                help=argparse.SUPPRESS,
                **settings,
            )
        else:
            metavar = {int: "N", float: "X", str: "TEXT"}[kind]
            group.add_argument(
                *_spellings(item.name),
                nargs="+" if several else None,
                metavar=metavar,
                help=text.replace("%", "%%"),
                **settings,
            )
    for name in REPLACED:  # so that the message says what to do instead
        group.add_argument(
            *_spellings(name),
            nargs="?",
            const=True,
            dest=f"set_{name}",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def read(given: argparse.Namespace) -> TrainOptions:
    """The options of a parsed command line. Raises OptionError."""
    overrides = {
        name.removeprefix("set_"): value for name, value in vars(given).items() if name.startswith("set_")
    }
    base = preset(given.preset).options if given.preset else None
    return load_options(given.config, overrides, base)


def _spellings(name: str) -> list[str]:
    """With dashes, with underscores, and for `no_` in the mixed form of the reference (--no-tune_llm)."""
    spellings = [f"--{name.replace('_', '-')}", f"--{name}"]
    if name.startswith("no_"):
        spellings.append(f"--no-{name[3:]}")
    return list(dict.fromkeys(spellings))
