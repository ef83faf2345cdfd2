# SPDX-License-Identifier: Apache-2.0
"""How a node's process ends: exit status, and nothing printed that looks like a crash."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

TINY = """
import sys
from rclpy.node import Node
from chefmate_ros.running import run

class Broken(Exception):
    pass

class Tiny(Node):
    def __init__(self):
        super().__init__("tiny")
        {constructor}

    def break_(self):
        raise Broken("the spring is broken")

    def close(self):
        print("closing", flush=True)
        {close}
        print("closed", flush=True)

def started(node):
    print("started", flush=True)
    {started}

sys.exit(run(Tiny, None, "tiny", (Broken,), started))
"""
CLOSE_SLOWLY = "import time; time.sleep(0.3)"


@pytest.fixture
def tiny(start_process: Callable[..., Any], tmp_path: Path, ros_domain: int) -> Callable[..., Any]:
    """Function (arguments; constructor, close, started: a line of code each) -> a node without timers, run by
    `run`."""

    def start(*arguments: str, constructor: str = "pass", close: str = "pass", started: str = "pass") -> Any:
        script = tmp_path / "tiny.py"
        script.write_text(TINY.format(constructor=constructor, close=close, started=started))
        return start_process(["python", str(script), *arguments])

    return start


def quiet(process: Any) -> bool:
    """Whether nothing on the output looks like a crash."""
    return not any(word in process.output for word in ("Traceback", "KeyboardInterrupt", "Exception", "race"))


def twice(process: Any, number: int = signal.SIGINT) -> int:
    """Exit status after two signals 5 ms apart, as a terminal and `ros2 launch` send them."""
    process.process.send_signal(number)
    time.sleep(0.005)
    return int(process.stop(number))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_an_idle_node_at_once(tiny: Any, number: int) -> None:
    process = tiny()
    process.until_output("started")
    before = time.monotonic()
    assert process.stop(number) == 0
    assert time.monotonic() - before < 2.0
    assert "closed" in process.output and quiet(process), process.output


def test_a_second_signal_does_not_cut_the_clean_up(tiny: Any) -> None:
    process = tiny(close=CLOSE_SLOWLY)
    process.until_output("started")
    assert twice(process) == 0
    assert "closed" in process.output and quiet(process), process.output


def test_signals_while_the_node_closes_and_the_interpreter_ends_do_nothing(tiny: Any) -> None:
    process = tiny(close=CLOSE_SLOWLY)
    process.until_output("started")
    process.process.send_signal(signal.SIGINT)
    process.until_output("closing")
    while process.process.poll() is None:  # until it is gone: the last ones meet threading's own end
        process.process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    assert process.wait() == 0
    assert "closed" in process.output and quiet(process), process.output


def test_a_signal_during_construction_waits_for_its_end(tiny: Any) -> None:
    process = tiny(
        constructor="import time; print('making', flush=True); time.sleep(0.3); print('made', flush=True)"
    )
    process.until_output("making")
    assert twice(process) == 0
    assert process.lines == ["making", "made", "closing", "closed"]


def test_a_signal_interrupts_a_long_start(tiny: Any) -> None:
    process = tiny(started="import time; time.sleep(60)")
    process.until_output("started")
    assert process.stop(signal.SIGINT, 5.0) == 0
    assert "closed" in process.output and quiet(process), process.output


@pytest.mark.parametrize(
    "place", [{"constructor": "self.break_()"}, {"constructor": "self.create_timer(0.01, self.break_)"}]
)
def test_an_error_of_the_family_is_one_line_and_status_1(tiny: Any, place: dict[str, str]) -> None:
    process = tiny(**place)
    assert process.wait() == 1
    assert [line for line in process.lines if "the spring is broken" in line and "[FATAL]" in line]
    assert [line for line in process.lines if line not in ("started", "closing", "closed")] == [
        line for line in process.lines if "[FATAL]" in line
    ]
    assert process.output.count("FATAL") == 1


@pytest.mark.parametrize(
    "declaration",
    [
        "self.declare_parameter('speed', 1.0)",
        "from rcl_interfaces.msg import IntegerRange as R, ParameterDescriptor as D;"
        "self.declare_parameter('speed', 1, D(integer_range=[R(from_value=0, to_value=5, step=1)]))",
    ],
    ids=["type", "range"],
)
def test_a_parameter_of_the_wrong_type_or_range_is_one_line_and_status_1(tiny: Any, declaration: str) -> None:
    process = tiny("--ros-args", "-p", "speed:=99", constructor=declaration)
    assert process.wait() == 1
    assert len(process.lines) == 1, process.output
    assert "[FATAL]" in process.lines[0] and "speed" in process.lines[0] and "99" in process.lines[0]


def test_another_error_is_not_hidden(tiny: Any) -> None:
    process = tiny(constructor="raise ValueError('not foreseen')")
    assert process.wait() == 1
    assert "ValueError: not foreseen" in process.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_ends_an_executable_quietly(
    start_process: Callable[..., Any], tmp_path: Path, number: int
) -> None:
    (tmp_path / "slow.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r}); from chefmate_ros.entry import enter; enter('slow')"
    )
    process = start_process(["python", "-c", code])
    process.until_output("importing")
    assert process.stop(number, 5.0) == 0
    assert process.lines == ["importing"]


def camera(folder: Path) -> list[str]:
    """Parameters of a camera that has a picture."""
    (folder / "pictures").mkdir()
    cv2.imwrite(str(folder / "pictures" / "0.png"), np.zeros((48, 64, 3), np.uint8))
    return [f"source:=folder:{folder / 'pictures'}", "width:=64", "height:=48", "loop:=true"]


def kitchen(folder: Path) -> list[str]:
    """Parameters of a twin of its own."""
    return [f"port:={folder / 'port'}", f"shared_memory:=test.{folder.name}"]


NODES: dict[str, tuple[str, Callable[[Path], list[str]], str]] = {
    "camera": ("chefmate_driver.executables", camera, "frames flow"),
    "kitchen": ("chefmate_driver.executables", kitchen, "runs: servos on"),
    "perception": ("chefmate_policy.executables", lambda folder: [], "zones and colours"),
    "sequencer": ("chefmate_policy.executables", lambda folder: [f"progress_file:={folder / 'p.json'}"], ""),
    "policy": ("chefmate_policy.executables", lambda folder: ["autostart:=false"], ""),
    "recorder": ("chefmate_policy.executables", lambda folder: [f"folder:={folder / 'bag'}"], "recording 1"),
}


WRONG = {  # a parameter of each node, of a type that it is not, and for some out of its range
    "arm": ("chefmate_driver.executables", "execute:=perhaps"),
    "camera": ("chefmate_driver.executables", "width:=wide"),
    "kitchen": ("chefmate_driver.executables", "shared_memory:=3"),
    "policy": ("chefmate_policy.executables", "rate:=1000.0"),
    "sequencer": ("chefmate_policy.executables", "progress_file:=3"),
    "recorder": ("chefmate_policy.executables", "folder:=3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_parameter_ends_every_node_with_one_line(
    start_process: Callable[..., Any], ros_domain: int, name: str
) -> None:
    module, parameter = WRONG[name]
    code = f"import sys; from {module} import {name}; sys.exit({name}())"
    process = start_process(["python", "-c", code, "--ros-args", "-r", f"__node:={name}", "-p", parameter])
    assert process.wait() == 1, process.output
    assert "Traceback" not in process.output, process.output
    assert process.output.count("[FATAL]") == 1 and parameter.partition(":")[0] in process.output


@pytest.mark.parametrize("name", NODES)
def test_two_quick_signals_end_every_node_with_0(
    start_process: Callable[..., Any], listener: Any, tmp_path: Path, name: str
) -> None:
    module, parameters, sign = NODES[name]
    words = [word for value in parameters(tmp_path) for word in ("-p", value)]
    code = f"import sys; from {module} import {name}; sys.exit({name}())"
    process = start_process(["python", "-c", code, "--ros-args", "-r", f"__node:={name}", *words])
    if sign:
        process.until_output(sign)
    else:  # it says nothing at its start
        listener.until(lambda: name in listener.node.get_node_names(), 20.0, f"node {name}")
    assert twice(process) == 0, process.output
    assert quiet(process), process.output
