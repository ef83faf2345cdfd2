# SPDX-License-Identifier: Apache-2.0
"""`chefmate card`: the model card of a policy that is handed on, and whether the folder is fit for that."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add(command: argparse.ArgumentParser) -> None:
    """Options of the command."""
    command.add_argument("folder", type=Path, help="policy to hand on: merged/ of a run, or a copy of it")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def card(options: argparse.Namespace) -> int:
    """Writes the card and says what is wrong; 1: something is."""
    from chefmate_policy.training.card import problems, write_card

    written = write_card(options.folder)
    wrong = problems(options.folder)
    if options.json:
        print(json.dumps({"card": str(written), "problems": wrong}, indent=2))
    else:
        print(f"{written} is written")
        for line in wrong:
            print(f"not fit to be handed on: {line}")
    return 1 if wrong else 0
