# SPDX-License-Identifier: Apache-2.0
"""An executor in a thread of its own, for nodes beside a thread that does something else."""

from __future__ import annotations

import threading

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

PATIENCE = 2.0  # s that `close` waits for a callback that runs


class SpinningThread:
    """Runs an executor's callbacks until `close`, or until its context ends.

    Not `executor.spin()`: Jazzy's executor ends that by `shutdown`, which takes away what the thread is
    waiting on.
    """

    def __init__(self, executor: SingleThreadedExecutor, name: str) -> None:
        self._executor = executor
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once it has ended: before `close`, a callback raised."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread, and the executor with it unless a callback does not come back in time."""
        self._ending.set()
        self._executor.create_task(lambda: None)  # a mere wake() is no work, and the wait would go on
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._executor.shutdown()

    def _run(self) -> None:
        try:
            while not self._ending.is_set() and self._executor.context.ok():
                self._executor.spin_once()
        except ExternalShutdownException:
            return
