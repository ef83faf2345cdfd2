# SPDX-License-Identifier: Apache-2.0
"""`chefmate params`: what a configuration trains, per component, and what that takes in memory."""

from __future__ import annotations

import argparse
import json

from chefmate import train_options


def add(command: argparse.ArgumentParser) -> None:
    """Options of the command."""
    train_options.add(command)
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def params(options: argparse.Namespace) -> int:
    """Prints the table. No weights are read."""
    import torch

    from chefmate_policy.training.params import planned, starting_config
    from chefmate_policy.training.presets import SEEDS
    from chefmate_policy.training.reference import rebuild

    wanted = train_options.read(options)
    on_gpu = wanted.device != "cpu" and torch.cuda.is_available()
    half = wanted.precision == "bf16" or (wanted.precision == "auto" and on_gpu)
    table = planned(wanted, torch.bfloat16 if half else torch.float32)
    reference = None
    if options.preset == SEEDS:
        reference = rebuild(starting_config(wanted.base_model_path, wanted.base_revision), wanted)
    if options.json:
        document = table.to_dict()
        if reference is not None:
            document["reference"] = {
                "trainable": reference.trainable,
                "total": reference.total,
                "printed": reference.printed,
                "faults": reference.faults(),
            }
        print(json.dumps(document, indent=2))
        return 0
    for line in table.lines():
        print(line)
    if reference is not None:
        print("\nThe same options in the reference's script print\n")
        print(f"    {reference.printed}\n")
        print("and what is wrong with it:")
        for fault in reference.faults():
            print(f"- {fault}")
    return 0
