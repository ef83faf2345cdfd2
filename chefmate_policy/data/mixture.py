# SPDX-License-Identifier: Apache-2.0
"""Several datasets as one: joined columns, shared statistics, samples by number.

Rows are frames: those of the first dataset's first episode come first. Everything but pictures is in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.dataset import Dataset
from chefmate_policy.data.dataset_statistics import statistics
from chefmate_policy.data.frames import Frames
from chefmate_policy.data.joining import Columns, Trajectory, fingerprint, join
from chefmate_policy.data.lerobot_layout import DatasetError
from chefmate_policy.data.sampling import Draw, Run, Sampler, Sampling

if TYPE_CHECKING:
    from chefmate_policy.groot.metadata import EmbodimentMetadata

__all__ = ["Batch", "Mixture", "Shares", "Trajectory"]


@dataclass(frozen=True)
class Batch:
    """Samples, in the dataset's units."""

    images: NDArray[np.uint8]  # [B, cameras, height, width, 3] RGB, of the first step
    state: NDArray[np.float32]  # [B, S], of the first step
    actions: NDArray[np.float32]  # [B, horizon, A]; step 0 is the first step's own action
    mask: NDArray[np.bool_]  # [B, horizon, A], false past the end, where the last action is repeated
    instructions: list[str]
    rows: NDArray[np.int64]  # [B], frames of the mixture
    words: NDArray[np.uint64]  # [B, 2], random, of the sample alone


@dataclass(frozen=True)
class Shares:
    """What the sampling gives, of 1."""

    datasets: dict[str, float]
    instructions: dict[str, float]


