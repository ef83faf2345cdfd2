# SPDX-License-Identifier: Apache-2.0
"""The answering side of the policy server's protocol: a checkpoint for N1.5 clients on other machines.

Endpoints ping, get_modality_config, get_action and kill. The answer to ping also says rate, joints and units,
which our own client takes over and others do not read. One request at a time, as the model has it.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import zmq
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError
from chefmate_policy.groot.processor import Processor
from chefmate_policy.inference.instruction import LONGEST
from chefmate_policy.inference.server_protocol import LANGUAGE, LONGEST_ERROR, Modality, pack, unpack

__all__ = ["PolicyServer", "RequestError"]

LARGEST_REQUEST = 64 * 2**20  # bytes; three cameras of 1920x1080 have 19 MB
LOOK = 0.1  # s between looks whether to end
LOGGER = logging.getLogger(__name__)


class RequestError(PolicyError):
    """A request that cannot be answered; the message goes to the client."""


class ActingPolicy(Protocol):
    """What is served; `CheckpointPolicy` is one."""

    @property
    def processor(self) -> Processor:
        """Names of cameras and keys, units and rate."""

    def act(
        self, frames: Mapping[str, NDArray[np.uint8]], state: NDArray[np.float64], instruction: str
    ) -> tuple[NDArray[np.float64], float]:
        """Actions (H, D) in the dataset's units."""


class PolicyServer:
    """Serves one policy at one address, as a context manager.

    Args:
        address: tcp://host:port; port 0 takes a free one, see `address`.
        token: requests without it are refused; empty: anyone may ask, and nobody may kill.

    Raises:
        RequestError: the address cannot be bound.
    """

    def __init__(self, policy: ActingPolicy, address: str, token: str = "") -> None:
        self._policy, self._token = policy, token
        self._killed = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IPV6, "[" in address)
        self._socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_REQUEST)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise RequestError(
                f"cannot serve at {address}: {error}; choose another --host or --port"
            ) from error
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, until: Callable[[], bool]) -> None:
        """Answers until `until()` is true or a client has killed it by token."""
        while not self._killed and not until():
            if self._socket.poll(int(1000 * LOOK)):
                self._socket.send(self.answer(self._socket.recv_multipart()))

    def close(self) -> None:
        """Frees the address; what was not sent is dropped."""
        self._socket.close(linger=0)
        self._context.term()

    def answer(self, parts: list[bytes]) -> bytes:
        """The reply to a request's parts; whatever goes wrong becomes {error: words}."""
        try:
            return pack(self._answer(parts))
        except PolicyError as error:
            LOGGER.warning("refused: %s", error)
            return pack({"error": str(error)})
        except Exception as error:  # a model can fail in any way; the server lives and says how
            LOGGER.exception("failed")
            return pack({"error": f"{type(error).__name__}: {str(error)[:LONGEST_ERROR]}"})

    def _answer(self, parts: list[bytes]) -> Any:
        if len(parts) != 1:
            raise RequestError(f"the request has {len(parts)} parts; a message has one")
        request = unpack(parts[0])
        if not isinstance(request, Mapping):
            raise RequestError(
                f"the request is {type(request).__name__}, expected a map with endpoint and data"
            )
        if self._token and not self._knows(request.get("api_token")):
            raise RequestError("Unauthorized: api_token is missing or wrong")
        endpoint = request.get("endpoint", "get_action")
        if endpoint == "ping":
            return self._pong()
        if endpoint == "get_modality_config":
            return self._modalities()
        if endpoint == "get_action":
            return self._act(request.get("data"))
        if endpoint == "kill":
            return self._kill()
        raise RequestError(
            f"endpoint {str(endpoint)[:60]!r} is unknown; use ping, get_modality_config, get_action or kill"
        )

    def _knows(self, given: Any) -> bool:
        return isinstance(given, str) and hmac.compare_digest(given.encode(), self._token.encode())

    def _kill(self) -> dict[str, Any]:
        if not self._token:
            raise RequestError(
                "kill is refused: this server was started without a token, so anyone could ask"
            )
        self._killed = True
        LOGGER.warning("killed by a client")
        return {"status": "ok", "message": "the server ends"}

    def _pong(self) -> dict[str, Any]:
        processor = self._policy.processor
        return {
            "status": "ok",
            "message": "Server is running",
            "fps": processor.metadata.fps,
            "joints": [joint.to_dict() for joint in processor.settings.joints],
        }

    def _modalities(self) -> dict[str, Modality]:
        processor = self._policy.processor
        settings, horizon = processor.settings, processor.config.action_head.action_horizon
        return {
            "video": Modality(tuple(f"video.{name}" for name in settings.cameras), (0,)),
            "state": Modality(tuple(f"state.{key}" for key in settings.state), (0,)),
            "action": Modality(tuple(f"action.{key}" for key in settings.action), tuple(range(horizon))),
            "language": Modality((LANGUAGE,), (0,)),
        }

    def _act(self, data: Any) -> dict[str, NDArray[np.float32]]:
        if not isinstance(data, Mapping):
            raise RequestError(f"data is {type(data).__name__}, expected the observation as a map")
        processor = self._policy.processor
        cameras = [f"video.{name}" for name in processor.settings.cameras]
        states = {f"state.{key}": len(processor.metadata.state[key]) for key in processor.settings.state}
        texts = [key for key in data if isinstance(key, str) and key.startswith("annotation.")]
        missing = [key for key in (*cameras, *states) if key not in data]
        extra = sorted(str(key)[:60] for key in data if key not in (*cameras, *states, *texts))
        if missing or extra or len(texts) != 1:
            raise RequestError(
                f"the observation must have {', '.join((*cameras, *states))} and one annotation, as"
                f" {LANGUAGE}: missing {', '.join(missing) or 'none'}, unknown"
                f" {', '.join(extra[:8]) or 'none'}, {len(texts)} annotations"
            )
        frames = {key.removeprefix("video."): _frame(key, data[key]) for key in cameras}
        state = np.concatenate([_state(key, data[key], width) for key, width in states.items()])
        actions, _ = self._policy.act(frames, state, _text(texts[0], data[texts[0]]))
        if not np.all(np.isfinite(actions)):
            raise RequestError("the model's actions are not finite")
        ends = np.cumsum([len(processor.metadata.action[key]) for key in processor.settings.action])[:-1]
        shares = np.split(actions.astype(np.float32), ends, axis=1)
        return {f"action.{key}": share for key, share in zip(processor.settings.action, shares, strict=True)}


