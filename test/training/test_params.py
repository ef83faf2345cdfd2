# SPDX-License-Identifier: Apache-2.0
"""`chefmate params`: the table, and the seeds' configuration rebuilt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chefmate.cli import main
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.params import planned


def test_the_seeds_configuration_gives_their_figures_and_what_is_wrong_with_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["params", "--preset", "seeds-2025-10-19", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    reference, total = found["reference"], found["total"]
    assert (reference["trainable"], reference["total"]) == (6_553_600, 2_730_717_120)
    assert reference["printed"] == (
        "trainable params: 6,553,600 || all params: 2,730,717,120 || trainable%: 0.2400"
    )
    assert any("48 in dit, 12 in vl_self_attention" in fault for fault in reference["faults"])
    assert any("9,855,008" in fault for fault in reference["faults"])
    assert (total["trainable"], total["lora"]) == (9_855_008, 0)  # what the flags say


def test_the_table_of_a_file_with_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("base_model_path: small-3m\nlora_rank: 4\n")
    assert main(["params", str(file), "--tune_llm", "--json", "--precision", "bf16"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in found["components"]}
    assert rows["language"]["lora"] and not rows["vision"]["lora"]
    assert rows["language"]["dtype"] == "bfloat16"
    total = found["total"]
    assert (
        total["trainable"] == total["lora"] + total["whole"] == sum(row["trainable"] for row in rows.values())
    )
    assert total["trained_bytes"] == total["gradient_bytes"] == 4 * total["trainable"]
    assert total["optimizer_bytes"] == 8 * total["trainable"]
    assert total["frozen_bytes"] == 2 * (total["held"] - total["whole"])
    assert main(["params", str(file)]) == 0
    said = capsys.readouterr().out
    assert "LoRA rank 4, alpha 8, qkv" in said and f"{total['held']:,}" in said


def test_moments_in_8_bit_take_a_quarter() -> None:
    sizes = [
        planned(TrainOptions(base_model_path="small-3m", optimizer=name)).total.optimizer_bytes
        for name in ("adamw", "adamw-8bit")
    ]
    assert 3.9 < sizes[0] / sizes[1] < 4.0


def test_faults_end_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lora_ranc: 4\n")
    assert main(["params", str(file)]) == 1
    assert f"{file}:1: no option 'lora_ranc'; did you mean lora_rank?" in capsys.readouterr().err
