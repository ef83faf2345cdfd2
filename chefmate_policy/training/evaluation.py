# SPDX-License-Identifier: Apache-2.0
"""What a low training loss does not say: the loss on layouts never trained on, by instruction, and whether
the actions follow the words.

The counterfactual action gap is the mean difference of the actions under two instructions, all else equal
(observation, noise), over their mean difference under two noises with the instruction unchanged: 0 where the
words are ignored, above 1 where they decide more than chance does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chefmate_policy.data.mixture import Mixture
from chefmate_policy.training.batches import Loader, Preparation
from chefmate_policy.training.forward import FlowLoss, Prepared

__all__ = ["Evaluation", "Evaluator"]

ROWS_PER_INSTRUCTION = 64
GAP_ROWS = 32
SEED = 20251019  # of noise and times: the same in every evaluation of every run


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures."""

    loss: float  # mean over instructions
    by_instruction: dict[str, float]
    gap: float | None  # counterfactual action gap; None: one instruction only

    def to_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "by_instruction": self.by_instruction, "action_gap": self.gap}


class Evaluator:
    """Evaluates on the same rows, noises and times each time."""

    def __init__(
        self,
        held_out: Mixture,
        loader: Loader,
        prepare: Preparation,
        loss: FlowLoss,
        autocast: torch.dtype | None,
        batch: int = 32,
    ) -> None:
        self.held_out, self.loader, self.prepare, self.loss = held_out, loader, prepare, loss
        self.autocast, self.batch = autocast, batch
        self.rows = chosen_rows(held_out)
        everything = np.concatenate(list(self.rows.values()))
        spread = np.linspace(0, len(everything) - 1, min(GAP_ROWS, len(everything))).astype(np.int64)
        self.gap_rows = everything[spread]

    @torch.no_grad()
    def __call__(self) -> Evaluation:
        """Waits for the device. The model's modes and the random state are left as they were."""
        model = self.loss.model
        modes = [(module, module.training) for module in model.modules()]
        device = self.prepare.columns.states.device
        eager = torch.compiler.set_stance("force_eager")  # other shapes than training's: not compiled
        with eager, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.eval()
            try:
                losses = self._losses(device)
                gap = self._gap(device) if len(self.rows) > 1 else None
            finally:
                for module, mode in modes:
                    module.training = mode
        return Evaluation(float(np.mean(list(losses.values()))), losses, gap)

    def _losses(self, device: torch.device) -> dict[str, float]:
        losses: dict[str, float] = {}
        head = self.loss.model.action_head.config
        for number, rows in self.rows.items():
            random = torch.Generator().manual_seed(SEED)  # the same noises for each instruction
            each: list[Tensor] = []
            for first in range(0, len(rows), self.batch):
                batch = self._prepared(rows[first : first + self.batch])
                shape = batch.action.shape
                noise = torch.randn(shape, generator=random).to(device)
                times = (torch.rand(shape[0], generator=random) * head.noise_s).to(device)
                with self._autocast(device):
                    each.append(self.loss(batch, noise, times)[1])
            losses[self.held_out.instructions[number]] = float(torch.cat(each).mean())
        return losses

    def _gap(self, device: torch.device) -> float:
        numbers = sorted(self.rows)
        said, unsaid = 0.0, 0.0
        random = torch.Generator().manual_seed(SEED)
        for first in range(0, len(self.gap_rows), self.batch):
            rows = self.gap_rows[first : first + self.batch]
            batch = self._prepared(rows)
            own = [int(number) for number in self.held_out.instruction_of[rows]]
            other = [
                numbers[(numbers.index(number) + 1 + place) % len(numbers)]
                if numbers[(numbers.index(number) + 1 + place) % len(numbers)] != number
                else numbers[(numbers.index(number) + 1) % len(numbers)]
                for place, number in enumerate(own)
            ]
            shape = batch.action.shape
            one, two = (torch.randn(shape, generator=random).to(device) for _ in range(2))
            mask = batch.mask.amax((0, 1))  # the dimensions that count
            told = self._actions(batch, one) * mask
            otherwise = self._actions(replace(batch, prompt=torch.tensor(other, device=device)), one) * mask
            again = self._actions(batch, two) * mask
            said += float((told - otherwise).flatten(1).norm(dim=1).sum())
            unsaid += float((told - again).flatten(1).norm(dim=1).sum())
        return said / max(unsaid, 1e-12)

    def _actions(self, batch: Prepared, noise: Tensor) -> Tensor:
        head = self.loss.model.action_head
        with self._autocast(noise.device):
            times = head.steps(head.config.num_inference_timesteps)
            return head.denoise(noise, self.loss.observe(batch), times)

    def _prepared(self, rows: NDArray[np.int64]) -> Prepared:
        return self.prepare(self.loader.at(rows), training=False)

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self.autocast, enabled=self.autocast is not None)


def chosen_rows(mixture: Mixture, most: int = ROWS_PER_INSTRUCTION) -> dict[int, NDArray[np.int64]]:
    """Rows to evaluate on, by instruction, evenly spaced over its frames."""
    rows, instructions = mixture.rows, mixture.instruction_of
    found: dict[int, NDArray[np.int64]] = {}
    numbers: Sequence[int] = np.unique(instructions[rows]).tolist()
    for number in numbers:
        mine = rows[instructions[rows] == number]
        found[number] = mine[np.linspace(0, len(mine) - 1, min(most, len(mine))).astype(np.int64)]
    return found
