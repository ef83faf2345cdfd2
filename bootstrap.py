# SPDX-License-Identifier: Apache-2.0
"""Prepares everything that ChefMate runs on, from nothing; called by `make setup`. Standard library only.

Checks the machine before it downloads anything, installs missing system packages through apt where it may
(else prints the command), makes the virtual environment `.venv`, puts ROS 2 Jazzy into it as wheels unless a
ROS 2 is sourced, and builds `chefmate_msgs` and `chefmate` with colcon. Doing it again does only what
changed.

On a sourced ROS 2 nobody may have called rosdep: each package and Python module that package.xml names is
looked for, and what is missing is installed, through apt or into `.venv`, or named with the command that
installs it.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
SUPPORTED_PYTHON = ((3, 10), (3, 13))
SUPPORTED_ROS = ("jazzy", "kilted", "lyrical", "rolling")
# The wheels' exported CMake files name the Python of the machine that built them.
BUILD_MACHINE_PYTHON = re.compile(
    r"/opt/python/cp3\d+-cp3\d+/(include/python3\.\d+|lib/python3\.\d+/site-packages)"
)

# Python modules of wheels.txt's lines where they are not called like the package.
MODULES = {
    "colcon-common-extensions": ("colcon_core", "colcon_cmake", "colcon_defaults", "colcon_python_setup_py"),
    "opencv-python-headless": ("cv2",),
    "pyserial": ("serial",),
    "PyYAML": ("yaml",),
    "pyzmq": ("zmq",),
}
SETUPTOOLS_TOO_NEW = 80  # from here on colcon's `develop` does not build
# Said when a sourced ROS 2 lacks them; everything but what stands behind them works.
OPTIONAL_ROS = {
    "control_msgs": "the action follow_joint_trajectory",
    "cv_bridge": "image encodings beside rgb8, bgr8 and mono8",
    "launch": "ros2 launch (`chefmate up` starts the same)",
    "launch_ros": "ros2 launch (`chefmate up` starts the same)",
    "ros2launch": "ros2 launch (`chefmate up` starts the same)",
    "robot_state_publisher": "/tf of the arm",
    "rviz2": "rviz:=true",
}


def fail(message: str) -> None:
    """Ends the set-up with one message that says what to do."""
    sys.exit(f"setup: {message}")


def sourced_ros() -> str:
    """Name of the ROS 2 distribution that the calling shell has sourced, or "" for none."""
    distro = os.environ.get("ROS_DISTRO", "")
    if not distro or shutil.which("ros2") is None:
        return ""
    if distro not in SUPPORTED_ROS:
        fail(f"ROS 2 {distro} is sourced, ChefMate needs Jazzy or newer; source that, or none.")
    return distro


def check_platform(ros: str) -> None:
    """Stops early on a machine for which no wheels exist."""
    low, high = SUPPORTED_PYTHON
    if not low <= sys.version_info[:2] <= high:
        fail(
            f"{sys.executable} is Python {platform.python_version()}; ROS 2 wheels exist for "
            f"{low[0]}.{low[1]} to {high[0]}.{high[1]}. Call `make setup PYTHON=/path/to/python3.12`."
        )
    if not ros and (platform.machine() != "x86_64" or sys.platform != "linux"):
        fail(f"no ROS 2 wheels exist for {sys.platform} on {platform.machine()}; source a ROS 2 Jazzy first.")
    if ros:
        attempt = subprocess.run([sys.executable, "-c", "import rclpy"], capture_output=True, text=True)
        if attempt.returncode:
            fail(
                f"{sys.executable} cannot import rclpy of the sourced ROS 2 {ros}"
                f" ({last_line(attempt.stderr)}). Call `make setup PYTHON=/usr/bin/python3`, or whichever"
                f" Python it was built for; where there is no rclpy: sudo apt-get install -y ros-{ros}-rclpy"
            )


def ros_packages() -> list[str]:
    """ROS packages that the two package.xml name, sorted; what is ours or Python's left out."""
    kinds = ("depend", "exec_depend", "buildtool_depend")
    roots = [ElementTree.parse(ROOT / folder / "package.xml").getroot() for folder in ("", "chefmate_msgs")]
    named = {item.text or "" for root in roots for kind in kinds for item in root.iter(kind)}
    return sorted(name for name in named - {"chefmate_msgs"} if not name.startswith("python3-"))