def _frame(key: str, given: Any) -> NDArray[np.uint8]:
    """(1, H, W, 3) uint8 -> (H, W, 3)."""
    if not isinstance(given, np.ndarray) or given.dtype != np.uint8 or given.ndim != 4 or given.shape[0] != 1:
        raise RequestError(f"{key} is {_words(given)}, expected uint8 (1, height, width, 3)")
    frame: NDArray[np.uint8] = given[0]
    return frame


def _state(key: str, given: Any, width: int) -> NDArray[np.float64]:
    """(1, width) numbers -> (width,)."""
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "iuf" or given.shape != (1, width):
        raise RequestError(f"{key} is {_words(given)}, expected numbers (1, {width})")
    values = given[0].astype(np.float64)
    if not np.all(np.isfinite(values)):
        raise RequestError(f"{key} is {values.tolist()}: not finite")
    return values


def _text(key: str, given: Any) -> str:
    """[text], or an array of one text."""
    texts = given.ravel().tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(texts, list) or len(texts) != 1 or not isinstance(texts[0], str):
        raise RequestError(f"{key} is {_words(given)}, expected a list of one text")
    if len(texts[0]) > LONGEST:
        raise RequestError(f"{key} has {len(texts[0])} characters (limit {LONGEST})")
    return texts[0]


def _words(given: Any) -> str:
    return f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else repr(given)[:60]
