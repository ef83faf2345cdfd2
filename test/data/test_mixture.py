# SPDX-License-Identifier: Apache-2.0
"""Mixtures: shares are what the flags say, samples are a function of seed and number, ends are masked."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from filmed_tasks import JOINTS, SIDE, write_dataset

from chefmate_policy.data.lerobot_layout import DatasetError
from chefmate_policy.data.mixture import Mixture
from chefmate_policy.data.sampling import Run, Sampler, Sampling, run_shares
from chefmate_policy.data.writing import DatasetWriter

# dataset, trajectory, instruction, frames: a big dataset of two instructions and a small one of one
LENGTHS = ((0, 0, 0, 40), (0, 1, 0, 10), (0, 2, 1, 30), (1, 3, 1, 20))
# (datasets, trajectories, instructions balanced) -> share of each trajectory, by hand
SHARES = {
    (False, False, False): (0.4, 0.1, 0.3, 0.2),
    (False, True, False): (1 / 4, 1 / 4, 1 / 4, 1 / 4),
    (True, False, False): (0.25, 0.0625, 0.1875, 0.5),
    (True, True, False): (1 / 6, 1 / 6, 1 / 6, 1 / 2),
    (False, False, True): (0.4, 0.1, 0.3, 0.2),
    (False, True, True): (1 / 4, 1 / 4, 1 / 4, 1 / 4),
    (True, False, True): (0.2, 0.05, 0.25, 0.5),
    (True, True, True): (1 / 8, 1 / 8, 1 / 4, 1 / 2),
}
# the same, of which the second dataset counts three times
WEIGHTED = {
    (False, False, False): (0.4 / 1.4, 0.1 / 1.4, 0.3 / 1.4, 0.6 / 1.4),
    (True, False, True): (0.1, 0.025, 0.125, 0.75),
    (False, True, True): (1 / 4, 1 / 4, 1 / 8, 3 / 8),
}
HIGHEST = {3: 16.27, 99: 148.2}  # chi-square of these degrees of freedom, exceeded once in 1000


def runs() -> list[Run]:
    ends = np.cumsum([0, *(frames for *_, frames in LENGTHS)]).tolist()
    return [
        Run(dataset, trajectory, instruction, start, start + frames)
        for (dataset, trajectory, instruction, frames), start in zip(LENGTHS, ends[:-1], strict=True)
    ]


def chi_square(counts: np.ndarray, shares: np.ndarray) -> float:
    expected = counts.sum() * shares
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("flags", list(itertools.product((False, True), repeat=3)))
def test_each_combination_of_balance_flags_gives_its_shares(flags: tuple[bool, bool, bool]) -> None:
    sampling = Sampling(*flags, seed=7)
    shares = np.array(SHARES[flags])
    np.testing.assert_allclose(run_shares(runs(), sampling), shares)
    rows = Sampler(runs(), sampling).draw(0, 20_000).rows
    ends = [run.stop for run in runs()]
    counts = np.bincount(np.searchsorted(ends, rows, side="right"), minlength=4)
    assert chi_square(counts, shares) < HIGHEST[3]
    frames = np.concatenate(
        [np.full(run.frames, s / run.frames) for run, s in zip(runs(), shares, strict=True)]
    )
    assert chi_square(np.bincount(rows, minlength=100), frames) < HIGHEST[99]


@pytest.mark.parametrize("flags", list(WEIGHTED))
def test_a_datasets_weight_multiplies_its_share(flags: tuple[bool, bool, bool]) -> None:
    np.testing.assert_allclose(run_shares(runs(), Sampling(*flags), (1.0, 3.0)), WEIGHTED[flags])
    with pytest.raises(DatasetError, match="one above 0"):
        run_shares(runs(), Sampling(*flags), (0.0, 0.0))
    only = Sampler(runs(), Sampling(*flags), (0.0, 1.0)).draw(0, 500).rows
    assert only.min() >= 80


def test_a_trajectory_of_two_instructions_has_the_share_of_one() -> None:
    parts = [Run(0, 0, 0, 0, 30), Run(0, 0, 1, 30, 40), Run(0, 1, 0, 40, 50)]
    np.testing.assert_allclose(run_shares(parts, Sampling()), (0.375, 0.125, 0.5))


def test_samples_are_the_same_in_whatever_portions_they_are_drawn() -> None:
    sampler = Sampler(runs(), Sampling(seed=3))
    whole = sampler.draw(0, 96)
    pieces = [sampler.draw(first, 8) for first in range(0, 96, 8)]
    np.testing.assert_array_equal(np.concatenate([piece.rows for piece in pieces]), whole.rows)
    np.testing.assert_array_equal(np.concatenate([piece.words for piece in pieces]), whole.words)
    assert not np.array_equal(Sampler(runs(), Sampling(seed=4)).draw(0, 96).rows, whole.rows)
    assert len(np.unique(whole.words)) == 2 * 96


def plain(root: Path, texts: tuple[str, ...], lengths: tuple[int, ...], level: int, version: str) -> Path:
    """Pictures whose level is that of the dataset + frame, states that count."""
    episodes = []
    for number, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        states = 100 * number + np.arange(length * 6, dtype=np.float32).reshape(length, 6)
        pictures = np.full((length, SIDE, SIDE, 3), level, np.uint8)
        pictures += (10 * np.arange(length, dtype=np.uint8))[:, None, None, None]
        episodes.append((text, states, pictures))
    return write_dataset(root, episodes, version=version)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("mixture")
    return [
        plain(folder / "a", ("pick up the cheese", "pick up the bread"), (6, 9), 0, "v2.1"),
        plain(folder / "b", ("pick up the bread",), (5,), 100, "v3.0"),
    ]


def test_batches_after_a_restart_are_those_of_the_run_that_went_on(paths: list[Path]) -> None:
    stream = Mixture.open(paths, horizon=4).batches(3, workers=3)
    first = [next(stream) for _ in range(5)]
    stream.close()
    again = Mixture.open(paths, horizon=4).batches(3, first_step=3, workers=1)
    for batch, expected in zip((next(again), next(again)), first[3:], strict=True):
        np.testing.assert_array_equal(batch.rows, expected.rows)
        np.testing.assert_array_equal(batch.words, expected.words)
        np.testing.assert_array_equal(batch.images, expected.images)
        np.testing.assert_array_equal(batch.actions, expected.actions)
        assert batch.instructions == expected.instructions
    again.close()


def test_processes_share_out_the_batch_of_one(paths: list[Path]) -> None:
    mixture = Mixture.open(paths)
    alone = mixture.batch(2, 6)
    shared = [mixture.batch(2, 3, rank, 2).rows for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(shared), alone.rows)


def test_steps_past_the_end_repeat_the_last_action_and_are_masked(paths: list[Path]) -> None:
    mixture = Mixture.open(paths, horizon=4)
    batch = mixture.at(np.array([0, 4, 5, 14, 19]))
    assert batch.mask[:, :, 0].sum(axis=1).tolist() == [4, 2, 1, 1, 1]
    assert (batch.mask == batch.mask[:, :, :1]).all()
    np.testing.assert_array_equal(batch.state[0], np.arange(6))
    np.testing.assert_array_equal(batch.actions[0], 1 + np.arange(24).reshape(4, 6))
    np.testing.assert_array_equal(batch.actions[1, 2], batch.actions[1, 1])
    np.testing.assert_array_equal(batch.actions[2], np.tile(1 + np.arange(30, 36), (4, 1)))
    assert batch.instructions == ["pick up the cheese"] * 3 + ["pick up the bread"] * 2


def test_pictures_are_those_of_the_row_cached_or_not(paths: list[Path]) -> None:
    mixture = Mixture.open(paths)
    rows = np.array([0, 5, 6, 14, 15, 19, 2])
    levels = [0, 50, 0, 80, 100, 140, 20]
    decoded = mixture.at(rows).images
    assert decoded.shape == (7, 1, SIDE, SIDE, 3)
    np.testing.assert_allclose(decoded.mean(axis=(1, 2, 3, 4)), levels, atol=4)
    whole = list(mixture.images.episodes(2))
    assert [start for start, _ in whole] == [0, 6, 15]
    np.testing.assert_array_equal(np.concatenate([pictures for _, pictures in whole])[rows], decoded)
    mixture.cache()
    np.testing.assert_array_equal(mixture.at(rows).images, decoded)


def test_statistics_are_those_of_all_frames(paths: list[Path]) -> None:
    mixture = Mixture.open(paths)
    metadata = mixture.metadata()
    rows = mixture.states.astype(np.float64)
    arm = metadata.state["single_arm"]
    assert (arm.min, arm.max) == (tuple(rows[:, :5].min(axis=0)), tuple(rows[:, :5].max(axis=0)))
    np.testing.assert_allclose(arm.mean, rows[:, :5].mean(axis=0))
    np.testing.assert_allclose(arm.std, rows[:, :5].std(axis=0))
    np.testing.assert_allclose(metadata.action["gripper"].q99, np.quantile(mixture.actions[:, 5], 0.99))
    assert metadata.fps == 10 and list(metadata.video) == ["scene"]
    assert Mixture.open(paths, sampling=Sampling(False, False, True), weights=(1, 5)).metadata() == metadata


def test_shares_and_fingerprints_name_datasets_and_instructions(paths: list[Path]) -> None:
    mixture = Mixture.open(paths, sampling=Sampling(True, True, False), weights=(1, 3))
    shares = mixture.shares()
    assert shares.datasets == pytest.approx({str(paths[0]): 0.25, str(paths[1]): 0.75})
    assert shares.instructions == pytest.approx({"pick up the cheese": 0.125, "pick up the bread": 0.875})
    before = mixture.fingerprints()
    assert before == Mixture.open(paths).fingerprints()
    assert len(set(before.values())) == 2


def test_what_is_held_out_is_not_sampled(paths: list[Path]) -> None:
    mixture = Mixture.open([paths[0]], horizon=2)
    train, held = mixture.split(0.4, seed=1)
    assert set(train.rows) | set(held.rows) == set(range(15)) and not set(train.rows) & set(held.rows)
    assert set(train.draw(0, 200).rows) == set(train.rows)
    assert train.metadata() == mixture.metadata()
    with pytest.raises(DatasetError, match="one episode only"):
        Mixture.open(paths).split(0.4)


def test_a_layout_is_held_out_whole(tmp_path: Path) -> None:
    states, pictures = np.zeros((2, 6), np.float32), np.zeros((2, SIDE, SIDE, 3), np.uint8)
    extra = [{"layout": number // 2} for number in range(6)]
    mixture = Mixture.open([write_dataset(tmp_path / "pairs", [("go", states, pictures)] * 6, extra)])
    _, held = mixture.split(0.5, seed=1)
    assert len(held.trajectories) in (2, 4)
    assert all([one.layout for one in held.trajectories].count(one.layout) == 2 for one in held.trajectories)


def test_datasets_that_do_not_fit_together_are_named(paths: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "slow"
    with DatasetWriter(other, fps=5, joints=JOINTS, cameras={"scene": (SIDE, SIDE)}) as dataset:
        states = np.zeros((2, 6), np.float32)
        dataset.add_episode("go", states, states, {"scene": np.zeros((2, SIDE, SIDE, 3), np.uint8)})
    with pytest.raises(DatasetError, match=r"slow has 5 Hz.*10 Hz"):
        Mixture.open([paths[0], other])
    with pytest.raises(DatasetError, match="no camera 'wrist'"):
        Mixture.open(paths, cameras=("wrist",))
