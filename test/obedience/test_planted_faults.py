# SPDX-License-Identifier: Apache-2.0
"""The instrument names the right cause on checkpoints that were trained with a fault in them.

`checkpoints/` holds what `planted_policies.py` trained: small, but by `chefmate train`, of GR00T's classes.
The instrument is given what an owner has: the checkpoint, its training data, and scenes to look at.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
from drawn_kitchen import write
from planted_policies import PLANTS, cut_tokenizer

from chefmate.obey_offline import offline
from chefmate_policy.obedience.report import write as write_report
from chefmate_policy.obedience.teaching import teaching
from chefmate_policy.obedience.verdicts import judge
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.run import train

STORED = Path(__file__).resolve().parent / "checkpoints"
UNSEEN, OLD = 77, 1  # seeds of scenes: never trained on; the training data's own


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Scenes to look at, and the beginning of both kinds of training data."""
    root = tmp_path_factory.mktemp("drawn")
    return {
        "unseen": write(root / "unseen", 12, UNSEEN),
        "both": write(root / "both", 20, OLD),
        "one": write(root / "one", 30, OLD, one_ingredient=True),
    }


def result(policy: Path, data: dict[str, Path], kind: str, base: str = "") -> dict[str, Any]:
    return {
        "policy": policy.name,
        "offline": offline(str(policy), data["unseen"], quick=True, base=base),
        "teaching": teaching(str(policy), data[kind], base=base, quick=True),
    }


@pytest.mark.parametrize(
    ("name", "overall", "causes"),
    [
        ("one-ingredient", "disobeys", ("data-cannot-teach",)),
        ("batch-words", "disobeys", ("wrong-words",)),
    ],
)
def test_the_planted_fault_is_named(
    name: str, overall: str, causes: tuple[str, ...], data: dict[str, Path], tmp_path: Path
) -> None:
    found = result(STORED / name, data, PLANTS[name].data)
    judged = judge(found)
    assert (judged.overall, judged.causes) == (overall, causes), judged.lines()
    assert judged.title in write_report(found, tmp_path).read_text(encoding="utf-8")


def test_text_that_is_cut_is_named(data: dict[str, Path], tmp_path: Path) -> None:
    """Whatever else is wrong with a policy: here it was trained with wrong words, too."""
    policy = tmp_path / "policy"
    shutil.copytree(STORED / "batch-words", policy)
    cut_tokenizer().save(policy)
    judged = judge({"offline": offline(str(policy), data["unseen"], quick=True)})
    assert (judged.overall, judged.causes) == ("disobeys", ("text-cut",)), judged.lines()


@pytest.fixture(scope="module")
def adapter(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tune with adapters of the policy that was trained with wrong words; of three steps."""
    options = TrainOptions(
        dataset_path=(str(data["both"]),),
        base_model_path=str(STORED / "batch-words"),
        output_dir=str(tmp_path_factory.mktemp("adapter") / "run"),
        lora_rank=4,
        holdout=0.0,
        batch_size=4,
        max_steps=3,
        device="cpu",
    )
    torch.set_num_threads(1)
    return train(options, say=lambda line: None).folder


@pytest.mark.parametrize("lost", ["zero", "merged"])
def test_adapters_that_are_not_loaded_are_named(
    lost: str, adapter: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    """Their tensors are as they began, or a merge has left the base."""
    base, policy = STORED / "batch-words", tmp_path / "policy"
    shutil.copytree(base if lost == "merged" else adapter, policy)
    if lost == "merged":
        shutil.rmtree(policy / "training")
        shutil.copytree(adapter / "training", policy / "training")
    else:
        file = policy / "adapter_model.safetensors"
        kept = load_file(file)
        assert any(tensor.abs().max() > 0 for name, tensor in kept.items() if "lora_B" in name)
        kept = {name: torch.zeros_like(part) if "lora_B" in name else part for name, part in kept.items()}
        save_file(kept, file)
    judged = judge({"offline": offline(str(policy), data["unseen"], quick=True, base=str(base))})
    assert judged.causes == ("adapters-not-loaded",), judged.lines()
