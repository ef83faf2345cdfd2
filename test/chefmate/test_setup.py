# SPDX-License-Identifier: Apache-2.0
"""env.sh and bootstrap.py: the shell that users get, and what a set-up finds missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
