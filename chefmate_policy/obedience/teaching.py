# SPDX-License-Identifier: Apache-2.0
"""The data that a policy was trained on: can it teach the words, and did the policy take them from it?

The second is asked by the loss. On frames before the demonstration gives its aim away, the flow's error under
the episode's own sentence is held against that under the sentence of another ingredient (best: one that was
recorded in the same scene), and against that with the picture and state of another scene; noise and times are
pinned. A policy that was trained with the right words predicts worse under wrong ones. One that was trained
with words of other samples does not, although it is lost without the right picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chefmate_policy.data.meaning import meaning_of
from chefmate_policy.data.mixture import Mixture, Trajectory
from chefmate_policy.data.shortcut import judge as judge_data
from chefmate_policy.data.shortcut import still_frames
from chefmate_policy.errors import PolicyError
from chefmate_policy.groot.checkpoint import load_model, load_processor, open_checkpoint
from chefmate_policy.groot.model import Parts
from chefmate_policy.groot.processor import Processor
from chefmate_policy.obedience.intervals import Figure, ratio
from chefmate_policy.training.batches import Columns, Loader, Preparation, square_side
from chefmate_policy.training.forward import FlowLoss, Prepared, PromptTable

__all__ = ["TeachingError", "taken", "teaching"]

SEED = 20251019  # of noise and times, as in the evaluations of training
LAYOUTS, QUICK_LAYOUTS = 60, 20  # looked at
EPISODES = 4  # of each
NOISES = 4
FRAMES = 2  # of each episode: the first, and the last before a joint moves
BATCH = 32

Array = NDArray[np.float64]


class TeachingError(PolicyError):
    """The data cannot be held against the policy."""


@dataclass(frozen=True)
class _Probe:
    """A frame of an episode, the same under another sentence, and another scene's frame."""

    layout: str
    row: int
    other_text: int
    other_row: int


