# SPDX-License-Identifier: Apache-2.0
"""A small model to train."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for the tests' own modules, with --import-mode=importlib

from tiny_run import TINY

from chefmate_policy.groot import sizes
from chefmate_policy.groot.config import GrootConfig

torch.set_num_threads(1)  # small models gain nothing from more, and other tests run beside


@pytest.fixture(scope="session")
def small() -> GrootConfig:
    """A configuration whose passes take milliseconds."""
    return GrootConfig.from_dict(sizes._config(TINY))
