# SPDX-License-Identifier: Apache-2.0
"""Options of a run: files, overrides, the spellings of the reference's script, errors that say where."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from chefmate import train_options
from chefmate.train import own_arguments
from chefmate_policy.training.errors import OptionError
from chefmate_policy.training.options import TrainOptions, load_options, read_file
from chefmate_policy.training.presets import PRESETS

# what the seeds type, with the line breaks taken out
SEEDS_BASELINE = (
    "--dataset-path ./demo_data/cheese/ ./demo_data/bread/ --num-gpus 1 --max-steps 10000"
    " --data-config so100_dualcam --batch-size 16 --lora-rank 32 --balance-dataset-weights"
    " --balance-trajectory-weights"
)
SEEDS_BROKEN = (
    "--dataset-path ./demo_data/cheese/ ./demo_data/bread/ --no-tune_diffusion_model --lora-rank 32"
    " --lora-alpha 64 --tune-llm False --tune-visual False --tune-projector True"
)
SEEDS_BEST = (
    "--dataset-path ./demo_data/cheese/ ./demo_data/bread/ --tune-llm --tune-visual --tune-projector True"
    " --tune-diffusion-model True --lora-rank 16 --lora-alpha 32"
)


def typed(line: str) -> TrainOptions:
    parser = argparse.ArgumentParser(exit_on_error=False)
    train_options.add(parser)
    return train_options.read(parser.parse_args(shlex.split(line)))


def test_the_seeds_command_lines_mean_what_they_say() -> None:
    baseline, broken, best = typed(SEEDS_BASELINE), typed(SEEDS_BROKEN), typed(SEEDS_BEST)
    assert baseline.dataset_path == ("./demo_data/cheese/", "./demo_data/bread/")
    assert (baseline.max_steps, baseline.batch_size, baseline.num_gpus) == (10_000, 16, 1)
    assert baseline.cameras == ("front", "wrist") and baseline.balance_dataset_weights
    assert (baseline.lora_rank, baseline.alpha) == (32, 64)
    assert broken.flags_on == ("tune_projector",) and broken.alpha == 64
    assert best.flags_on == ("tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model")
    assert (best.lora_rank, best.alpha) == (16, 32)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--tune-llm", True),
        ("--tune_llm", True),
        ("--tune-llm True", True),
        ("--tune_llm=true", True),
        ("--tune-llm False", False),
        ("--no-tune-llm", False),
        ("--no-tune_llm", False),
        ("--no_tune_llm", False),
        ("--tune-llm --no-tune-llm", False),
    ],
)
def test_flags_take_every_spelling(line: str, expected: bool) -> None:
    assert typed(line).tune_llm is expected


def test_overrides_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lora-rank: 8\nlearning_rate: 3e-5\nmax_steps: 20\nhours: 0.5\ndataset_path: cheese\n")
    options = typed(f"{file} --preset seeds-llm-vision-r16 --max_steps 30")
    assert (options.lora_rank, options.alpha, options.tune_llm) == (8, 32, True)
    assert (options.learning_rate, options.max_steps, options.hours) == (3e-5, 30, 0.5)
    assert options.dataset_path == ("cheese",)


def test_options_read_back_from_what_they_write(tmp_path: Path) -> None:
    options = typed(SEEDS_BEST)
    assert TrainOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(options.to_dict()))
    assert load_options(file) == options
    assert load_options() == TrainOptions()


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("batch_size: 4\ntune_lmm: true\n", 2, "did you mean tune_llm"),
        ("\n\nlora_rank: four\n", 3, "'four'; it must be a whole number"),
        ("lora_rank: 4.5\n", 1, "must be a whole number"),
        ("tune_llm: maybe\n", 1, "must be true or false"),
        ("batch_size: 0\n", 1, "at least 1"),
        ("learning_rate: .nan\n", 1, "learning_rate is nan"),
        ("data_config: so100_triplecam\n", 1, "so100_dualcam"),
        ("tune_llm: true\ntune-llm: false\n", 2, "line 1 sets it already"),
        ("lora_full_model: true\n", 1, "set tune_llm and tune_visual"),
        ("batch_size: 4\nlora:\n  rank: 4\n", 2, "no option 'lora'|no sections"),
        ("- batch_size\n", 1, "option: value"),
    ],
)
def test_faults_in_a_file_are_named_with_file_and_line(
    tmp_path: Path, text: str, line: int, what: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(OptionError, match=what) as caught:
        read_file(file)
    assert str(caught.value).startswith(f"{file}:{line}: ")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("--lora-full-model", "set tune_llm and tune_visual"),
        ("--lora-rank many", "'many'; it must be a whole number"),
        ("--no-tune-projector --no-tune-diffusion-model", "nothing trains"),
        ("--lora-alpha 16", "without adapters"),
        ("--dataset-path a b --dataset-weights 1", "1 numbers for 2"),
        ("--preset seeds", "seeds-2025-10-19"),
        ("absent.yaml", "absent.yaml"),
    ],
)
def test_contradictions_and_unknown_names_are_refused(line: str, what: str) -> None:
    with pytest.raises(OptionError, match=what):
        typed(line)


def test_an_unknown_option_is_refused_and_abbreviations_too(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("--tune-lmm", "--tune-l"):
        with pytest.raises((SystemExit, argparse.ArgumentError)):
            typed(line)
        assert line in capsys.readouterr().err


def test_every_option_has_help_and_every_preset_is_valid() -> None:
    assert all(item.metadata["help"] for item in fields(TrainOptions))
    assert [load_options(base=preset.options).lora_rank for preset in PRESETS.values()] == [
        32,
        32,
        16,
        32,
        16,
        32,
    ]


def test_each_gpus_process_gets_the_options_of_either_command() -> None:
    given = ["train", "--num-gpus", "2"]  # a run file may have any name
    assert own_arguments(["/ws/bin/chefmate", "train", *given]) == given
    assert own_arguments(["/ws/chefmate/train.py", *given]) == given
