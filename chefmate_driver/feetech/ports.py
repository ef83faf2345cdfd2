# SPDX-License-Identifier: Apache-2.0
"""Who uses a serial port, as Linux tells."""

from __future__ import annotations

import os
from pathlib import Path


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return " ".join(word.decode(errors="replace") for word in words if word)[:120]


def _lock_owner(device: str) -> int | None:
    """Process that holds a flock on the device, from /proc/locks (columns: ... pid major:minor:inode ...)."""
    try:
        inode = os.stat(device).st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    number = os.stat(device).st_dev
    wanted = f"{os.major(number):02x}:{os.minor(number):02x}:{inode}"
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == wanted and int(fields[4]) > 0:
            return int(fields[4])
    return None


def _openers(device: str) -> list[int]:
    """Processes that have the device open, this one apart, as far as permissions allow to see."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        pid = int(folder.parent.name)
        if pid == os.getpid():
            continue
        try:
            if any(os.readlink(entry) == device for entry in folder.iterdir()):
                found.append(pid)
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return found


def port_holder(port: str) -> str:
    """The process that holds the port, for an error message; "another process" if not found."""
    device = os.path.realpath(port)
    owner = _lock_owner(device)
    if owner == os.getpid():
        return "this process itself"
    pids = [owner] if owner is not None else _openers(device)
    if not pids:
        return "another process"
    return ", ".join(f"process {pid} ({_command(pid) or 'name unknown'})" for pid in pids)
