# SPDX-License-Identifier: Apache-2.0
"""Serial ports as Linux knows them: who uses one, and under which name it is found again."""

from __future__ import annotations

import os
from pathlib import Path

BY_ID = Path("/dev/serial/by-id")  # udev's links, named by adapter and serial number


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
    """The process that holds the port, for an error message; else how to find it."""
    device = os.path.realpath(port)
    owner = _lock_owner(device)
    if owner == os.getpid():
        return "this process itself"
    pids = [owner] if owner is not None else _openers(device)
    if not pids:
        return f"another process (of another user: sudo fuser -v {device} names it)"
    return ", ".join(f"process {pid} ({_command(pid) or 'name unknown'})" for pid in pids)


def stable_name(port: str, folder: Path = BY_ID) -> str:
    """The name in `folder` that leads to the same device, or `port` itself if there is none.

    After unplugging, the kernel may give the same adapter another number; udev's name for it stays. A port
    under a name of its own (a udev rule's, the twin's) keeps that.
    """
    if not port.startswith("/dev/tty") or not folder.is_dir():
        return port
    device = os.path.realpath(port)
    names = sorted(str(link) for link in folder.iterdir() if os.path.realpath(link) == device)
    return names[0] if names else port
