# SPDX-License-Identifier: Apache-2.0
"""Makes the lockstep runner next to the tests importable."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("MUJOCO_GL", "egl")  # read once, when mujoco is imported first
sys.path.insert(0, str(Path(__file__).parent))

from lockstep import Lockstep


@pytest.fixture(scope="module")
def shared_lockstep() -> Lockstep:
    return Lockstep(delay=0.1)


@pytest.fixture
def lockstep(shared_lockstep: Lockstep) -> Lockstep:
    """A world and an expert that sees it 0.1 s late, as in the real graph."""
    shared_lockstep.on_tick = None
    shared_lockstep.reset(0)
    return shared_lockstep
