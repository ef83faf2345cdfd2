# SPDX-License-Identifier: Apache-2.0
"""Model card and record of the data: what a policy is handed on with, and what must not be in its data."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chefmate_policy.data.dataset import Dataset
from chefmate_policy.data.writing import DatasetWriter
from chefmate_policy.training import card
from chefmate_policy.training.card import CARD, problems, write_card
from chefmate_policy.training.checkpoints import RUN
from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.provenance import made_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference"))
from small_checkpoint import JOINTS, write_small_checkpoint

SHIPPED = Path(__file__).resolve().parents[2] / "policies"
MADE_BY = {
    "seed": 3, "layouts": 2, "fps": 10, "size": [136, 136], "policy": None,
    "scene": {
        "phrasings": 1, "idle": 2, "switches": 0, "stacked": 0.5, "start_spread": 0.04, "kicked": 0.25,
        "kick": 0.12, "one_ingredient": False,
    },
}  # fmt: skip


def write_dataset(root: Path) -> Path:
    """Two episodes without pictures, as `chefmate data generate` describes them."""
    states = np.zeros((5, 6), np.float32)
    with DatasetWriter(root, fps=10, joints=[f"{name}.pos" for name in JOINTS], cameras={}) as writer:
        for number, (text, naming) in enumerate(
            (("pick up the bread", "bread/bread"), ("pick up the banana", "unknown/banana"))
        ):
            extra = {"layout": 300_000 + number, "phrasing": "pick", "naming": naming}
            writer.add_episode(text, states, states, {}, extra)
        writer.note("chefmate.json", MADE_BY)
        writer.note_lines("privileged.jsonl", [{"slots": ["bread", "", "cheese", "", ""]}] * 2)
    return root


def write_run(folder: Path, dataset: Path, base: Path | None = None, fingerprint: str = "f" * 64) -> None:
    """training/run.json as a run over this dataset leaves it."""
    options = {
        "batch_size": 8, "dataset_path": [str(dataset)], "base_model_path": "small-3m", "hours": 0.1,
        "max_steps": 9, "merge": True, "output_dir": "out", "tune_llm": True,
    }  # fmt: skip
    report = {
        "step": 9, "seconds": 60.0, "options": options, "software": {"torch": "2"},
        "base": {"name": "small-3m", "kind": "member", "revision": None, "sha256": None},
        "data": {str(dataset): fingerprint}, "figures": {"loss": 0.5, "held_out": None},
        "made_of": made_of({fingerprint: Dataset(dataset)}, base),
    }  # fmt: skip
    (folder / RUN).parent.mkdir(parents=True, exist_ok=True)
    (folder / RUN).write_text(json.dumps(report))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that may be handed on, and whose base had data of its own."""
    root = tmp_path_factory.mktemp("policies")
    base, folder = root / "base", write_small_checkpoint(root / "cook")
    write_run(base, write_dataset(root / "many"), fingerprint="b" * 64)
    write_run(folder, write_dataset(root / "kitchen"), base)
    write_card(folder)
    return folder


@pytest.fixture
def policy(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "cook"))


def test_the_card_says_what_the_policy_is_and_how_it_is_made_again(policy: Path) -> None:
    assert problems(policy) == []
    text = (policy / CARD).read_text()
    for said in (
        "# cook",
        "random weights of `small-3m`",
        "| kitchen | 2 | 10 | 300,000 to 300,001 | 2 |",
        "`bread/toast`",
    ):
        assert said in text
    commands = text.split("```")[1].strip().splitlines()
    assert commands[0].startswith("chefmate data generate many --seed 3 --layouts 2 --fps 10 --size 136x136")
    assert [line.split()[1] for line in commands] == ["data", "train", "data", "train"]
    assert "tune_llm: true" in (policy / "training" / "config.yaml").read_text()


def change(policy: Path, where: str, key: str, value: Any) -> None:
    """Changes the first dataset's entry in the record of the run, or of its base."""
    report = json.loads((policy / RUN).read_text())
    record = report["made_of"]["base"] if where == "base" else report["made_of"]
    record["datasets"][0][key] = value
    (policy / RUN).write_text(json.dumps(report))


@pytest.mark.parametrize("where", ["run", "base"])
@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("said", ["pick bread/toast"], "pick of bread/toast was said"),
        ("said", ["fetch bread/bread"], "fetch of bread/bread was said"),
        ("said", ["move cheese/yellow"], "move of cheese/yellow was said"),
        ("stood", ["bread@1", "tomato@0"], "tomato@0 stood there"),
        ("layouts", [300_000, 770_000_000], "also of trials or sandwiches"),
        ("layouts", [19, 300_000], "also of trials or sandwiches"),
        ("layouts", [], "its layouts are not known"),
    ],
)
def test_what_is_held_out_is_found_in_the_data(
    policy: Path, where: str, key: str, value: Any, found: str
) -> None:
    change(policy, where, key, value)
    assert [line for line in problems(policy) if found in line], problems(policy)


def test_a_folder_that_is_not_of_one_piece_is_named(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(card, "LARGEST", 1000)
        assert "more than 1,000" in problems(policy)[0]
    change(policy, "run", "fingerprint", "0" * 64)
    assert problems(policy) == ["the record of the data is not that of the run: fingerprints differ"]
    with (policy / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert "README.md is of other weights" in problems(policy)[0]
    (policy / "tokenizer.json").unlink()
    assert problems(policy) == ["tokenizer.json is missing"]


def test_a_run_that_does_not_say_what_it_is_made_of_gets_no_card(policy: Path) -> None:
    report = json.loads((policy / RUN).read_text())
    (policy / RUN).write_text(json.dumps({**report, "made_of": {}}))
    with pytest.raises(TrainingError, match="does not say what the policy was made of"):
        write_card(policy)


@pytest.mark.parametrize("folder", sorted(SHIPPED.glob("*")), ids=lambda folder: folder.name)
def test_a_policy_that_comes_along_is_fit_to_be_handed_on(folder: Path) -> None:
    assert problems(folder) == []
