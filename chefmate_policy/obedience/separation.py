# SPDX-License-Identifier: Apache-2.0
"""Are the instructions' features apart where the action head reads them?

Features are looked at where the backbone ends and after vlln and vl_self_attention, whose output the DiT
reads; averaged over the image tokens, over the others (text), and over all. Each observation is asked every
instruction, so that the words alone tell the features of one observation apart.

A cosine near 1 says little: features share a large common part, so that unrelated ones have one near 1, too
(anisotropy; K. Ethayarajh, 2019). So beside it stand the cosine of random pairs and that of centred features,
and what decides is a linear probe for the named ingredient, fitted on other layouts than it is tried on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chefmate_policy.groot.model import Groot, Inputs
from chefmate_policy.groot.processor import Processor, Sample
from chefmate_policy.obedience.intervals import Figure, share
from chefmate_policy.obedience.observations import View

__all__ = ["STAGES", "TOKENS", "Apart", "Cosines", "Separation", "apart", "separation"]

Array = NDArray[np.float64]

STAGES = ("backbone", "self_attention")
TOKENS = ("image", "text", "all")
READ = "self_attention"  # the stage that the action head reads
RIDGE = 1e-3  # of the mean squared length of a row
SHUFFLES = 20
TIE = 1e-9  # answers that are this near share the credit
# relative differences below these are rounding: other lengths of the prompt change the order of sums
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
FROZEN, TUNED = 0.95, 0.8  # cosines by which the seeds of this project meant to tell a tuned backbone


@dataclass(frozen=True)
class Cosines:
    """Means over pairs. same: two instructions, one observation; random: both differ. centred: the mean of
    all features taken off before."""

    same: float
    random: float
    centred_same: float
    centred_random: float


@dataclass(frozen=True)
class Apart:
    """One stage, one kind of token. difference: mean |f_i - f_j| / |f_i| of two instructions on one
    observation.

    probe: share of instructions whose ingredient a linear probe tells on layouts that it was not fitted on.
    within: the same with each layout's mean feature taken off, which hides the picture: more sensitive.
    shuffled: mean and highest of `within` with labels permuted in each layout. equal: the difference is
    rounding.
    """

    cosine: Cosines
    difference: float
    equal: bool
    probe: Figure
    within: Figure
    shuffled: tuple[float, float]
    chance: float

    @property
    def found(self) -> bool:
        """Whether a probe is better than chance."""
        best = max((self.probe, self.within), key=lambda figure: figure.low)
        return not self.equal and best.low > self.chance and best.value > self.shuffled[1]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        cosine = self.cosine
        return {
            "cosine": {
                "same_observation": cosine.same,
                "random_pairs": cosine.random,
                "centred_same_observation": cosine.centred_same,
                "centred_random_pairs": cosine.centred_random,
            },
            "relative_difference": self.difference,
            "equal": self.equal,
            "probe": self.probe.to_dict(),
            "probe_within": self.within.to_dict(),
            "shuffled": {"mean": self.shuffled[0], "max": self.shuffled[1]},
            "chance": self.chance,
            "found": self.found,
        }


@dataclass(frozen=True)
class Separation:
    """The check's result. identical: pairs of different instructions with the same token ids, of `pairs`."""

    stages: dict[str, dict[str, Apart]]
    identical: int
    pairs: int
    labels: tuple[str, ...]
    layouts: int
    dtype: str

    @property
    def verdict(self) -> str:
        """apart, identical, not_apart or undecided."""
        read = self.stages[READ]
        if any(one.found for one in read.values()):
            return "apart"
        if all(one.equal for one in read.values()):
            return "identical"
        low = all(
            one.within.value <= one.shuffled[1] and one.probe.value <= one.shuffled[1]
            for one in read.values()
        )
        return "not_apart" if low else "undecided"

    @property
    def line(self) -> str:
        """The verdict for people."""
        read = self.stages[READ]
        text, image = read["text"], read["image"]
        figures = (
            f"a linear probe tells the named one of {len(self.labels)} from text tokens in"
            f" {_percent(text.within)}, from image tokens in {_percent(image.within)}"
            f" (chance {100 * text.chance:.0f} %, {self.layouts} layouts left out one by one)"
        )
        if self.verdict == "identical":
            why = (
                f"{self.identical} of {self.pairs} pairs of instructions are the same token ids: the prompt"
                " drops or cuts the words"
                if self.identical
                else "the token ids differ, but the features do not: the embeddings or the attention to the"
                " words are damaged"
            )
            return f"the instructions are the same to the action head: {why}"
        if self.verdict == "apart":
            return f"the instructions are apart where the action head reads: {figures}"
        if self.verdict == "not_apart":
            return f"the instructions are not apart where the action head reads: {figures}"
        return f"undecided whether the instructions are apart: {figures}; more layouts would tell"

    @property
    def seeds_reading(self) -> str:
        """What a threshold on the raw cosine would say, and against what it should be held."""
        cosine = self.stages[READ]["all"].cosine
        said = (
            "the same (a frozen backbone)"
            if cosine.same > FROZEN
            else "apart (a tuned backbone)"
            if cosine.same < TUNED
            else "neither"
        )
        return (
            f"cosine {cosine.same:.3f} between instructions: by the thresholds {FROZEN:g} and {TUNED:g} they"
            f" are {said}; but two unrelated observations under unrelated instructions have"
            f" {cosine.random:.3f}, and without the common part the figures are {cosine.centred_same:.3f}"
            f" and {cosine.centred_random:.3f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stages": {
                stage: {tokens: one.to_dict() for tokens, one in kinds.items()}
                for stage, kinds in self.stages.items()
            },
            "identical_prompts": self.identical,
            "prompt_pairs": self.pairs,
            "instructions": len(self.labels),
            "labels": list(self.labels),
            "layouts": self.layouts,
            "dtype": self.dtype,
            "seeds_reading": self.seeds_reading,
        }


