# SPDX-License-Identifier: Apache-2.0
"""A policy server written from the protocol's description alone, with nothing of the client under test.

It knows raw ZMQ and msgpack, and misbehaves on demand.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import zmq

Answer = Callable[[dict[str, Any]], Any]


def npy(array: np.ndarray) -> dict[str, Any]:
    """An array as the protocol has it."""
    file = io.BytesIO()
    np.save(file, array)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def array_of(entry: dict[str, Any]) -> np.ndarray:
    """An array of its map in the protocol."""
    assert set(entry) == {"__ndarray_class__", "as_npy"}
    return np.load(io.BytesIO(entry["as_npy"]), allow_pickle=False)


def modality(*keys: str, steps: int = 1) -> dict[str, Any]:
    """A modality's map in the protocol."""
    text = json.dumps({"delta_indices": list(range(steps)), "modality_keys": list(keys)})
    return {"__ModalityConfig_class__": True, "as_json": text}


SO100 = {
    "video": modality("video.front", "video.wrist"),
    "state": modality("state.single_arm", "state.gripper"),
    "action": modality("action.single_arm", "action.gripper", steps=16),
    "language": modality("annotation.human.task_description"),
}


class FakeServer:
    """An SO-100 server in a thread: holds the arm where it is. Use as a context manager.

    `act` answers get_action: a map, bytes as they are, or None for no answer at all. `hang` makes it deaf.
    """

    def __init__(self, port: int = 0, act: Answer | None = None, token: str = "") -> None:
        self.act = act or still
        self.token, self.modalities = token, dict(SO100)
        self.pong: Any = {"status": "ok", "message": "Server is running"}
        self.asked: list[str] = []
        self.observations: list[dict[str, Any]] = []
        self.go = threading.Event()
        self.go.set()
        self._end = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.port = int(self.address.rpartition(":")[2])
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.go.set()
        self._thread.join()
        self._socket.close(0)
        self._context.term()

    def _run(self) -> None:
        while not self._end.is_set():
            self.go.wait()
            if not self._socket.poll(10):
                continue
            peer, empty, body = self._socket.recv_multipart()
            assert empty == b""
            reply = self._answer(msgpack.unpackb(body))
            self.go.wait()
            if reply is not None:
                data = reply if isinstance(reply, bytes) else msgpack.packb(reply)
                self._socket.send_multipart([peer, b"", data])

    def _answer(self, request: dict[str, Any]) -> Any:
        if self.token and request.get("api_token") != self.token:
            return {"error": "Unauthorized: Invalid API token"}
        self.asked.append(request["endpoint"])
        if request["endpoint"] == "ping":
            return self.pong
        if request["endpoint"] == "get_modality_config":
            return self.modalities
        self.observations.append(request["data"])
        return self.act(request["data"])


def still(observation: dict[str, Any]) -> dict[str, Any]:
    """16 actions that hold the arm where the observation says it is."""
    arm, gripper = (array_of(observation[f"state.{key}"]) for key in ("single_arm", "gripper"))
    return {
        "action.single_arm": npy(np.repeat(arm, 16, axis=0)),
        "action.gripper": npy(np.repeat(gripper, 16, axis=0)[:, 0]),
    }
