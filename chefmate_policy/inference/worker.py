# SPDX-License-Identifier: Apache-2.0
"""The thread that infers, so that status, staleness and instructions never wait for a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from chefmate_policy.inference.backend import Backend, Chunk, Observation


@dataclass(frozen=True)
class Inference:
    """What became of one observation: a chunk or an error."""

    ticket: int
    observation: Observation
    chunk: Chunk | None
    error: Exception | None
    seconds: float
    """How long the backend took."""


class InferenceWorker:
    """Runs one inference at a time in a thread of its own.

    `on_result` is called in that thread with each Inference; it must only hand it over.
    """

    def __init__(self, backend: Backend, on_result: Callable[[Inference], None]) -> None:
        self._backend = backend
        self._on_result = on_result
        self._work: tuple[int, Observation] | None = None
        self._busy_since: float | None = None
        self._closing = False
        self._wake = threading.Condition()
        # A daemon: a backend that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, ticket: int, observation: Observation) -> bool:
        """Starts an inference; False, and nothing happens, while another one runs."""
        with self._wake:
            if self._busy_since is not None or self._closing:
                return False
            self._work = (ticket, observation)
            self._busy_since = time.monotonic()
            self._wake.notify()
        return True

    def busy_for(self) -> float:
        """s since the running inference was submitted; 0 while none runs."""
        since = self._busy_since
        return 0.0 if since is None else max(1e-9, time.monotonic() - since)

    def close(self, timeout: float) -> bool:
        """Ends the thread after the running inference; False if that takes longer than `timeout` (s)."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._work is not None or self._closing)
                if self._work is None:
                    return
                ticket, observation = self._work
                self._work = None
            started = time.monotonic()
            chunk: Chunk | None = None
            error: Exception | None = None
            try:
                chunk = self._backend.infer(observation)
            except Exception as failure:
                # Whatever a model raises must hold the arm by name, not end this thread.
                error = failure
            result = Inference(ticket, observation, chunk, error, time.monotonic() - started)
            with self._wake:
                self._busy_since = None
            self._on_result(result)
