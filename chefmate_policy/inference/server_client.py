# SPDX-License-Identifier: Apache-2.0
"""The asking side of the policy server's protocol, which never waits longer than it was told.

A ZMQ REQ socket that has missed one reply cannot ask again, so it is thrown away with what it still holds and
a new one made. After that the server is only pinged, without waiting, until it answers: a server that hangs
gets no heap of pictures, and a late reply to an old question can never pass for a new one's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from chefmate_policy.errors import PolicyError
from chefmate_policy.inference.server_protocol import LONGEST_ERROR, ProtocolError, pack, unpack

__all__ = ["NoAnswerError", "PolicyClient", "RefusedError"]

LARGEST_REPLY = 4 * 2**20  # bytes; 16 actions of 6 joints have about 1500
SLICE = 0.05  # s between looks whether the question still counts
PING_PATIENCE = 5.0  # s after which an unanswered ping is asked anew: it may have died with the server
RECONNECT = (100, 1000)  # ms between attempts to connect: at first, at most


class NoAnswerError(PolicyError):
    """The server did not answer in time, or the question was given up."""


class RefusedError(PolicyError):
    """The server answered that it will not, in its own words."""


class PolicyClient:
    """Asks one server, one question at a time, from one thread at a time.

    Args:
        address: tcp://host:port.
        token: sent with each request, if not empty.
        given_up: looked at while waiting; True ends the wait.
    """

    def __init__(self, address: str, token: str = "", given_up: Callable[[], bool] = lambda: False) -> None:
        self.address = address
        self._token = token
        self._given_up = given_up
        self._socket: zmq.Socket[bytes] | None = None
        self._pinged: float | None = None  # monotonic s, of a ping without an answer yet
        self._silent_since: float | None = None  # monotonic s, of the first unanswered question
        self._reached = False  # a connection stood when last asked

    def ask(self, endpoint: str, data: Mapping[str, Any] | None, deadline: float) -> Any:
        """The server's reply.

        Args:
            deadline: monotonic s.

        Raises:
            NoAnswerError: none by then; `ping` must succeed before the next question makes sense.
            RefusedError: the server's words.
            ProtocolError: the reply is none.
        """
        asked = time.monotonic()
        if self._pinged is not None:
            self.close()
        if not self._send(endpoint, data, deadline) or not self._arrives(deadline):
            self._missed(asked)
            raise NoAnswerError(self.silence())
        return self._reply()

    def ping(self, patience: float) -> Any:
        """The reply to a ping, or None: no answer within `patience` (s), look again later.

        The ping stays asked between calls. Raises RefusedError and ProtocolError as `ask` does.
        """
        now = time.monotonic()
        if self._pinged is not None and now - self._pinged > PING_PATIENCE:
            self.close()
        if self._pinged is None:
            if not self._send("ping", None, now + patience):
                self._silent_since = self._silent_since or now
                return None
            self._pinged = now
        if not self._arrives(now + patience):
            self._silent_since = self._silent_since or self._pinged
            return None
        self._pinged = None
        return self._reply()

    def silence(self) -> str:
        """Who is silent, and since when."""
        since = self._silent_since
        seconds = 0.0 if since is None else time.monotonic() - since
        words = f"policy server at {self.address} has not answered for {seconds:.1f} s"
        return words if self._reached else f"{words} (no connection)"

    def close(self) -> None:
        """Drops the socket and whatever it holds, at once."""
        if self._socket is not None:
            self._socket.close(linger=0)
        self._socket, self._pinged = None, None

    def _missed(self, asked: float) -> None:
        self._silent_since = self._silent_since or asked
        self.close()

    def _open(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            made: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
            made.setsockopt(zmq.LINGER, 0)
            made.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for a server that is not there
            made.setsockopt(zmq.MAXMSGSIZE, LARGEST_REPLY)
            made.setsockopt(zmq.RECONNECT_IVL, RECONNECT[0])
            made.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT[1])
            made.setsockopt(zmq.IPV6, 1)
            made.connect(self.address)
            self._socket = made
        return self._socket

    def _send(self, endpoint: str, data: Mapping[str, Any] | None, deadline: float) -> bool:
        request: dict[str, Any] = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self._token:
            request["api_token"] = self._token
        packed = pack(request)
        self._reached = self._ready(zmq.POLLOUT, deadline)
        if self._reached:
            try:
                self._open().send(packed, zmq.NOBLOCK, copy=False)
            except zmq.Again:  # the connection went between the look and the word
                self._reached = False
        return self._reached

    def _arrives(self, deadline: float) -> bool:
        return self._ready(zmq.POLLIN, deadline)

    def _ready(self, what: int, deadline: float) -> bool:
        socket = self._open()
        while True:
            left = deadline - time.monotonic()
            if socket.poll(int(1000 * min(SLICE, max(0.0, left))), what):
                return True
            if left <= SLICE or self._given_up():
                return False

    def _reply(self) -> Any:
        parts = self._open().recv_multipart(zmq.NOBLOCK)
        self._silent_since = None
        try:
            if len(parts) != 1:
                raise ProtocolError(f"{len(parts)} parts; a message has one")
            reply = unpack(parts[0])
        except ProtocolError as error:
            raise ProtocolError(f"policy server at {self.address} answered with garbage: {error}") from error
        if isinstance(reply, dict) and "error" in reply:
            words = str(reply["error"])[:LONGEST_ERROR]
            raise RefusedError(f"policy server at {self.address} refuses: {words}")
        return reply