class Mixture:
    """Samples of several datasets. `open` makes one."""

    def __init__(
        self,
        columns: Columns,
        runs: Sequence[Run],
        sampling: Sampling,
        weights: Sequence[float] | None,
        horizon: int,
    ) -> None:
        self._columns, self.horizon, self._weights = columns, horizon, weights
        self.sampler = Sampler(runs, sampling, weights)

    @classmethod
    def open(
        cls,
        paths: Sequence[Path],
        *,
        horizon: int = 16,
        weights: Sequence[float] | None = None,
        cameras: Sequence[str] | None = None,
        sampling: Sampling | None = None,
    ) -> Mixture:
        """Datasets in these folders. weights: of each (default 1). cameras: short names in the order in which
        the policy sees them (default: those of the first dataset's modality.json).

        Raises DatasetError: one does not open, or they differ in rate, cameras, sizes or joints.
        """
        if not paths:
            raise DatasetError("a mixture needs at least one dataset")
        if weights is not None and len(weights) != len(paths):
            raise DatasetError(f"{len(weights)} weights for {len(paths)} datasets")
        if horizon < 1:
            raise DatasetError(f"a horizon of {horizon} steps; it must be 1 or more")
        columns, runs = join([Dataset(path) for path in paths], cameras)
        return cls(columns, runs, sampling or Sampling(), weights, horizon)

    # What is in it

    @property
    def cameras(self) -> tuple[str, ...]:
        """Short names, in the order of the images."""
        return self._columns.cameras

    @property
    def fps(self) -> float:
        """Hz."""
        return self._columns.datasets[0].info.fps

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """As they were given."""
        return self._columns.datasets

    @property
    def instructions(self) -> tuple[str, ...]:
        """Different texts, in order of appearance; of the whole where this is a part of a split."""
        return self._columns.instructions

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """Those that this mixture (not the other part of a split) has."""
        kept = sorted({run.trajectory for run in self.sampler.runs})
        return tuple(self._columns.trajectories[index] for index in kept)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Of all frames that can be sampled from."""
        return np.concatenate([np.arange(run.start, run.stop) for run in self.sampler.runs])

    @property
    def states(self) -> NDArray[np.float32]:
        """[rows of the whole, S]."""
        return self._columns.states

    @property
    def actions(self) -> NDArray[np.float32]:
        """[rows of the whole, A]."""
        return self._columns.actions

    @property
    def stops(self) -> NDArray[np.int64]:
        """By row: the row behind the last that has the same trajectory and instruction."""
        return self._columns.stops

    @property
    def instruction_of(self) -> NDArray[np.int64]:
        """By row: number of its instruction."""
        return self._columns.instruction_of

    @property
    def images(self) -> Frames:
        """Pictures by row."""
        return self._columns.frames

    def shares(self) -> Shares:
        """Of each dataset and instruction among the samples."""
        datasets: dict[str, float] = {str(dataset.root): 0.0 for dataset in self.datasets}
        instructions: dict[str, float] = {}
        for run, share in zip(self.sampler.runs, self.sampler.shares.tolist(), strict=True):
            datasets[str(self.datasets[run.dataset].root)] += share
            text = self.instructions[run.instruction]
            instructions[text] = instructions.get(text, 0.0) + share
        return Shares(datasets, instructions)

    def metadata(self, tag: str = "new_embodiment") -> EmbodimentMetadata:
        """For a checkpoint: keys, cameras, and statistics over every frame of the whole mixture, each counted
        once; they do not depend on the sampling, nor on which part of a split this is."""
        # these bring torch, which most of this does without
        from chefmate_policy.groot.metadata import EmbodimentMetadata, VideoKey
        from chefmate_policy.groot.statistics import NAMES, KeyStatistics

        _, _, height, width, _ = self.images.shape
        known: dict[str, dict[str, KeyStatistics]] = {}
        for kind, values in (("state", self.states), ("action", self.actions)):
            found, at = statistics(values), 0
            known[kind] = {}
            for key, size in self._columns.keys[kind].items():
                known[kind][key] = KeyStatistics(
                    **{name: tuple(map(float, found[name][at : at + size])) for name in NAMES}
                )
                at += size
        video = {camera: VideoKey(width, height, self.fps) for camera in self.cameras}
        return EmbodimentMetadata.of_dataset(tag, video, known["state"], known["action"])

    def fingerprints(self) -> dict[str, str]:
        """By dataset's folder: SHA-256 over names and contents of metadata and columns, names and sizes of
        videos."""
        return {str(dataset.root): fingerprint(dataset.root) for dataset in self.datasets}

    def split(self, held_out: float, seed: int = 0) -> tuple[Mixture, Mixture]:
        """Two mixtures over the same columns: training, and this share of each dataset's layouts, at least
        one. Episodes take the layouts' place where a dataset names none, or one only.

        Raises DatasetError: a dataset has only one episode, or the share is not between 0 and 1.
        """
        if not 0 < held_out < 1:
            raise DatasetError(f"a held-out share of {held_out}; it must be between 0 and 1")
        chosen: dict[int, list[int]] = {}
        for index in sorted({run.trajectory for run in self.sampler.runs}):
            chosen.setdefault(self._columns.trajectories[index].dataset, []).append(index)
        out: set[int] = set()
        for dataset, members in chosen.items():
            groups = self._scenes(members)
            if len(groups) < 2:
                root = self.datasets[dataset].root
                raise DatasetError(
                    f"{root} has one episode only: nothing can be held out, set the share to 0"
                )
            order = np.random.Generator(np.random.Philox(key=seed, counter=dataset)).permutation(len(groups))
            count = min(max(1, round(held_out * len(groups))), len(groups) - 1)
            out.update(index for place in order[:count] for index in groups[place])
        runs = self.sampler.runs
        parts = [[run for run in runs if (run.trajectory in out) is held] for held in (False, True)]
        train, rest = (
            Mixture(self._columns, part, self.sampler.sampling, self._weights, self.horizon) for part in parts
        )
        return train, rest

    def _scenes(self, members: Sequence[int]) -> list[list[int]]:
        """Trajectories of one dataset by layout; each by itself if there are fewer than two layouts."""
        groups: dict[str, list[int]] = {}
        for index in members:
            groups.setdefault(self._columns.trajectories[index].layout or f"alone {index}", []).append(index)
        return list(groups.values()) if len(groups) > 1 else [[index] for index in members]

    def resampled(self, sampling: Sampling) -> Mixture:
        """The same with other sampling; columns and pictures are shared."""
        return Mixture(self._columns, self.sampler.runs, sampling, self._weights, self.horizon)

    # Samples

    def cache(self, workers: int | None = None) -> None:
        """Decodes every picture into memory, so that a sample costs a copy. DatasetError: no room."""
        self.images.load(workers)

    def draw(self, step: int, size: int, rank: int = 0, world: int = 1) -> Draw:
        """Rows of batch number `step` (from 0) of `size` samples in process `rank` of `world`."""
        return self.sampler.draw((step * world + rank) * size, size)

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Batch:
        """Batch number `step`, of its arguments, the datasets and the seed alone. The processes' batches,
        one after the other, are the batch of one process that takes `size * world`."""
        draw = self.draw(step, size, rank, world)
        return self.at(draw.rows, draw.words)

    def at(self, rows: NDArray[np.int64], words: NDArray[np.uint64] | None = None) -> Batch:
        """The samples that start at these rows. Raises DatasetError naming the episode of a damaged video."""
        steps = rows[:, None] + np.arange(self.horizon)
        stops = self.stops[rows][:, None]
        actions = self.actions[np.minimum(steps, stops - 1)]
        mask = np.broadcast_to((steps < stops)[..., None], actions.shape).copy()
        return Batch(
            images=self.images.read(rows),
            state=self.states[rows],
            actions=actions,
            mask=mask,
            instructions=[self.instructions[index] for index in self.instruction_of[rows].tolist()],
            rows=rows,
            words=np.zeros((len(rows), 2), np.uint64) if words is None else words,
        )

    def batches(
        self,
        size: int,
        first_step: int = 0,
        rank: int = 0,
        world: int = 1,
        *,
        workers: int = 4,
        ahead: int | None = None,
    ) -> Iterator[Batch]:
        """Batches from `first_step` on, without end, made by threads in advance and in order.

        ahead: batches under way (default: workers + 1). Closing the iterator ends the threads.
        """
        pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        pending: deque[Future[Batch]] = deque()
        step = first_step
        try:
            while True:
                while len(pending) < (workers + 1 if ahead is None else max(1, ahead)):
                    pending.append(pool.submit(self.batch, step, size, rank, world))
                    step += 1
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
