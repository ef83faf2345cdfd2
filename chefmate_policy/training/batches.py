# SPDX-License-Identifier: Apache-2.0
"""From rows of a mixture to a batch on the device.

States and actions of the whole mixture are normalised once and stay on the device. Pictures are made square
once, at the size whose crop is the vision tower's (136 pixels for 128), so that a training crop is a gather
and no resize. A frame of two cameras then is 111 KB, and most datasets fit on the device whole. What does
not fit is decoded by threads, batch by batch, and goes through the same functions.

Random numbers of a sample are the bits that the sampler gave it: a resumed run, or one on more processes,
crops and colours a sample alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.images import CROP
from chefmate_policy.groot.processor import Processor
from chefmate_policy.training.forward import Prepared

if TYPE_CHECKING:  # it brings video decoding, which benches do without
    from chefmate_policy.data.mixture import Mixture

__all__ = ["JITTER", "Columns", "Loader", "Preparation", "Rows", "shrunk", "square_side"]

# ranges of the reference's colour jitter: brightness, contrast and saturation about 1, hue in turns about 0
JITTER = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08}
GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
# RGB to YIQ (NTSC, FCC 1953): a rotation of I and Q turns the hue and keeps greys
YIQ = (GREY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
RESIDENT_SHARE = 0.6  # of the device's free memory that pictures may take
BITS = 16  # of a random word, for each number drawn


def square_side(size: int) -> int:
    """Side of the pictures kept, pixels, of which the vision tower's `size` is the crop: 136 for 128, 236 for
    224; even, as videos are, so that pictures recorded at that size are used as they are. The checkpoint says
    the crop that comes of it."""
    return 2 * math.ceil(size / CROP / 2)


def shrunk(images: Tensor, side: int) -> Tensor:
    """images [n, V, H, W, 3] uint8 -> [n, V, side, side, 3] uint8: bilinear with antialiasing, aspect ratio
    lost, fractions cut off, as in `groot.images`."""
    if images.shape[2:4] == (side, side):
        return images
    planes = images.flatten(0, 1).permute(0, 3, 1, 2).to(torch.float32)
    small = F.interpolate(planes, (side, side), mode="bilinear", antialias=True, align_corners=False)
    levels = small.clamp_(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1)
    return levels.reshape(*images.shape[:2], side, side, 3)


@dataclass(frozen=True)
class Columns:
    """A mixture but for its pictures, normalised, on the device."""

    states: Tensor  # [N, state_dim] float32, padded
    actions: Tensor  # [N, A] float32, padded
    stops: Tensor  # [N] int64: row behind the last of the same trajectory
    instructions: Tensor  # [N] int64
    width: int  # dimensions of the action that count

    @classmethod
    def of(cls, mixture: Mixture, processor: Processor, device: torch.device) -> Columns:
        """Normalises all of a mixture. Raises InputError: numbers that are not finite, other dimensions."""
        head = processor.config.action_head
        states = processor.state_normaliser.normalise(torch.from_numpy(mixture.states).double())
        actions = processor.action_normaliser.normalise(torch.from_numpy(mixture.actions).double())
        return cls(
            _padded(states, head.state_dim).to(device),
            _padded(actions, head.action_dim).to(device),
            torch.from_numpy(mixture.stops).to(device),
            torch.from_numpy(mixture.instruction_of).to(device),
            actions.shape[1],
        )


@dataclass(frozen=True)
class Rows:
    """Samples on the device."""

    rows: Tensor  # [B] int64, of the mixture
    words: Tensor  # [B, 2] int64, random bits of each sample
    pictures: Tensor  # [B or N, V, P, P, 3] uint8
    resident: bool  # pictures hold the whole mixture


class Preparation:
    """Rows -> a batch for the model, on the device, without waiting for it."""

    def __init__(
        self,
        config: GrootConfig,
        columns: Columns,
        *,
        null: int | None,
        drop: float,
        augment: bool,
        one_prompt: bool = False,
    ) -> None:
        """null: row of the null prompt; drop: share of samples that get it in training. one_prompt: a fault
        planted for studies, the first sample's words for the whole batch in training."""
        self.size, self.horizon = config.vision.image_size, config.action_head.action_horizon
        self.columns, self.null, self.drop, self.augment = columns, null, drop, augment
        self.one_prompt = one_prompt
        device = columns.states.device
        self._steps = torch.arange(self.horizon, device=device)
        self._pixels = torch.arange(self.size, device=device)
        self._counts = (torch.arange(columns.actions.shape[1], device=device) < columns.width).float()
        self._yiq = torch.tensor(YIQ, device=device)
        self._rgb = torch.linalg.inv(torch.tensor(YIQ, dtype=torch.float64)).float().to(device)
        self._grey = torch.tensor(GREY, device=device)

    def __call__(self, given: Rows, training: bool = True) -> Prepared:
        """training: random crop, colours and dropped prompts, as the options say; else the centre alone."""
        columns, rows = self.columns, given.rows
        steps, stops = rows[:, None] + self._steps, columns.stops[rows][:, None]
        mask = (steps < stops).float()[..., None] * self._counts
        prompt = columns.instructions[rows]
        if training and self.one_prompt:
            prompt = prompt[:1].expand_as(prompt)
        if training and self.drop and self.null is not None:
            prompt = torch.where(_uniform(given.words, 1, 2) < self.drop, self.null, prompt)
        return Prepared(
            pixel_values=self._images(given, training and self.augment).flatten(0, 1),
            prompt=prompt,
            state=columns.states[rows].unsqueeze(1),
            action=columns.actions[torch.minimum(steps, stops - 1)],
            mask=mask,
        )

    def _images(self, given: Rows, augment: bool) -> Tensor:
        """[B, V, 3, S, S] float32 in [-1, 1]."""
        pictures, rows, words = given.pictures, given.rows, given.words
        play = pictures.shape[2] - self.size
        if augment:
            top, left = ((_uniform(words, 0, part) * (play + 1)).long() for part in (0, 1))
        else:
            top = left = torch.full_like(rows, round(play / 2))
        which = rows if given.resident else torch.arange(len(rows), device=rows.device)
        cameras = torch.arange(pictures.shape[1], device=rows.device)
        y, x = top[:, None] + self._pixels, left[:, None] + self._pixels
        crop = pictures[
            which[:, None, None, None], cameras[None, :, None, None], y[:, None, :, None], x[:, None, None, :]
        ]
        levels = crop.permute(0, 1, 4, 2, 3).float()
        if augment:
            levels = self._coloured(levels / 255.0, words).mul(255.0).clamp(0.0, 255.0).floor()
        return (levels - 127.5) / 127.5

    def _coloured(self, images: Tensor, words: Tensor) -> Tensor:
        """images [B, V, 3, S, S] in [0, 1], all cameras of a sample alike.

        Brightness and contrast are those of torchvision; saturation and hue are one linear map of the
        colours (hue as a rotation of YIQ), which needs no branches: at 0.08 turns it differs from the
        rotation in HSV by less than the jitter itself.
        """
        parts = ((0, 2, "brightness"), (0, 3, "contrast"), (1, 0, "saturation"))
        bright, contrast, saturation = (
            1.0 + JITTER[name] * (2.0 * _uniform(words, word, part) - 1.0) for word, part, name in parts
        )
        angle = 2.0 * math.pi * JITTER["hue"] * (2.0 * _uniform(words, 1, 1) - 1.0)
        cosine, sine, nought = angle.cos(), angle.sin(), torch.zeros_like(angle)
        turn = torch.stack(
            [
                torch.stack([nought + 1.0, nought, nought], -1),
                torch.stack([nought, saturation * cosine, -saturation * sine], -1),
                torch.stack([nought, saturation * sine, saturation * cosine], -1),
            ],
            -2,
        )  # [B, 3, 3] in YIQ: greys stay, colours turn and grow
        colours = self._rgb @ turn @ self._yiq * (contrast * bright)[:, None, None]
        mean = (images.mean((-2, -1)) @ self._grey)[:, :, None, None]  # [B, V, 1, 1]
        grey = ((1.0 - contrast) * bright)[:, None, None, None] * mean
        flat = images.flatten(3)  # [B, V, 3, S*S]
        return (colours[:, None] @ flat + grey).view_as(images)


