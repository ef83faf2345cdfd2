# SPDX-License-Identifier: Apache-2.0
"""Golden data of the reference, and models at its sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.model import Groot, Inputs

torch.set_num_threads(1)  # the golden sizes are too small for more, and other tests run beside

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@dataclass
class Case:
    """One golden case: configuration, weights, inputs, outputs and gradients of the reference."""

    name: str
    config: GrootConfig
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    gradients: dict[str, Any]

    def model(self, **options: Any) -> Groot:
        with torch.device("meta"):
            model = Groot(self.config, **options)
        model.load_state_dict({key: self.weights[key].clone() for key in model.state_dict()}, assign=True)
        return model.eval()

    def inputs(self, *samples: int, training: bool = False) -> Inputs:
        """The recorded batch, or some of its samples."""
        given = {
            key.removeprefix("in."): value for key, value in self.tensors.items() if key.startswith("in.")
        }
        cameras = self.config.raw["golden"]["num_cameras"]
        chosen = list(samples) or list(range(given["state"].shape[0]))
        images = given["pixel_values"].unflatten(0, (-1, cameras))[chosen].flatten(0, 1)
        names = ["input_ids", "state", "embodiment_id"] + (["action", "action_mask"] if training else [])
        return Inputs(pixel_values=images, **{name: given[name][chosen] for name in names})


@pytest.fixture(params=["a", "b"])
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


@pytest.fixture
def case_a() -> Case:
    return load_case("a")


def load_case(name: str) -> Case:
    folder = GOLDEN / name
    return Case(
        name,
        GrootConfig.from_dict(json.loads((folder / "config.json").read_text())),
        load_file(folder / "model.safetensors"),
        load_file(folder / "tensors.safetensors"),
        json.loads((folder / "grads.json").read_text()),
    )


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return GOLDEN


@pytest.fixture
def small_inputs() -> Callable[..., Inputs]:
    """A random observation of a small member: two cameras, a prompt of 40 tokens besides the images."""

    def make(config: GrootConfig, cameras: int = 2, words: int = 40, seed: int = 0) -> Inputs:
        random = torch.Generator().manual_seed(seed)
        image, tokens = config.vision.image_size, cameras * config.vision.tokens
        ids = torch.randint(20, config.text.vocab_size, (1, words + tokens), generator=random)
        ids[:, 8 : 8 + tokens] = config.image_token_index
        return Inputs(
            pixel_values=2 * torch.rand(cameras, 3, image, image, generator=random) - 1,
            input_ids=ids,
            state=2 * torch.rand(1, 1, config.action_head.state_dim, generator=random) - 1,
            embodiment_id=torch.zeros(1, dtype=torch.int64),
        )

    return make