def teaching(
    policy: str,
    dataset: Path,
    *,
    quick: bool = False,
    base: str = "",
    embodiment: str = "new_embodiment",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """{"dataset", "data": what `chefmate data shortcut` says, "words": see `taken`; None where all ask for
    the same}. Raises PolicyError: the checkpoint or the dataset does not open, or they do not fit."""
    mixture = Mixture.open([dataset])
    say(f"training data: {len(mixture.trajectories)} episodes of {dataset}")
    data = judge_data(mixture)
    checkpoint = open_checkpoint(policy, base=base or None)
    processor = load_processor(checkpoint, embodiment)
    if mixture.cameras != processor.settings.cameras:
        mixture = Mixture.open([dataset], cameras=processor.settings.cameras)
    model = load_model(checkpoint, Parts.used(processor.slot), dtype=torch.float32)
    prompts = PromptTable.of(processor.prompts, mixture.instructions, len(mixture.cameras), null=False)
    words = None
    if len({_meaning(mixture, number) for number in range(len(mixture.instructions))}) > 1:
        words = taken(mixture, FlowLoss(model, prompts).eval(), processor, quick=quick, say=say)
    return {"dataset": str(dataset), "data": data.to_dict(), "words": words}


@torch.no_grad()
def taken(
    mixture: Mixture,
    loss: FlowLoss,
    processor: Processor,
    *,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """By how much the loss is higher under wrong words, and with another scene's picture and state.

    {"words": share, "sight": share} with intervals of 95 % over layouts, {"own": loss, "frames": n}. Raises
    TeachingError: fewer than two layouts.
    """
    probes = _probes(mixture, QUICK_LAYOUTS if quick else LAYOUTS)
    names = sorted({probe.layout for probe in probes})
    if len(names) < 2:
        raise TeachingError(f"{len(names)} layout in the data; wrong pictures need at least two")
    device = next(loss.parameters()).device
    columns = Columns.of(mixture, processor, device)
    prepare = Preparation(processor.config, columns, null=None, drop=0.0, augment=False)
    side = square_side(processor.config.vision.image_size)
    loader = Loader(mixture, side, device, resident=False)
    sums = {kind: np.zeros(len(names)) for kind in ("own", "words", "sight")}
    counts = np.zeros(len(names))
    random = torch.Generator().manual_seed(SEED)
    for first in range(0, len(probes), BATCH):
        part = probes[first : first + BATCH]
        own = prepare(loader.at(np.array([probe.row for probe in part])), training=False)
        other = prepare(loader.at(np.array([probe.other_row for probe in part])), training=False)
        texts = torch.tensor([probe.other_text for probe in part], device=device)
        batches = {
            "own": own,
            "words": replace(own, prompt=texts),
            "sight": replace(own, pixel_values=other.pixel_values, state=other.state),
        }
        errors = _errors(loss, batches, random)
        places = [names.index(probe.layout) for probe in part]
        for kind, each in errors.items():
            np.add.at(sums[kind], places, each)
        np.add.at(counts, places, 1.0)
        say(f"loss under other words: {first + len(part)} of {len(probes)} frames")
    return {
        "words": _raised(sums["words"], sums["own"]).to_dict(),
        "sight": _raised(sums["sight"], sums["own"]).to_dict(),
        "own": float(sums["own"].sum() / counts.sum()),
        "frames": len(probes),
        "layouts": len(names),
    }


def _errors(loss: FlowLoss, batches: dict[str, Prepared], random: torch.Generator) -> dict[str, Array]:
    """Mean error of each sample over NOISES noises and times, the same for all kinds."""
    own = batches["own"]
    head = loss.model.action_head.config
    found = {kind: torch.zeros(len(own.prompt)) for kind in batches}
    for _ in range(NOISES):
        noise = torch.randn(own.action.shape, generator=random).to(own.action.device)
        times: Tensor = (torch.rand(len(own.prompt), generator=random) * head.noise_s).to(noise.device)
        for kind, batch in batches.items():
            found[kind] += loss(batch, noise, times)[1].float().cpu() / NOISES
    return {kind: each.double().numpy() for kind, each in found.items()}


def _raised(other: Array, own: Array) -> Figure:
    figure = ratio(other, own)
    return Figure(figure.value - 1.0, figure.low - 1.0, figure.high - 1.0, figure.n)


def _probes(mixture: Mixture, most: int) -> list[_Probe]:
    """Frames at the beginning of episodes of up to `most` layouts."""
    layouts: dict[str, list[Trajectory]] = {}
    for number, one in enumerate(mixture.trajectories):
        if not getattr(one.episode, "extra", {}).get("prelude"):
            layouts.setdefault(one.layout or f"episode {number}", []).append(one)
    random = np.random.Generator(np.random.Philox(key=SEED))
    order = [list(layouts)[place] for place in random.permutation(len(layouts))][:most]
    meanings = [_meaning(mixture, number) for number in range(len(mixture.instructions))]
    states = mixture.states
    spans = states.max(axis=0) - states.min(axis=0)
    probes = []
    for place, name in enumerate(order):
        here = [int(mixture.instruction_of[one.start]) for one in layouts[name]]
        away = layouts[order[(place + 1) % len(order)]][0]
        for one in layouts[name][:EPISODES]:
            own = int(mixture.instruction_of[one.start])
            others = [text for text in here if meanings[text] != meanings[own]] or [
                text for text in range(len(meanings)) if meanings[text] != meanings[own]
            ]
            stop = int(mixture.stops[one.start])
            still = still_frames(states[one.start : stop], spans)
            for frame in sorted({0, still - 1})[:FRAMES]:
                row = one.start + frame
                other_row = min(away.start + frame, int(mixture.stops[away.start]) - 1)
                probes.append(_Probe(name, row, others[int(random.integers(len(others)))], other_row))
    return probes


def _meaning(mixture: Mixture, text: int) -> str:
    """Of an instruction by number."""
    return meaning_of(mixture.instructions[text])
