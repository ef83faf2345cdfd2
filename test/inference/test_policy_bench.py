# SPDX-License-Identifier: Apache-2.0
"""The bench of the policy: every variant in a process of its own, errors against float32."""

from __future__ import annotations

import pytest
import torch

from chefmate_policy.inference import bench


@pytest.mark.slow
def test_the_bench_measures_the_engine_beside_the_plain_model() -> None:
    lines: list[str] = []
    document = bench.measure_policy(
        "small-3m", "cpu", iterations=5, variants=("eager", "engine"), say=lines.append
    )
    variants = document["variants"]
    assert list(variants) == ["float32", "eager", "engine"]
    assert not any("failed" in figures for figures in variants.values()), lines
    engine = variants["engine"]
    assert engine["relative_error"] < 1e-5
    assert 0.5 < engine["velocity_to_noise"] < 2.0
    assert set(engine["stages_ms"]) == set(bench.STAGES)
    inner = sum(
        engine["stages_ms"][stage]["p50"] for stage in ("vision", "language", "features", "denoising")
    )
    assert 0.3 * engine["model_ms"]["p50"] < inner < 3.0 * engine["model_ms"]["p50"]
    assert engine["wall_ms"]["p50"] > engine["model_ms"]["p50"]


@pytest.mark.slow
def test_a_variant_that_fails_is_reported_and_the_others_go_on() -> None:
    lines: list[str] = []
    document = bench.measure_policy(  # there is no such device
        "small-3m", "meta:nowhere", iterations=5, variants=("eager",), say=lines.append
    )
    failures = [figures["failed"] for figures in document["variants"].values()]
    assert len(failures) == 2
    assert all("meta:nowhere" in failure for failure in failures)


def test_wrong_actions_are_an_error_of_their_size() -> None:
    reference = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(0))
    assert bench._relative(reference, reference) == 0.0
    assert abs(bench._relative(1.1 * reference, reference) - 0.1) < 1e-6
    assert bench._relative(reference * float("nan"), reference) == float("inf")
