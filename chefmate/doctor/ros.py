# SPDX-License-Identifier: Apache-2.0
"""ROS 2 on this machine: workspace, environment, shared memory, and whether frames get lost."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chefmate.doctor import frames
from chefmate.doctor.finding import Finding, Machine, error, info, ok, warning
from chefmate.errors import WorkspaceError
from chefmate.workspace import share_folder

RMW = "rmw_fastrtps_cpp"
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
MAX_DOMAIN = 101  # beyond it, ports collide with Linux's ephemeral range
# bytes: a segment of config/fastdds.xml for each of two cameras, and one of 0.55 MB for each other process
SEGMENTS = 2 * 17_564_192 + 12 * 549_408
SEGMENT = re.compile(r"fastrtps_[0-9a-z]{16}")
MUCH = 256e6  # bytes of segments that nobody uses, from which on they are worth a warning
WHOLE, BROKEN = 0.99, 0.9  # share of frames that arrive


def check_workspace(machine: Machine) -> Iterator[Finding]:
    """The package is built and sourced."""
    try:
        yield ok("workspace", f"built and sourced: {share_folder()}")
    except WorkspaceError as problem:
        what, _, mend = str(problem).partition(". ")
        yield error("workspace", what, mend)


def check_environment(machine: Machine) -> Iterator[Finding]:
    """Variables that decide who hears whom, and how."""
    environment = machine.environment
    rmw = environment.get("RMW_IMPLEMENTATION") or RMW
    if rmw == RMW:
        yield ok("ros", f"ROS_DISTRO={environment.get('ROS_DISTRO', 'from PyPI')}, {RMW}")
    else:
        yield warning(
            "ros",
            f"RMW_IMPLEMENTATION={rmw}: the profile that keeps images whole is for {RMW}",
            "run: unset RMW_IMPLEMENTATION",
        )
    domain = environment.get("ROS_DOMAIN_ID") or "0"
    if not domain.isdigit() or int(domain) > MAX_DOMAIN:
        yield error(
            "ros",
            f"ROS_DOMAIN_ID={domain!r} is no number from 0 to {MAX_DOMAIN}",
            "run: export ROS_DOMAIN_ID=0",
        )
    else:
        yield ok("ros", f"ROS_DOMAIN_ID={domain}")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "SUBNET"
    if reach == "OFF":
        yield error(
            "ros",
            "ROS_AUTOMATIC_DISCOVERY_RANGE=OFF: nodes do not find each other",
            "run: unset ROS_AUTOMATIC_DISCOVERY_RANGE",
        )
    elif reach not in RANGES:
        yield warning(
            "ros",
            f"ROS_AUTOMATIC_DISCOVERY_RANGE={reach!r} is none of {', '.join(RANGES)}",
            "run: unset ROS_AUTOMATIC_DISCOVERY_RANGE",
        )
    if environment.get("ROS_LOCALHOST_ONLY") == "1":
        yield info("ros", "ROS_LOCALHOST_ONLY=1: nothing reaches other machines (a deprecated variable)")
    for name in PROFILES:
        if (path := environment.get(name)) and not Path(path).is_file():
            yield error("ros", f"{name}={path} is no file, so cameras lose frames", f"run: unset {name}")
    if prefix := environment.get("CONDA_PREFIX"):
        yield warning(
            "ros",
            f"conda is active ({prefix}): its libraries and ROS 2's may not go together",
            "run: conda deactivate",
        )


@dataclass(frozen=True)
class Segments:
    """Shared-memory segments of Fast DDS. bytes: of those that no process uses any more."""

    used: int
    left: tuple[Path, ...]
    bytes: int


def segments(shm: Path) -> Segments:
    """A living process holds the lock file beside its segment; what nobody locks was left by a killed one."""
    used, left, size = 0, [], 0
    for path in sorted(shm.iterdir()):
        if not SEGMENT.fullmatch(path.name):
            continue
        try:
            with path.with_name(f"{path.name}_el").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue  # comes or goes at this moment
        except OSError:
            used += 1  # locked; or somebody else's, who may use it
            continue
        left.append(path)
        size += path.stat().st_size if path.exists() else 0
    return Segments(used, tuple(left), size)


def check_shared_memory(machine: Machine) -> Iterator[Finding]:
    """Room in /dev/shm for the cameras' segments, and what killed processes left there."""
    shm = machine.shm
    if not shm.is_dir():
        yield error("shm", f"{shm} is missing: images go over UDP and get lost", "mount a tmpfs there")
        return
    found, usage = segments(shm), shutil.disk_usage(shm)
    text = f"{usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB free in {shm}, {found.used} segments in use"
    if usage.free < SEGMENTS:
        mend = "remove leftovers (below), or in a container: docker run --shm-size=256m"
        yield error("shm", f"{text}; two cameras need {SEGMENTS / 1e6:.0f} MB", mend)
    else:
        yield ok("shm", text)
    if found.left:
        left = (
            f"{len(found.left)} segments ({found.bytes / 1e6:.0f} MB) were left in {shm} by killed processes"
        )
        tight = found.bytes > MUCH or usage.free < SEGMENTS
        yield (warning if tight else info)("shm", left, _clean(shm))


def _clean(shm: Path) -> str:
    return (
        "run: fastdds shm clean" if shutil.which("fastdds") else f"with no node running: rm {shm}/fastrtps_*"
    )


def check_frames(machine: Machine) -> Iterator[Finding]:
    """Sends two cameras' images from one process to another for two seconds, and counts."""
    try:
        result = frames.measure()
    except frames.FramesError as problem:
        yield error("frames", str(problem), "see the other findings, then run: chefmate doctor")
        return
    share = result.received / result.sent
    text = f"{result.received} of {result.sent} frames (2 x 640x480 at 30 Hz) arrived in another process"
    profile = next((os.environ[name] for name in PROFILES if os.environ.get(name)), "")
    mend = (
        f"run: unset {' '.join(PROFILES)} (now {profile})"
        if profile
        else "stop what loads the machine; see shm"
    )
    if share >= WHOLE:
        yield ok("frames", text)
    else:
        yield (warning if share >= BROKEN else error)("frames", text, mend)
