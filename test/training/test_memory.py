# SPDX-License-Identifier: Apache-2.0
"""Predicted memory is that of the table in docs/training.md, and advice fits."""

from __future__ import annotations

import pytest

from chefmate_policy.training.memory import CONTEXT_GB, advise, predict
from chefmate_policy.training.options import TrainOptions

ALL = {"tune_llm": True, "tune_visual": True, "lora_rank": 32}
# GB reserved on an H200, 2026-11-21; pictures of the bench (0.13 GB) taken off
MEASURED = [
    ({"lora_rank": 32, "batch_size": 16}, 8.98),
    (ALL | {"batch_size": 4}, 10.23),
]


@pytest.mark.parametrize(("options", "measured"), MEASURED)
def test_prediction_is_near_what_was_measured(options: dict[str, object], measured: float) -> None:
    assert predict(TrainOptions.from_dict(options)).peak_gb == pytest.approx(measured, rel=0.1)


def test_advice_fits_the_gpu_and_keeps_the_samples_of_a_step() -> None:
    options = TrainOptions.from_dict(ALL)
    for gigabytes in (8.0, 16.0, 24.0):
        need = advise(options, gigabytes)
        assert need is not None and need.peak_gb + CONTEXT_GB <= gigabytes
        assert need.options.batch_size * need.options.gradient_accumulation_steps == 32
    assert advise(options, 4.0) is None
