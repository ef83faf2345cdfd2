# SPDX-License-Identifier: Apache-2.0
"""The offline checks of one policy of the study: `python -m chefmate.study_look CHECKPOINT DATA OUT.json`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from chefmate.errors import ChefmateError
from chefmate_policy.errors import PolicyError


def main() -> int:
    """0: OUT.json is written; 1: it could not be."""
    parser = argparse.ArgumentParser(prog="python -m chefmate.study_look", description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("data", type=Path, help="held-out layouts under several instructions")
    parser.add_argument("out", type=Path)
    parser.add_argument("--embodiment", default="new_embodiment")
    parser.add_argument("--guidance", type=float, default=1.0)
    given = parser.parse_args()
    try:
        from chefmate.obey_offline import offline
        from chefmate_policy.inference.checkpoint_policy import CheckpointOptions

        found = offline(
            given.checkpoint,
            given.data,
            quick=True,
            device="cpu",
            options=CheckpointOptions(embodiment=given.embodiment, guidance=given.guidance),
        )
    except (ChefmateError, PolicyError) as error:
        print(error, file=sys.stderr)
        return 1
    part = given.out.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1), "utf-8")
    os.replace(part, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