def missing_ros_packages() -> list[str]:
    """Those of `ros_packages` that the sourced ROS 2 does not have, by its ament index."""
    indices = [
        Path(prefix, "share", "ament_index", "resource_index", "packages")
        for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
        if prefix
    ]
    return [name for name in ros_packages() if not any((index / name).exists() for index in indices)]


def debian_names(ros: str, packages: Iterable[str]) -> list[str]:
    """Debian packages of ROS packages."""
    return [f"ros-{ros}-{name.replace('_', '-')}" for name in packages]


def say_what_goes_without(ros: str) -> None:
    """Names what the graph does without on this ROS 2, and the command that brings it."""
    missing = [name for name in missing_ros_packages() if name in OPTIONAL_ROS]
    if missing:
        without = sorted({OPTIONAL_ROS[name] for name in missing})
        step(f"ROS 2 {ros} lacks {', '.join(missing)}; without: {'; '.join(without)}.")
        step(f"to have it: sudo apt-get install -y {' '.join(debian_names(ros, missing))}")


def missing_system_packages(ros: str) -> list[str]:
    """Debian packages that this machine lacks, by looking for what they bring."""
    missing = []
    if ros:
        needed = [name for name in missing_ros_packages() if name not in OPTIONAL_ROS]
        missing += debian_names(ros, needed)
    if not (shutil.which("g++") and shutil.which("make")):
        missing.append("build-essential")
    if not shutil.which("cmake"):
        missing.append("cmake")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing.append("python3-dev")
    if subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True).returncode:
        missing.append("python3-venv")
    if not ctypes.util.find_library("OSMesa"):
        libraries = {"libegl1": "EGL", "libopengl0": "OpenGL"}
        missing += [package for package, name in libraries.items() if not ctypes.util.find_library(name)]
        # Mesa's software renderer; a machine with a GPU driver of its own has another EGL vendor and needs
        # none.
        if not any(Path("/usr/lib").glob("*/dri/*_dri.so")) and not other_egl_vendors():
            missing.append("libgl1-mesa-dri")
    return missing


def other_egl_vendors() -> list[Path]:
    """EGL drivers beside Mesa's, as libglvnd finds them."""
    folders = (Path("/usr/share/glvnd/egl_vendor.d"), Path("/etc/glvnd/egl_vendor.d"))
    return [file for folder in folders for file in folder.glob("*.json") if "mesa" not in file.name]


