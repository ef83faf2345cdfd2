# SPDX-License-Identifier: Apache-2.0
"""Supervision with real processes: deaths are seen, restarts back off, the arm stops after its commanders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chefmate.errors import WorkspaceError
from chefmate.graph import Node
from chefmate.supervisor import Supervisor

SCRIPT = """\
#!{python}
import os, signal, sys, time
name = next(text.split(":=")[1] for text in sys.argv if text.startswith("__node:="))
journal = os.environ["JOURNAL"]
def note(what):
    with open(journal, "a") as file:
        file.write(f"{{what}} {{name}} {{os.getpid()}}\\n")
def stop(*_):
    note("stopped")
    sys.exit(0)
if "{exe}" == "parking":
    signal.signal(signal.SIGINT, lambda *_: note("parks"))
    signal.signal(signal.SIGTERM, stop)
else:
    signal.signal(signal.SIGINT, stop)
note("started")
time.sleep({life})
print("[ERROR] [{exe}]: planned death", flush=True)
sys.exit({code})
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A real ament package `fake` with executables `lasting` and `dying`; returns what they wrote down."""
    prefix = tmp_path / "prefix"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "fake").touch()
    (prefix / "lib" / "fake").mkdir(parents=True)
    for exe, life, code in (("lasting", 60, 0), ("dying", 0.05, 3), ("parking", 60, 0)):
        path = prefix / "lib" / "fake" / exe
        path.write_text(SCRIPT.format(python=sys.executable, life=life, code=code, exe=exe))
        path.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}")
    file = tmp_path / "journal"
    file.touch()
    monkeypatch.setenv("JOURNAL", str(file))
    return lambda: file.read_text().splitlines()


def fake(name: str, executable: str = "lasting", **options: object) -> Node:
    return Node(name, executable, package="fake", **options)  # type: ignore[arg-type]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> Callable[[], bool]:
    """The condition; fails the test when it does not come true in time."""
    deadline = time.monotonic() + seconds

    def check() -> bool:
        assert time.monotonic() < deadline, "took too long"
        return condition()

    return check


def test_death_of_a_required_node_ends_the_graph_and_shows_its_error(
    journal: Callable[[], list[str]], tmp_path: Path
) -> None:
    supervisor = Supervisor(
        [fake("policy", "dying", required=True), fake("other")], lambda line: None, tmp_path
    )
    supervisor.start()
    assert not supervisor.run()
    supervisor.stop()
    assert "policy ended (exit code 3)" in supervisor.failure
    assert "planned death" in supervisor.failure


def test_other_nodes_start_again_with_growing_delay(journal: Callable[[], list[str]]) -> None:
    lines: list[str] = []
    supervisor = Supervisor([fake("camera", "dying", respawn=True)], lines.append)
    supervisor.start()
    supervisor.run(until(lambda: len(journal()) >= 3))
    supervisor.stop()
    assert "starts again in 0.5 s" in lines[0]
    assert "starts again in 1 s" in lines[1]


def test_killed_camera_is_named_by_its_signal_and_starts_again(journal: Callable[[], list[str]]) -> None:
    lines: list[str] = []
    supervisor = Supervisor([fake("camera", respawn=True)], lines.append)
    supervisor.start()
    supervisor.run(until(lambda: len(journal()) == 1))
    os.kill(int(journal()[0].split()[2]), signal.SIGKILL)
    assert supervisor.run(until(lambda: len(journal()) == 2))
    supervisor.stop()
    assert "killed by SIGKILL" in lines[0]


@pytest.mark.parametrize("respawn", [True, False])
def test_a_death_that_the_graph_went_on_without_is_no_failure_of_its_end(
    journal: Callable[[], list[str]], respawn: bool
) -> None:
    lines: list[str] = []
    supervisor = Supervisor([fake("camera", respawn=respawn), fake("arm", required=True)], lines.append)
    supervisor.start()
    supervisor.run(until(lambda: len(journal()) == 2))
    camera = supervisor.child("camera")
    assert camera is not None and camera.process is not None
    camera.process.kill()
    assert supervisor.run(until(lambda: bool(lines))), "seen, and in its backoff if it is to start again"
    assert supervisor.stop() == {"arm": 0}
    assert not supervisor.failure


def test_a_death_that_only_the_end_sees_is_said(journal: Callable[[], list[str]]) -> None:
    lines: list[str] = []
    supervisor = Supervisor([fake("camera", respawn=True), fake("arm", required=True)], lines.append)
    supervisor.start()
    supervisor.run(until(lambda: len(journal()) == 2))
    for child in supervisor.children:
        assert child.process is not None
        child.process.kill()
        child.process.wait()
    assert supervisor.stop() == {"arm": -signal.SIGKILL}, "a required node's death is no end in order"
    assert lines == ["camera ended (killed by SIGKILL)"]


def test_the_first_death_of_a_required_node_is_the_failure(journal: Callable[[], list[str]]) -> None:
    supervisor = Supervisor([fake(name, required=True) for name in ("kitchen", "arm")], lambda _: None)
    supervisor.start()
    supervisor.run(until(lambda: len(journal()) == 2))
    for child in supervisor.children:
        assert child.process is not None
        child.process.kill()
        child.process.wait()
        assert not supervisor.poll()
    supervisor.stop()
    assert supervisor.failure.startswith("kitchen ended")


def test_arm_is_stopped_after_its_commanders_and_the_twin_last(journal: Callable[[], list[str]]) -> None:
    nodes = [fake("kitchen", stop_order=2), fake("arm", stop_order=1), fake("policy"), fake("sequencer")]
    supervisor = Supervisor(nodes, lambda line: None)
    supervisor.start()
    supervisor.run(until(lambda: len(journal()) == 4))
    codes = supervisor.stop()
    stopped = [line.split()[1] for line in journal() if line.startswith("stopped")]
    assert set(stopped[:2]) == {"policy", "sequencer"}
    assert stopped[2:] == ["arm", "kitchen"]
    assert codes == {"kitchen": 0, "arm": 0, "policy": 0, "sequencer": 0}


def test_killed_supervisor_leaves_no_process(journal: Callable[[], list[str]]) -> None:
    program = textwrap.dedent(
        """
        from chefmate.graph import Node
        from chefmate.supervisor import Supervisor
        supervisor = Supervisor([Node("arm", "lasting", package="fake")], print)
        supervisor.start()
        supervisor.run()
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    check = until(lambda: len(journal()) == 1)
    while not check():
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    check = until(lambda: any(line.startswith("stopped arm") for line in journal()))
    while not check():
        time.sleep(0.02)


