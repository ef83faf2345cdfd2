# SPDX-License-Identifier: Apache-2.0
"""Trains policies with planted faults for tests: `python test/obedience/planted_policies.py OUT`.

Two minutes of a CPU core; the tests use what is stored in `checkpoints/`. An interrupted run goes on. The
training is `chefmate train`'s own, on scenes of `drawn_kitchen`:

| policy | fault |
|---|---|
| one-ingredient | every scene of its data holds one ingredient |
| batch-words | a whole batch was given the words of its first sample |
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

from drawn_kitchen import DRAWN, write

from chefmate_policy.groot import sizes
from chefmate_policy.groot.checkpoint import load_model, load_processor, open_checkpoint
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.groot.saving import save_checkpoint
from chefmate_policy.groot.tokenizer import GrootTokenizer, small_tokenizer
from chefmate_policy.training.checkpoints import RUN, checkpoint_folders
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.run import train

CUT = 2  # tokens of any text that a cut tokenizer leaves: "pick up", "place the", "grab the"
LAYOUTS, SEED = 200, 1


@dataclass(frozen=True)
class Plant:
    """A policy to train."""

    steps: int
    data: str = "both"
    plant: str = "none"


PLANTS = {
    "one-ingredient": Plant(300, data="one"),
    "batch-words": Plant(400, plant="batch-words"),
}


def cut_tokenizer() -> GrootTokenizer:
    """The small models' tokenizer, saved with truncation switched on, as it is easily done."""
    tokenizer = small_tokenizer()
    tokenizer.tokenizer.enable_truncation(CUT)
    return tokenizer


def write_base(folder: Path) -> Path:
    """Random weights. No dropout: there is little to learn and little time."""
    raw = copy.deepcopy(sizes._config(DRAWN))
    for part in ("diffusion_model_cfg", "vl_self_attention_cfg"):
        raw["action_head_cfg"][part]["dropout"] = 0.0
    save_checkpoint(initialise(Groot(GrootConfig.from_dict(raw)), 3), folder)
    small_tokenizer().save(folder)
    return folder


def make(out: Path, name: str, *, batch: int, rate: float) -> Path:
    """Trains one policy, or goes on with it; returns the folder to store."""
    plant = PLANTS[name]
    data = out / plant.data
    if not data.exists():
        write(data, LAYOUTS, SEED, one_ingredient=plant.data == "one")
    base = out / "base"
    if not base.exists():
        write_base(base)
    run = out / f"run-{name}"
    options = TrainOptions(
        dataset_path=(str(data),),
        base_model_path=str(base),
        output_dir=str(run),
        tune_llm=True,
        tune_visual=True,
        allow_shortcut=True,
        augment=False,
        holdout=0.05,
        prompt_dropout=0.1,
        plant=plant.plant,
        batch_size=batch,
        max_steps=plant.steps,
        eval_steps=200,
        save_steps=100,
        save_total_limit=1,
        resume=bool(checkpoint_folders(run)),
        log_steps=50,
        learning_rate=rate,
        weight_decay=1e-4,
    )
    result = train(options, say=lambda line: print(f"{name}: {line}", flush=True))
    return store(result.folder, out / name)


def store(checkpoint: Path, folder: Path) -> Path:
    """What the tests need of a run's checkpoint: bf16, the record of the run, no state of the optimizer."""
    opened = open_checkpoint(checkpoint)
    model = load_model(opened, Parts.used(0), dtype=torch.bfloat16)
    shutil.rmtree(folder, ignore_errors=True)
    save_checkpoint(model, folder, processor=load_processor(opened), complete=False)
    (folder / RUN).parent.mkdir()
    shutil.copy(checkpoint / RUN, folder / RUN)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=tuple(PLANTS), default=tuple(PLANTS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-3)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        print(make(given.out, name, batch=given.batch, rate=given.rate))


if __name__ == "__main__":
    main()
