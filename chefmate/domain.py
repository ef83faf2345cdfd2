# SPDX-License-Identifier: Apache-2.0
"""A ROS_DOMAIN_ID that nobody on this machine uses."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chefmate.errors import WorkspaceError

# Domains 0..101 have ports below Linux's ephemeral range; 0 is everybody's default, so it is left alone.
# https://docs.ros.org/en/jazzy/Concepts/Intermediate/About-Domain-ID.html
CANDIDATES = range(1, 102)
PORT_BASE, DOMAIN_GAIN = 7400, 250
# A participant binds a pair of ports by its number; one that ended leaves a gap, so all are looked at.
UNICAST_PORTS = range(10, 250, 2)


@contextmanager
def free_domain() -> Iterator[int]:
    """Holds a free domain id until the block ends.

    Two callers on one machine never get the same: a lock file is held, and no participant's discovery port
    may be in use.

    Raises:
        WorkspaceError: every domain is taken.
    """
    folder = Path(tempfile.gettempdir())
    for domain in CANDIDATES:
        path = folder / f"chefmate-domain-{domain}.lock"
        try:
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except PermissionError:
            continue  # somebody else's
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        try:
            if any(_in_use(PORT_BASE + DOMAIN_GAIN * domain + offset) for offset in UNICAST_PORTS):
                continue
            yield domain
            return
        finally:
            os.close(handle)
    raise WorkspaceError(f"no free ROS_DOMAIN_ID among {CANDIDATES.start}..{CANDIDATES.stop - 1}.")


def _in_use(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False