def separation(
    model: Groot,
    processor: Processor,
    views: Sequence[View],
    *,
    batch: int = 8,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Separation:
    """Asks every observation every instruction.

    views: at least three layouts, two instructions. Raises InputError: pictures or states do not fit.
    """
    rows = [(view, text) for view in views for text, _ in view.asked]
    found: dict[str, dict[str, list[Array]]] = {stage: {tokens: [] for tokens in TOKENS} for stage in STAGES}
    for first in range(0, len(rows), batch):
        chosen = rows[first : first + batch]
        inputs = processor.batch([Sample(view.images, view.state, text) for view, text in chosen])
        for stage, kinds in pooled(model, inputs).items():
            for tokens, values in kinds.items():
                found[stage][tokens] += list(values)
        report(f"features of {min(len(rows), first + batch)} of {len(rows)} prompts")
    shape = (len(views), len(views[0].asked), -1)
    dtype = next(model.parameters()).dtype
    stages = {
        stage: {
            tokens: apart(np.stack(values).reshape(shape), ROUNDING.get(dtype, ROUNDING[torch.float32]), seed)
            for tokens, values in kinds.items()
        }
        for stage, kinds in found.items()
    }
    identical, pairs = _same_prompts(processor, views)
    labels = tuple(label for _, label in views[0].asked)
    return Separation(stages, identical, pairs, labels, len(views), str(dtype).removeprefix("torch."))


@torch.inference_mode()
def pooled(model: Groot, inputs: Inputs) -> dict[str, dict[str, Array]]:
    """Features [B, D] by stage and kind of token, each the mean over the tokens of that kind."""
    mask = inputs.attention_mask
    keep = torch.ones_like(inputs.input_ids, dtype=torch.bool) if mask is None else mask.bool()
    features = model.backbone(inputs.pixel_values, inputs.input_ids, mask, model.pad_rows)
    keys = None if mask is None else keep[:, None, None, :]
    read = model.action_head.features(features, keys)
    image = (inputs.input_ids == model.config.image_token_index) & keep
    kinds = {"image": image, "text": keep & ~image, "all": keep}
    return {
        stage: {tokens: _mean(values, which) for tokens, which in kinds.items()}
        for stage, values in (("backbone", features), ("self_attention", read))
    }


def apart(features: Array, rounding: float = 1e-5, seed: int = 0) -> Apart:
    """features: [layouts, instructions, D], instruction i the same label in each layout."""
    layouts, count, _ = features.shape
    chance = 1.0 / count
    pairs = list(combinations(range(count), 2))
    lengths = np.maximum(np.linalg.norm(features, axis=-1), 1e-30)
    differences = [np.linalg.norm(features[:, i] - features[:, j], axis=-1) / lengths[:, i] for i, j in pairs]
    difference = float(np.mean(differences)) if pairs else 0.0
    equal = bool(difference < rounding)
    labels = np.tile(np.arange(count), (layouts, 1))
    if equal:  # what is left is rounding, which may go with the length of the words
        guess = share(np.full(layouts, 1.0), np.full(layouts, float(count)), seed)
        return Apart(_cosines(features), difference, equal, guess, guess, (chance, chance), chance)
    plain = _gram(features)
    hidden = _gram(features - features.mean(axis=1, keepdims=True))
    asked = np.full(layouts, float(count))
    random = np.random.Generator(np.random.Philox(key=seed))
    mixed = [_right(hidden, random.permuted(labels, axis=1)).sum() / asked.sum() for _ in range(SHUFFLES)]
    return Apart(
        _cosines(features),
        difference,
        equal,
        share(_right(plain, labels), asked, seed),
        share(_right(hidden, labels), asked, seed),
        (float(np.mean(mixed)), float(np.max(mixed))),
        chance,
    )


def _mean(values: Tensor, which: Tensor) -> Array:
    weights = which.to(torch.float32).unsqueeze(-1)
    mean = (values.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
    return mean.double().cpu().numpy()


def _same_prompts(processor: Processor, views: Sequence[View]) -> tuple[int, int]:
    """Pairs of different instructions of one observation whose token ids are equal, and all pairs."""
    cameras = len(processor.settings.cameras)
    pairs = {
        tuple(sorted((a, b))) for view in views for (a, _), (b, _) in combinations(view.asked, 2) if a != b
    }
    ids = {text: processor.prompts.prompt(text, cameras).ids for pair in pairs for text in pair}
    return sum(ids[one] == ids[other] for one, other in pairs), len(pairs)


def _cosines(features: Array) -> Cosines:
    same, random = _pair_cosines(features)
    centred = features - features.mean(axis=(0, 1), keepdims=True)
    return Cosines(same, random, *_pair_cosines(centred))


def _pair_cosines(features: Array) -> tuple[float, float]:
    """Mean over pairs of instructions of one layout, and over pairs that differ in both."""
    layouts, count, width = features.shape
    rows = features.reshape(-1, width)
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    cosines = units @ units.T
    layout, label = np.divmod(np.arange(layouts * count), count)
    other = label[:, None] != label[None, :]
    together = layout[:, None] == layout[None, :]
    same, random = cosines[other & together], cosines[other & ~together]
    return (float(same.mean()) if same.size else 1.0), (float(random.mean()) if random.size else 1.0)


def _gram(features: Array) -> Array:
    """[n, n] inner products of centred rows, of mean squared length 1."""
    rows = features.reshape(-1, features.shape[-1])
    rows = rows - rows.mean(axis=0)
    products = rows @ rows.T
    length = np.trace(products) / len(products)
    return products / length if length > 0 else products


def _right(gram: Array, labels: NDArray[np.int64]) -> Array:
    """[layouts] right answers of a ridge classifier fitted on the other layouts (dual form, closed)."""
    layouts, count = labels.shape
    targets = np.eye(count)[labels.reshape(-1)] - 1.0 / count
    numbers = np.arange(layouts * count).reshape(layouts, count)
    right = np.zeros(layouts)
    for held in range(layouts):
        fit = np.delete(numbers, held, axis=0).reshape(-1)
        matrix = gram[np.ix_(fit, fit)] + RIDGE * np.eye(len(fit))
        outputs = gram[np.ix_(numbers[held], fit)] @ np.linalg.solve(matrix, targets[fit])
        ahead = outputs >= outputs.max(axis=1, keepdims=True) - TIE
        right[held] = (ahead[np.arange(count), labels[held]] / ahead.sum(axis=1)).sum()
    return right


def _percent(figure: Figure) -> str:
    return f"{100 * figure.value:.0f} % [{100 * figure.low:.0f}, {100 * figure.high:.0f}]"
