# SPDX-License-Identifier: Apache-2.0
"""Predicted memory is that of the table in docs/training.md, and advice fits."""

from __future__ import annotations

from typing import Any

import pytest

from chefmate_policy.training.memory import CONTEXT_GB, advise, predict
from chefmate_policy.training.options import TrainOptions

ALL = {"tune_llm": True, "tune_visual": True, "lora_rank": 32}
AGAIN = ALL | {"gradient_checkpointing": True}
# GB reserved and ms a step, H200, 2026-11-21 and 22; the bench's pictures (0.13 GB) taken off
MEASURED = [
    ({"lora_rank": 32, "batch_size": 16}, 8.98, 101.3),
    ({"lora_rank": 32, "batch_size": 16, "gradient_checkpointing": True}, 6.52, 130.3),
    (ALL | {"batch_size": 4}, 10.23, 63.7),
    (AGAIN | {"batch_size": 4}, 5.52, 95.3),
    (AGAIN | {"batch_size": 16}, 9.11, 304.9),
    (ALL | {"batch_size": 16, "compile": True}, 24.13, 139.9),
    (AGAIN | {"batch_size": 16, "compile": True}, 7.89, 187.9),
]
UNSEEN = [  # by the constants
    (AGAIN | {"batch_size": 8}, 6.76, 162.7),
    ({"lora_rank": 16, "batch_size": 32}, 13.82, 197.3),
    (ALL | {"lora_rank": 16, "batch_size": 8}, 16.05, 109.0),
    ({"tune_llm": True, "lora_rank": 32, "batch_size": 4}, 8.01, 49.0),
    ({"tune_llm": True, "lora_rank": 16, "batch_size": 16, "gradient_checkpointing": True}, 7.72, 227.7),
    ({"batch_size": 8}, 18.82, 69.8),
]


@pytest.mark.parametrize(
    ("options", "gigabytes", "milliseconds", "within"),
    [(*row, 0.05) for row in MEASURED] + [(*row, 0.10) for row in UNSEEN],
)
def test_prediction_is_near_what_was_measured(
    options: dict[str, Any], gigabytes: float, milliseconds: float, within: float
) -> None:
    need = predict(TrainOptions.from_dict(options))
    assert need.peak_gb == pytest.approx(gigabytes, rel=within)
    assert need.ms == pytest.approx(milliseconds, rel=within)


def test_advice_fits_the_gpu_and_keeps_the_samples_of_a_step() -> None:
    options = TrainOptions.from_dict(ALL)
    for gigabytes in (8.0, 16.0, 24.0):
        need = advise(options, gigabytes)
        assert need is not None and need.peak_gb + CONTEXT_GB <= gigabytes
        assert need.options.batch_size * need.options.gradient_accumulation_steps == 32
    assert advise(options, 4.0) is None
