# SPDX-License-Identifier: Apache-2.0
"""The first moment of a node's executable: cheap to import, so that a ctrl-C during the node's own imports
(about a second) ends it as quietly as a later one."""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any


def enter(module: str) -> int:
    """Imports a node's module and returns the exit status of its main. A SIGINT or SIGTERM before that main
    has its own handlers ends the process with 0: nothing has been opened yet."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    main = importlib.import_module(module).main
    return int(main())


def _leave(number: int, frame: Any) -> None:
    os._exit(0)
