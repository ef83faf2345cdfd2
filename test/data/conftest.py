# SPDX-License-Identifier: Apache-2.0
"""Makes the modules next to the tests importable; waiting without sleeping longer than needed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any], float], None]:
    """Function (condition, seconds): waits until the condition holds, or fails."""

    def wait(condition: Callable[[], Any], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds:g} s")
            time.sleep(0.005)

    return wait
