# SPDX-License-Identifier: Apache-2.0
"""A small model to train."""

from __future__ import annotations

import pytest
import torch

from chefmate_policy.groot import sizes
from chefmate_policy.groot.config import GrootConfig

torch.set_num_threads(1)  # small models gain nothing from more, and other tests run beside

# every kind of layer once: a DiT block of cross- and one of self-attention
TINY = sizes.Member(
    image_size=32,
    patch_size=16,
    vision=(32, 1, 2),
    text=(64, 1, 1, 64),
    key_value_heads=1,
    vl_layers=1,
    dit=(32, 2, 2),
    hidden=32,
    future_tokens=2,
)


@pytest.fixture(scope="session")
def small() -> GrootConfig:
    """A configuration whose passes take milliseconds."""
    return GrootConfig.from_dict(sizes._config(TINY))