def test_missing_executable_says_what_to_run() -> None:
    with pytest.raises(WorkspaceError, match="make setup"):
        Supervisor([Node("arm", "no_such_node")], lambda line: None)


def test_a_node_of_a_ros_install_is_left_out_unless_it_was_asked_for() -> None:
    absent = Node("rviz2", "rviz2", package="absent_rviz2", ros_only=True)
    assert Supervisor([absent], lambda line: None).children == []
    with pytest.raises(WorkspaceError, match=r"rviz:=true needs .* apt install ros-\w+-absent-rviz2"):
        Supervisor([replace(absent, asked_for="rviz:=true")], lambda line: None)


def test_restarted_node_gets_its_restart_parameters(journal: Callable[[], list[str]]) -> None:
    node = fake("sequencer", respawn=True, parameters={"recipe": "x"}, restart_parameters={"recipe": ""})
    supervisor = Supervisor([node], lambda line: None)
    (child,) = supervisor.children
    file = Path(child.command[child.command.index("--params-file") + 1])
    supervisor.start()
    supervisor.run(until(lambda: len(journal()) == 1))
    assert "recipe: x" in file.read_text()
    os.kill(int(journal()[0].split()[2]), signal.SIGKILL)
    supervisor.run(until(lambda: len(journal()) == 2))
    assert "recipe: ''" in file.read_text()
    supervisor.stop()


def test_a_second_wish_reaches_a_process_that_takes_its_time(
    journal: Callable[[], list[str]], tmp_path: Path
) -> None:
    supervisor = Supervisor([fake("arm", "parking", patience=20.0)], lambda line: None, tmp_path)
    supervisor.start()
    assert supervisor.run(until=until(lambda: any(line.startswith("started") for line in journal())))
    codes = supervisor.stop(hurry=lambda: any(line.startswith("parks") for line in journal()))
    assert codes == {"arm": 0}
    assert [line.split()[0] for line in journal()] == ["started", "parks", "stopped"]


def test_a_process_is_killed_after_its_own_patience(journal: Callable[[], list[str]], tmp_path: Path) -> None:
    lines: list[str] = []
    supervisor = Supervisor([fake("arm", "parking", patience=0.3)], lines.append, tmp_path)
    supervisor.start()
    assert supervisor.run(until=until(lambda: any(line.startswith("started") for line in journal())))
    assert supervisor.stop() == {"arm": -signal.SIGKILL}
    assert "arm did not stop within 0.3 s and was killed" in lines


def test_others_go_before_a_node_whose_lateness_harms_nobody(journal: Callable[[], list[str]]) -> None:
    nodes = [
        Node(name, "lasting", package="fake", niceness=nice) for name, nice in (("soon", 0), ("late", 5))
    ]
    supervisor = Supervisor(nodes, lambda _: None)
    supervisor.start()
    try:
        assert supervisor.run(lambda: len(journal()) == 2)
        pids = {line.split()[1]: int(line.split()[2]) for line in journal()}
        here = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, pids["soon"]) == here
        assert os.getpriority(os.PRIO_PROCESS, pids["late"]) == min(19, here + 5)
    finally:
        supervisor.stop()
