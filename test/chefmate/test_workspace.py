# SPDX-License-Identifier: Apache-2.0
"""The workspace: both packages are found by colcon, and the dependency lists say what the code imports."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = {"chefmate", "chefmate_driver", "chefmate_policy", "chefmate_ros"}
# import name -> rosdep key in package.xml, where they differ
ROSDEP = {
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "jinja2": "python3-jinja2",
    "matplotlib": "python3-matplotlib",
    "msgpack": "python3-msgpack",
    "serial": "python3-serial",
    "yaml": "python3-yaml",
    "zmq": "python3-zmq",
    "scipy": "python3-scipy",
    "pytest": "python3-pytest",
    "hypothesis": "python3-hypothesis",
}
# what package.xml names though no module imports it: executables, plugins and what the build needs
NOT_IMPORTED = {
    "chefmate_msgs",
    "python3-pytest-timeout",
    "rmw_fastrtps_cpp",
    "robot_state_publisher",
    "ros2launch",
    "rviz2",
}
TOOLS = {"mypy", "pytest_rerunfailures", "pytest_xdist", "ruff"}
THROUGH_OTHERS = {"tensorboard"}  # torch.utils.tensorboard imports it
ON_A_GPU = {"bitsandbytes"}  # asked for by `optimizer: adamw-8bit` alone, which says how to install it


def imports() -> set[str]:
    """Top-level names of everything that is not ours and not Python's own."""
    found: set[str] = set()
    files = [file for folder in (*sorted(OURS), "launch", "test") for file in (ROOT / folder).rglob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    local = {file.stem for file in (ROOT / "test").rglob("*.py")} | {
        folder.name for folder in (ROOT / "test").iterdir()
    }
    return found - OURS - set(sys.stdlib_module_names) - local - {"test"}


def test_dependency_lists_are_disjoint_and_equal_to_the_imports() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    rosdep = {
        element.text
        for kind in ("depend", "exec_depend", "test_depend")
        for element in package.iter(kind)
        if element.text
    }
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pip = {re.split(r"[<>=\[ ]", line)[0].replace("-", "_") for line in lines if line}
    assert not rosdep & pip
    needed = {ROSDEP.get(name, name) for name in imports()}
    assert needed - NOT_IMPORTED - ON_A_GPU == (rosdep - NOT_IMPORTED) | (pip - TOOLS - THROUGH_OTHERS)


def test_imports_point_one_way() -> None:
    for package, forbidden in (
        ("chefmate_driver", {"chefmate", "chefmate_policy"}),
        ("chefmate_policy", {"chefmate", "chefmate_driver"}),
        ("chefmate_ros", {"chefmate", "chefmate_driver", "chefmate_policy"}),
    ):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                assert not {name.split(".")[0] for name in names} & forbidden, file


def test_colcon_finds_both_packages_with_their_build_types() -> None:
    """An invalid maintainer address, for one, silently demotes a package to plain Python."""
    listed = subprocess.run(
        [sys.executable, "-m", "colcon", "list"] if not shutil.which("colcon") else ["colcon", "list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    kinds = {line.split("\t")[0]: line.split("\t")[-1] for line in listed if line}
    assert kinds == {"chefmate": "(ros.ament_python)", "chefmate_msgs": "(ros.ament_cmake)"}


def test_every_interface_field_says_its_unit_or_meaning() -> None:
    for file in (ROOT / "chefmate_msgs").rglob("*"):
        if file.suffix not in (".msg", ".srv", ".action"):
            continue
        lines = file.read_text().splitlines()
        assert lines[0].startswith("# "), file
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#") or text == "---" or "=" in text.split("#")[0]:
                continue
            assert "#" in text, f"{file.name}: {text}"
