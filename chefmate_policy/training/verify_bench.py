# SPDX-License-Identifier: Apache-2.0
"""Verifies what trains at any size, from random weights: `python -m chefmate_policy.training.verify_bench`.

Without arguments: the published size on a GPU in bf16, adapters on everything, adapters on the action head,
and the whole action head.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.groot.sizes import MEMBERS, PUBLISHED
from chefmate_policy.training.components import FLAGS
from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.params import starting_config
from chefmate_policy.training.trainable import make_trainable, slot_of
from chefmate_policy.training.verify import verify

__all__ = ["main"]

RUNS: dict[str, dict[str, Any]] = {
    "adapters on everything, rank 32": {"lora_rank": 32, **dict.fromkeys(FLAGS, True)},
    "adapters on the action head, rank 32": {"lora_rank": 32},
    "the action head whole": {},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every run trains what its options say; 1: one does not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--member", default=PUBLISHED, choices=(PUBLISHED, *MEMBERS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file")
    given = parser.parse_args(arguments)
    on_gpu = torch.device(given.device).type == "cuda"
    results: dict[str, Any] = {}
    for name, settings in RUNS.items():
        options = TrainOptions(base_model_path=given.member, **settings)
        config = starting_config(given.member)
        parts = Parts.used(slot_of(config, options.embodiment_tag))
        with torch.device(given.device):
            model = initialise(Groot(config, parts), 0).to(torch.bfloat16 if on_gpu else torch.float32)
        try:
            found = verify(make_trainable(model, options))
        except TrainingError as error:
            results[name] = {"error": str(error)}
        else:
            results[name] = asdict(found)
        print(f"{name}: {results[name].get('error') or found}", flush=True)
        del model
        if on_gpu:
            torch.cuda.empty_cache()
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 1 if any("error" in result for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
