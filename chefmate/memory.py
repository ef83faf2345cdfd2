# SPDX-License-Identifier: Apache-2.0
"""`chefmate memory`: what configurations need on a GPU, predicted and, where there is one, measured; and what
to set on a GPU of a given size."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from chefmate import train_options
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.presets import PRESETS, SEEDS


def add(command: argparse.ArgumentParser) -> None:
    """Options of the command."""
    train_options.add(command)
    command.add_argument("--gpu-gb", type=float, default=16.0, help="GPU to advise for, GB (default 16)")
    command.add_argument("--no-measure", action="store_true", help="predict only, also where there is a GPU")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def memory(options: argparse.Namespace) -> int:
    """Prints the table: the configuration given, else the five that the seeds' authors compared."""
    import torch

    from chefmate_policy.training.bench import measure_options
    from chefmate_policy.training.memory import advise, predict

    measures = torch.cuda.is_available() and not options.no_measure
    rows: list[dict[str, Any]] = []
    for name, wanted in configurations(options).items():
        need, best = predict(wanted), advise(wanted, options.gpu_gb)
        row: dict[str, Any] = {"name": name, "predicted": need.to_dict(), "advice": None}
        if best is not None:
            row["advice"] = best.to_dict()
        if measures:
            print(f"measuring {name}", file=sys.stderr)
            row["measured"] = measure_options(wanted)
        rows.append(row)
    if options.json:
        print(json.dumps({"gpu_gb": options.gpu_gb, "rows": rows}, indent=2))
        return 0
    for line in lines(rows, options.gpu_gb):
        print(line)
    return 0


def configurations(options: argparse.Namespace) -> dict[str, TrainOptions]:
    """By name."""
    given = options.config or options.preset or any(name.startswith("set_") for name in vars(options))
    if given:
        return {str(options.config or options.preset or "as given"): train_options.read(options)}
    return {
        name: TrainOptions.from_dict(dict(preset.options))
        for name, preset in PRESETS.items()
        if name != SEEDS
    }


def lines(rows: list[dict[str, Any]], gpu_gb: float) -> list[str]:
    """The table for a terminal."""
    text = [f"{'configuration':22s} batch  predicted GB  ms on H200  measured GB       ms"]
    for row in rows:
        need, found = row["predicted"], row.get("measured")
        measured = ""
        if found is not None:
            measured = found.get("error") or (
                f"{found['peak_reserved_gb']:11.2f}  {found['ms_per_step']:7.1f}"
            )
        text.append(
            f"{row['name']:22s} {need['batch_size']:5d}  {need['peak_gb']:12.2f}"
            f"  {need['ms_per_step_h200']:10.1f}  {measured}"
        )
    text.append(f"on a GPU of {gpu_gb:g} GB, for steps of 32 samples (0.5 GB left for CUDA itself):")
    for row in rows:
        best = row["advice"]
        if best is None:
            text.append(f"  {row['name']}: does not fit; train fewer parts, or use adapters (--lora-rank 16)")
            continue
        again = " --compile" * best["compile"] + " --gradient-checkpointing" * best["gradient_checkpointing"]
        text.append(
            f"  {row['name']}: --batch-size {best['batch_size']} --gradient-accumulation-steps"
            f" {best['gradient_accumulation_steps']}{again} --precision bf16 --optimizer {best['optimizer']}"
            f": {best['peak_gb']:.1f} GB"
        )
    return text
