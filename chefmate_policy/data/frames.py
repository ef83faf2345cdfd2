# SPDX-License-Identifier: Apache-2.0
"""Pictures of a mixture's frames by row number: decoded when asked for, or all of them once, into memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.dataset import Dataset, Episode
from chefmate_policy.data.lerobot_layout import DatasetError

__all__ = ["Filmed", "Frames"]

MEMORY_SHARE = 0.8  # of what the machine has free, that decoded pictures may take

DECODED_THROUGH = 8  # frames; farther apart, opening the video again is cheaper


@dataclass(frozen=True)
class Filmed:
    """One episode's pictures."""

    dataset: Dataset
    episode: Episode
    start: int  # row of its first frame
    cameras: tuple[str, ...]  # feature names, in the mixture's order


class Frames:
    """All pictures of all cameras, [rows, cameras, height, width, 3] uint8 RGB."""

    def __init__(self, films: Sequence[Filmed], height: int, width: int) -> None:
        """films: in the order of rows, without gaps."""
        self._films = tuple(films)
        self._starts = np.array([film.start for film in films], dtype=np.int64)
        last = films[-1]
        self.shape = (last.start + last.episode.length, len(last.cameras), height, width, 3)
        self._all: NDArray[np.uint8] | None = None

    @property
    def nbytes(self) -> int:
        """What they take in memory, bytes."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def loaded(self) -> NDArray[np.uint8] | None:
        """All of them, if `load` was called."""
        return self._all

    def load(self, workers: int | None = None) -> NDArray[np.uint8]:
        """Decodes everything, once. Raises DatasetError: a video is damaged, or it does not fit in memory."""
        if self._all is None:
            free = _free_memory()
            if self.nbytes > MEMORY_SHARE * free:
                raise DatasetError(
                    f"{self.shape[0]} frames of {self.shape[1]} cameras take {self.nbytes / 1e9:.1f} GB,"
                    f" and {free / 1e9:.1f} GB are free: leave the cache off, or record smaller pictures"
                )
            whole = np.empty(self.shape, dtype=np.uint8)
            with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
                for _ in pool.map(lambda film: self._fill(whole, film), self._films):
                    pass
            self._all = whole
        return self._all

    def episodes(
        self, workers: int | None = None, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Row of the first frame, and pictures [n, cameras, height, width, 3], of each film in order; decoded
        a few ahead by threads and not kept. share: (k, n) gives the k-th of n parts. Raises DatasetError
        naming the episode."""
        part, parts = share
        if self._all is not None:
            for film in self._films[part::parts]:
                yield film.start, self._all[film.start : film.start + film.episode.length]
            return
        threads = workers or -(-(os.cpu_count() or 1) // parts)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="episodes")
        pending: deque[tuple[int, Future[NDArray[np.uint8]]]] = deque()
        films = iter(self._films[part::parts])
        try:
            while True:
                for film in islice(films, threads + 1 - len(pending)):
                    pending.append((film.start, pool.submit(self._film, film)))
                if not pending:
                    return
                start, pictures = pending.popleft()
                yield start, pictures.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[n, cameras, height, width, 3] of these rows. Raises DatasetError naming the episode."""
        if self._all is not None:
            return self._all[rows]
        out = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        order = np.argsort(rows, kind="stable")
        films = np.searchsorted(self._starts, rows[order], side="right") - 1
        apart = (np.diff(rows[order]) > DECODED_THROUGH) | (np.diff(films) != 0)
        for places in np.split(order, np.flatnonzero(apart) + 1) if len(rows) else ():
            film = self._films[int(np.searchsorted(self._starts, rows[places[0]], side="right")) - 1]
            frames = (rows[places] - film.start).tolist()
            for index, camera in enumerate(film.cameras):
                pictures = film.dataset.pictures(film.episode, camera, frames)
                for place, picture in zip(places, pictures, strict=True):
                    out[place, index] = self._checked(picture, film, camera)
        return out

    def _film(self, film: Filmed) -> NDArray[np.uint8]:
        pictures = np.empty((film.episode.length, *self.shape[1:]), dtype=np.uint8)
        for index, camera in enumerate(film.cameras):
            for frame, picture in enumerate(film.dataset.pictures(film.episode, camera)):
                pictures[frame, index] = self._checked(picture, film, camera)
        return pictures

    def _fill(self, whole: NDArray[np.uint8], film: Filmed) -> None:
        for index, camera in enumerate(film.cameras):
            for frame, picture in enumerate(film.dataset.pictures(film.episode, camera)):
                whole[film.start + frame, index] = self._checked(picture, film, camera)

    def _checked(self, picture: NDArray[np.uint8], film: Filmed, camera: str) -> NDArray[np.uint8]:
        if picture.shape != self.shape[2:]:
            raise DatasetError(
                f"{film.episode.videos[camera].file}, episode {film.episode.index}: pictures are"
                f" {picture.shape[1]}x{picture.shape[0]}, info.json says {self.shape[3]}x{self.shape[2]}"
            )
        return picture


def _free_memory() -> int:
    """Bytes that the machine can give without swapping."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