def install_system_packages(packages: list[str], ros: str) -> None:
    """Installs through apt as root or by passwordless sudo, else prints the command and stops."""
    if not packages:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    prefix: list[str] | None = [] if os.geteuid() == 0 else None
    if prefix is None and shutil.which("sudo"):
        if subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
            prefix = ["sudo", "-n"]
    if prefix is None or not shutil.which("apt-get"):
        fail(f"system packages are missing. Run: sudo {' '.join(command)}")
        return
    step(f"apt: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*prefix, "apt-get", "update", "-q"], stdout=subprocess.DEVNULL, env=environment)
    if subprocess.run([*prefix, *command, "-q"], stdout=subprocess.DEVNULL, env=environment).returncode:
        fail(f"apt could not install them. Run: sudo {' '.join(command)}")
    left = missing_system_packages(ros)
    if left:
        fail(
            f"apt installed {' '.join(packages)}, but {sys.executable} still does not find {' '.join(left)}"
            + (f" (in AMENT_PREFIX_PATH={os.environ.get('AMENT_PREFIX_PATH', '')})." if ros else ".")
        )


def step(text: str) -> None:
    """One progress line."""
    print(f"setup: {text}", flush=True)


def run(command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
    """Runs a command with its output in a log file; shows the end of it on failure."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        code = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
        ).returncode
    if code:
        lines = log.read_text(errors="replace").splitlines()
        tail = [line for line in lines if "is ignored: it is neither" not in line][-25:]
        fail("\n  ".join([f"`{' '.join(command[:6])} ...` failed, the whole output is in {log}:", *tail]))


def digest(*parts: str | Path) -> str:
    """Hash of texts and of files (name and content)."""
    value = hashlib.sha256()
    for part in parts:
        value.update(str(part).encode())
        if isinstance(part, Path):
            value.update(part.read_bytes())
    return value.hexdigest()


def done(name: str, key: str) -> bool:
    """True when the step was completed for the same inputs."""
    stamp = VENV / f".chefmate-{name}"
    return stamp.exists() and stamp.read_text() == key


def mark(name: str, key: str) -> None:
    """Remembers that the step was completed for these inputs."""
    (VENV / f".chefmate-{name}").write_text(key)


def last_line(text: str) -> str:
    """Where a command usually says what is wrong."""
    return (text.strip().splitlines() or ["no message"])[-1]


def python_packages() -> list[str]:
    """Lines of wheels.txt that are no ROS: what rosdep would bring, and colcon. numpy apart, which a sourced
    ROS 2 wants in a version of its own."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "wheels.txt").read_text().splitlines()]
    return [line for line in lines if line and not line.startswith(("ros-", "numpy"))]


def modules_of(requirement: str) -> tuple[str, ...]:
    """Python modules that a line of wheels.txt brings."""
    name = re.split(r"[<>=\[; ]", requirement)[0]
    return MODULES.get(name, (name.lower().replace("-", "_"),))


def absent(python: Path, requirements: Iterable[str]) -> dict[str, str]:
    """Requirements whose modules this Python cannot import, each with the reason."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        module = importlib.import_module(name)\n"
        "        version = getattr(module, '__version__', '0')\n"
        f"        if name == 'setuptools' and int(version.split('.')[0]) >= {SETUPTOOLS_TOO_NEW}:\n"
        "            raise ImportError('version ' + version)\n"
        "    except Exception as error:\n"
        "        print(name, type(error).__name__, *str(error).split())\n"
    )
    wanted = {module: line for line in requirements for module in modules_of(line)}
    looked = subprocess.run([python, "-c", program, *wanted], capture_output=True, text=True)
    if looked.returncode:
        fail(f"{python} cannot be asked for its packages: {last_line(looked.stderr)}")
    said = [line.partition(" ") for line in looked.stdout.splitlines()]
    return {wanted[module]: f"{module}: {why}" for module, _, why in said if module in wanted}


def dpkg_state() -> str:
    """Changes with each package that apt installs or removes."""
    status = Path("/var/lib/dpkg/status")
    return str(status.stat().st_mtime_ns) if status.exists() else ""


def make_environment(ros: str) -> None:
    """The virtual environment and what pip puts into it."""
    key = digest(
        ros,
        str(ROOT),
        platform.python_version(),
        ROOT / "requirements.txt",
        ROOT / "wheels.txt",
        Path(__file__),
        dpkg_state() if ros else "",
    )
    if PYTHON.exists() and done("packages", key):
        return
    step(
        f"virtual environment in {VENV.name}"
        + (f", on top of ROS 2 {ros}" if ros else ", with ROS 2 Jazzy from PyPI")
    )
    # Another ROS, Python or folder makes another environment; other requirements only add to it.
    base = digest(ros, str(ROOT), platform.python_version())
    options = (["--system-site-packages"] if ros else []) + ([] if done("base", base) else ["--clear"])
    create = subprocess.run(
        [sys.executable, "-m", "venv", *options, str(VENV)], capture_output=True, text=True
    )
    if create.returncode:
        fail(f"the virtual environment cannot be made:\n{create.stdout}{create.stderr}")
    mark("base", base)
    wanted = ["-r", "requirements.txt", "-r", "wheels.txt"]
    if ros:
        lacking = absent(PYTHON, python_packages())
        if lacking:
            step(f"ROS 2 {ros} does not bring, so pip does: {', '.join(lacking)}")
        # A sourced Jazzy brings cv_bridge, built against numpy 1.
        wanted = ["-r", "requirements.txt", "numpy<2", *lacking]
    plain = {**os.environ, "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    run(
        [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *wanted], VENV / "pip.log", plain
    )
    if ros and (left := absent(PYTHON, python_packages())):
        fail(
            "pip could not bring what imports: "
            + "; ".join(f"{line} ({why})" for line, why in left.items())
            + f". Run: {PYTHON} -m pip install --force-reinstall {' '.join(map(repr, left))}"
        )
    if ros:
        say_what_goes_without(ros)
    mark("packages", key)


def mend_wheels() -> None:
    """Points the wheels' CMake files and this shell's library path to this environment.

    The result is `.venv/ros_wheels.sh`; sourcing it spares each Python process the wheels' own re-execution.
    """
    paths = {
        "include": subprocess.check_output(
            [PYTHON, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"], text=True
        ).strip(),
        "lib": str(site_packages()),
    }
    for file in (VENV / "share").rglob("*.cmake"):
        text = file.read_text(errors="surrogateescape")
        mended = BUILD_MACHINE_PYTHON.sub(lambda found: paths[found[1].split("/")[0]], text)
        if mended != text:
            file.write_text(mended, errors="surrogateescape")
    folders = [VENV / "lib", *sorted(site_packages().glob("ros_*.libs"))]
    (VENV / "ros_wheels.sh").write_text(
        "# written by bootstrap.py: the virtual environment as a ROS prefix\n"
        f'export AMENT_PREFIX_PATH="{VENV}"\n'
        f'export CMAKE_PREFIX_PATH="{VENV}"\n'
        f'export LD_LIBRARY_PATH="{":".join(map(str, folders))}"\n'
        "export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1 ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3\n"
    )


def check_rendering() -> None:
    """Renders one tiny picture, so that a missing driver is named here and not by the first camera."""
    key = digest(str(ROOT), platform.python_version())
    if done("rendering", key):
        return
    program = "import mujoco; mujoco.GLContext(32, 32).make_current()"
    backends = [os.environ["MUJOCO_GL"]] if os.environ.get("MUJOCO_GL") else ["egl", "osmesa"]
    said = ""
    for backend in backends:
        environment = {**os.environ, "MUJOCO_GL": backend, "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
        attempt = subprocess.run([PYTHON, "-c", program], env=environment, capture_output=True, text=True)
        if attempt.returncode == 0:
            mark("rendering", key)
            return
        said += f"\n  {backend}: {last_line(attempt.stderr)}"
    fail(
        "the twin's cameras cannot render on this machine. Run: sudo apt-get install -y libegl1 libopengl0 "
        f"libgl1-mesa-dri (or libosmesa6 and export MUJOCO_GL=osmesa). What MuJoCo said:{said}"
    )


def site_packages() -> Path:
    """Folder of the environment's Python packages."""
    return next((VENV / "lib").glob("python3.*/site-packages"))


def build(ros: str) -> None:
    """colcon build of both packages, only when what it reads has changed."""
    if not (ROOT / "chefmate_msgs" / "package.xml").exists():
        fail(
            "chefmate_msgs/ is missing. In a bigger workspace, build both: "
            "colcon build --base-paths src/chefmate src/chefmate/chefmate_msgs"
        )
    interfaces = [file for file in sorted((ROOT / "chefmate_msgs").rglob("*")) if file.is_file()]
    build_files = [ROOT / name for name in ("package.xml", "setup.py", "setup.cfg", "colcon_defaults.yaml")]
    # Python modules and data files are links into this folder, so only their names matter.
    names = sorted(
        str(file.relative_to(ROOT))
        for folder in (
            "launch",
            "config",
            "policies",
            "chefmate",
            "chefmate_driver",
            "chefmate_policy",
            "chefmate_ros",
        )
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    )
    key = digest(ros, str(ROOT), *names, *interfaces, *build_files)
    if (ROOT / "install" / "local_setup.sh").exists() and done("build", key):
        return
    step("colcon build: chefmate_msgs, chefmate")
    script = (
        (f'. "{VENV}/ros_wheels.sh"; ' if not ros else "")
        + f'. "{VENV}/bin/activate"; exec python -m colcon build --symlink-install'
        + f' --cmake-args -DPython3_EXECUTABLE="{PYTHON}"'
    )
    environment = {name: value for name, value in os.environ.items() if ros or name != "PYTHONPATH"}
    run(["/bin/sh", "-c", script], VENV / "colcon.log", environment)
    mark("build", key)


def main() -> None:
    """The whole set-up."""
    started = time.monotonic()
    ros = sourced_ros()
    check_platform(ros)
    install_system_packages(missing_system_packages(ros), ros)
    make_environment(ros)
    check_rendering()
    if not ros:
        mend_wheels()
    build(ros)
    step(f"ready in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
