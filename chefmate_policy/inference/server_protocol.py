# SPDX-License-Identifier: Apache-2.0
"""Messages of the Isaac-GR00T N1.5 policy server: msgpack maps, arrays inside as .npy bytes.

A request is {endpoint, data, api_token}, a failure {error: words}. What comes over a network is not trusted:
no pickle, no type but numbers (and texts, for the instruction), and no array larger than its own bytes.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError

__all__ = ["DEFAULT_PORT", "LANGUAGE", "LONGEST_ERROR", "Modality", "ProtocolError", "pack", "unpack"]

DEFAULT_PORT = 5555
LANGUAGE = "annotation.human.task_description"  # key of the instruction in the SO-100 configurations
LONGEST_ERROR = 300  # characters of a peer's words that are repeated
ARRAY, ARRAY_BYTES = "__ndarray_class__", "as_npy"
MODALITY, MODALITY_TEXT = "__ModalityConfig_class__", "as_json"
KINDS = "biufU"  # numpy's dtype kinds that are let in: bool, integers, floats, texts
LONGEST_HEADER = 1024  # bytes; of a plain array it has about 120


class ProtocolError(PolicyError):
    """Bytes that are no message of this protocol."""


@dataclass(frozen=True)
class Modality:
    """Keys of one kind (video, state, action, language) and the steps of each, relative to now."""

    modality_keys: tuple[str, ...]
    delta_indices: tuple[int, ...]


def pack(message: Any) -> bytes:
    """A message's bytes. Raises ProtocolError: it holds an object that the protocol does not know."""
    try:
        packed: bytes = msgpack.packb(message, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"the message cannot be packed: {error}") from error
    return packed


def unpack(data: bytes) -> Any:
    """A message of its bytes. Raises ProtocolError: not msgpack, or an array that is not let in."""
    try:
        return msgpack.unpackb(data, object_hook=_decode)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(
            f"{len(data)} bytes are no msgpack message ({str(error) or type(error).__name__})"
        ) from error


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in KINDS:
            raise ProtocolError(f"an array of {value.dtype} has no place in the protocol")
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        return {ARRAY: True, ARRAY_BYTES: buffer.getvalue()}
    if isinstance(value, Modality):
        return {MODALITY: True, MODALITY_TEXT: json.dumps(vars(value))}
    raise ProtocolError(f"{type(value).__name__} has no place in the protocol")


def _decode(entry: dict[Any, Any]) -> Any:
    if ARRAY in entry:
        return _array(entry.get(ARRAY_BYTES))
    if MODALITY in entry:
        return _modality(entry.get(MODALITY_TEXT))
    return entry


def _array(data: Any) -> NDArray[Any]:
    """An array of its .npy bytes, which must be exactly as many as its shape says.

    numpy's own reader reserves what the header claims before it looks at the bytes, and opens archives and
    pickles.
    """
    if not isinstance(data, bytes):
        raise ProtocolError(f"{ARRAY_BYTES} is {type(data).__name__}, expected the bytes of an .npy file")
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            read = np.lib.format.read_array_header_1_0
        elif version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        else:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = read(stream, max_header_size=LONGEST_HEADER)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ProtocolError(
            f"{ARRAY_BYTES} has no readable .npy header: {str(error)[:LONGEST_ERROR]}"
        ) from error
    if dtype.kind not in KINDS or dtype.hasobject:
        raise ProtocolError(f"an array of {dtype} is not let in; numbers and texts are")
    body = data[stream.tell() :]
    if (
        any(size < 0 for size in shape)
        or math.prod(shape) * dtype.itemsize != len(body)
        or dtype.itemsize == 0
    ):
        raise ProtocolError(f"an array of {dtype} {shape} does not have {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def _modality(text: Any) -> Modality:
    try:
        entry = json.loads(text)
        return Modality(
            tuple(str(key) for key in entry["modality_keys"]),
            tuple(int(index) for index in entry["delta_indices"]),
        )
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise ProtocolError(f"{MODALITY_TEXT} is not a modality ({error!r})") from error
