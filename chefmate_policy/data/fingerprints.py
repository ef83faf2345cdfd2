# SPDX-License-Identifier: Apache-2.0
"""Hashes over what episodes and datasets hold, by which a set can be told from another and be found again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["dataset_fingerprint", "episode_fingerprint"]


def episode_fingerprint(
    text: str, states: NDArray[Any], actions: NDArray[Any], videos: Mapping[str, Path]
) -> str:
    """SHA-256 (hex) over instruction, states and actions as float32, and the bytes of the video files."""
    whole = hashlib.sha256(text.encode() + b"\0")
    for values in (states, actions):
        whole.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    for name in sorted(videos):
        whole.update(name.encode() + b"\0" + hashlib.sha256(videos[name].read_bytes()).digest())
    return whole.hexdigest()


def dataset_fingerprint(episodes: Iterable[str]) -> str:
    """SHA-256 (hex) over the episodes' fingerprints, in order."""
    return hashlib.sha256("\n".join(episodes).encode()).hexdigest()
