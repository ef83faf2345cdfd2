# SPDX-License-Identifier: Apache-2.0
"""env.sh and bootstrap.py: the shell that users get, and what a set-up finds missing."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import venv
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
APT_MODULES = {"opencv": "cv2"}  # module of rosdep's python3-NAME, where they differ
# Twice, as people do; then the options that the shell was started with, and whether the command is there.
SHELL = '. ./env.sh; . ./env.sh; echo "options=$-"; set | grep -c "^_chefmate" || true; command -v chefmate'


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize("options", ["", "-e", "-u", "-eu"])
def test_the_environment_is_sourced_under_strict_options_which_stay(shell: str, options: str) -> None:
    plain = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/"}
    done = subprocess.run(
        [shell, *options.split(), "-c", SHELL],
        cwd=ROOT,
        env=plain,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    kept, left, command = done.stdout.splitlines()
    assert {letter for letter in "eu" if letter in kept.partition("=")[2]} == set(options.lstrip("-"))
    assert left == "0", "no variable of its own is left"
    assert command.endswith("/bin/chefmate")


def test_the_environment_says_what_to_do_where_nothing_is_set_up(tmp_path: Path) -> None:
    shutil.copy(ROOT / "env.sh", tmp_path)
    done = subprocess.run(
        ["bash", "-eu", "-c", f". {tmp_path}/env.sh; echo went on"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "went on" not in done.stdout
    assert f"make -C {tmp_path} setup" in done.stderr


@pytest.fixture(scope="module")
def bootstrap() -> Any:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_a_sourced_ros_does_not_bring_is_found_missing(
    bootstrap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "bare")
    bare = tmp_path / "bare" / "bin" / "python"
    wanted = [line for line in bootstrap.python_packages() if not line.startswith("setuptools")]
    lacking = bootstrap.absent(bare, wanted)
    assert list(lacking) == wanted
    assert lacking["pyserial>=3.5,<4"].startswith("serial: ModuleNotFoundError")
    (tmp_path / "setuptools").mkdir()
    (tmp_path / "setuptools" / "__init__.py").write_text("__version__ = '80.9.0'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "version 80.9.0" in bootstrap.absent(bare, ["setuptools==79.0.1"])["setuptools==79.0.1"]


def test_what_this_environment_has_is_not_found_missing(bootstrap: Any) -> None:
    assert bootstrap.absent(Path(sys.executable), bootstrap.python_packages()) == {}


def test_what_rosdep_would_bring_is_looked_for(bootstrap: Any) -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    kinds = ("depend", "exec_depend", "test_depend")
    keys = {item.text or "" for kind in kinds for item in package.iter(kind)}
    names = {key.removeprefix("python3-") for key in keys if key.startswith("python3-")} - {"numpy"}
    modules = {APT_MODULES.get(name, name.replace("-", "_")) for name in names}
    looked_for = {module for line in bootstrap.python_packages() for module in bootstrap.modules_of(line)}
    assert modules < looked_for
    assert {"colcon_core", "colcon_ros"} < looked_for


def test_missing_ros_packages_are_installed_or_named_with_their_command(
    bootstrap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for name in set(bootstrap.ros_packages()) - {"diagnostic_msgs", "rviz2"}:
        (index / name).touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    needed = bootstrap.missing_system_packages("jazzy")
    assert [name for name in needed if name.startswith("ros-")] == ["ros-jazzy-diagnostic-msgs"]
    bootstrap.say_what_goes_without("jazzy")
    said = capsys.readouterr().out
    assert "rviz:=true" in said and "apt-get install -y ros-jazzy-rviz2" in said
    assert set(bootstrap.OPTIONAL_ROS) < set(bootstrap.ros_packages())