class Loader:
    """Batches of a mixture by step number, on the device.

    Pictures stay on the device where they fit, else they are decoded ahead by threads.
    """

    def __init__(
        self,
        mixture: Mixture,
        side: int,
        device: torch.device,
        *,
        resident: bool | None = None,
        workers: int = 4,
        ahead: int = 4,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """side: of the square pictures, pixels. resident: None: as memory allows. rank, world: of several
        processes each decodes its share of what stays on their devices. DatasetError: damaged."""
        self.mixture, self.side, self.device = mixture, side, device
        self.workers, self.ahead = max(1, workers), ahead
        self._share = (rank, world)
        count, cameras = mixture.images.shape[:2]
        self.bytes = count * cameras * side * side * 3
        fits = self.bytes < RESIDENT_SHARE * free_memory(device)
        self.pictures = self._all(count, cameras) if (fits if resident is None else resident) else None
        self._stream: Iterator[Rows] | None = None
        self._next = -1

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Rows:
        """Batch number `step` of `size` samples."""
        if self.pictures is not None:
            draw = self.mixture.draw(step, size, rank, world)
            return self._rows(draw.rows, draw.words, self.pictures, True)
        if self._stream is None or self._next != step:
            self.close()
            self._stream = self._streamed(step, size, rank, world)
        self._next = step + 1
        return next(self._stream)

    def at(self, rows: NDArray[np.int64]) -> Rows:
        """These rows, for evaluation."""
        words = np.zeros((len(rows), 2), np.uint64)
        if self.pictures is not None:
            return self._rows(rows, words, self.pictures, True)
        return self._rows(rows, words, self._shrunk(self.mixture.images.read(rows)), False)

    def of(self, mixture: Mixture) -> Loader:
        """The same pictures for the other part of a split."""
        other = object.__new__(Loader)
        other.__dict__.update(self.__dict__, mixture=mixture, _stream=None, _next=-1)
        return other

    def close(self) -> None:
        """Ends the threads that decode ahead."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()  # type: ignore[attr-defined]

    def _streamed(self, step: int, size: int, rank: int, world: int) -> Iterator[Rows]:
        batches = self.mixture.batches(
            size, step, rank, world, workers=self.workers, ahead=max(self.ahead, self.workers)
        )
        try:
            for batch in batches:
                yield self._rows(batch.rows, batch.words, self._shrunk(batch.images), False)
        finally:
            batches.close()  # type: ignore[attr-defined]

    def _shrunk(self, images: NDArray[np.uint8]) -> Tensor:
        return shrunk(torch.from_numpy(images).to(self.device, non_blocking=True), self.side)

    def _rows(
        self, rows: NDArray[np.int64], words: NDArray[np.uint64], pictures: Tensor, resident: bool
    ) -> Rows:
        both = torch.from_numpy(np.column_stack((rows, words.view(np.int64))))
        if self.device.type == "cuda":
            both = both.pin_memory().to(self.device, non_blocking=True)
        return Rows(both[:, 0], both[:, 1:], pictures, resident)

    def _all(self, count: int, cameras: int) -> Tensor:
        whole = torch.zeros((count, cameras, self.side, self.side, 3), dtype=torch.uint8, device=self.device)
        for start, images in self.mixture.images.episodes(share=self._share):
            for first in range(0, len(images), PORTION):
                part = self._shrunk(images[first : first + PORTION])
                whole[start + first : start + first + len(part)] = part
        if self._share[1] > 1:  # others have left zeros where they had nothing to decode
            for part in torch.split(whole.flatten(), EXCHANGED):
                torch.distributed.all_reduce(part)
        return whole


PORTION = 128  # frames made square at a time
EXCHANGED = 2**30  # bytes that processes exchange at a time


def free_memory(device: torch.device) -> int:
    """Bytes that the device can give."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with open("/proc/meminfo", encoding="ascii") as lines:
        available = next(line for line in lines if line.startswith("MemAvailable:"))
    return 1024 * int(available.split()[1])


def _uniform(words: Tensor, word: int, part: int) -> Tensor:
    """[B] in [0, 1): sixteen bits of a sample's random words."""
    return ((words[:, word] >> (BITS * part)) & (2**BITS - 1)).float() / 2**BITS


def _padded(values: Tensor, width: int) -> Tensor:
    """[N, D] -> [N, width] float32."""
    return F.pad(values.float(), (0, width - values.shape[1]))
