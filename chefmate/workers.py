# SPDX-License-Identifier: Apache-2.0
"""Processes that end with their parent; those of a pool, each on one thread."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["DIED", "become_worker", "die_with_parent", "one_thread_each"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
DIED = "a worker died, for lack of memory or by a signal; start again to go on, with fewer --workers"
_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork


def die_with_parent(number: int) -> None:
    """Called in a fresh child: it gets this signal when the thread that started it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, number)


def one_thread_each() -> None:
    """For the processes that are started from here on, unless the environment says otherwise."""
    for name in THREADS:
        os.environ.setdefault(name, "1")


def become_worker() -> None:
    """In a new process: its parent tells it when to end, and it does not outlive the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
