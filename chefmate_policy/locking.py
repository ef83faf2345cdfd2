# SPDX-License-Identifier: Apache-2.0
"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["held_alone"]


@contextmanager
def held_alone(file: Path, otherwise: Exception) -> Iterator[None]:
    """Holds a lock on `file`, made with its folder where it is missing, for the length of the block; the
    kernel frees it when the process ends, however. Raises `otherwise`: another process holds it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise otherwise from None
        yield
