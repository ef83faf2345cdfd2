# SPDX-License-Identifier: Apache-2.0
"""The main job as a user runs it, and the front door's manners."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from rclpy.qos import qos_profile_sensor_data
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import Image

from chefmate import graph
from chefmate.errors import ArgumentError, ChefmateError
from chefmate.interrupting import Interrupt
from chefmate.observer import Observer
from chefmate.sandwich import Job, Report, result_folder
from chefmate.supervisor import Supervisor
from chefmate.workspace import share_folder

pytestmark = [pytest.mark.graph, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
CHEFMATE = ["python", "-m", "chefmate"]


def test_sandwich_leaves_picture_bag_and_result(start_process: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = start_process([*CHEFMATE, "sandwich", "--policy", "expert", "--seed", "1", "--out", str(out)])
    code = job.wait(240)
    assert code == 0, job.output
    result = json.loads((out / "result.json").read_text())
    assert (result["outcome"], result["seed"], result["truth_agrees"]) == ("SUCCESS", 1, True)
    assert result["plate_by_truth"] == ["bread", "cheese", "bread"]
    assert [step["outcome"] for step in result["steps"]] == ["SUCCESS"] * 3
    assert all(
        step["attempts"] >= 1 and step["seconds"] > 0 and step["instruction"] for step in result["steps"]
    )
    assert result["real_time_factor"] >= 0.9
    picture = cv2.imread(str(out / "sandwich.png"))
    assert picture.shape == (480, 640, 3)
    assert picture.std() > 10
    assert job.output.count("SUCCESS") >= 3, "one progress line per step"
    counts, instructions = read_bag(out / "bag")
    assert instructions[-1] == ""
    spoken = [text for text in instructions if text]
    assert spoken[:1] == [result["steps"][0]["instruction"]]
    for topic in ("/joint_states", "/scene_camera/image_raw/compressed", "/policy/chunk", "/workcell/state"):
        assert counts[topic] > 10, topic


def read_bag(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Message counts by topic, and the instructions in order; read by the rosbags library alone."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for file in (ROOT / "chefmate_msgs" / "msg").glob("*.msg"):
        types.update(get_types_from_msg(file.read_text(), f"chefmate_msgs/msg/{file.stem}"))
    store.register(types)
    with AnyReader([folder], default_typestore=store) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        chosen = [connection for connection in reader.connections if connection.topic == "/instruction"]
        texts = [reader.deserialize(raw, c.msgtype).data for c, _, raw in reader.messages(connections=chosen)]
    return counts, texts


def test_interrupted_sandwich_exits_130_leaves_its_picture_and_nothing_running(
    start_process: Callable[..., Any], listener: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = start_process([*CHEFMATE, "sandwich", "--out", str(out), "--no-record"])
    log = out / "log" / "sequencer.log"
    listener.until(lambda: log.exists() and "RUNNING watching" in log.read_text(), 90, "a step in progress")
    assert job.stop(signal.SIGINT, 40) == 130
    assert json.loads((out / "result.json").read_text())["outcome"] == "ABORTED"
    picture = cv2.imread(str(out / "sandwich.png"))
    assert picture.shape == (480, 640, 3) and picture.std() > 10
    assert not children_of(job.pid)


def test_the_last_picture_outlives_its_camera(listener: Any) -> None:
    observer = Observer(listener.node)
    assert observer.last_scene() is None
    observer.watch_scene()
    camera = listener.publisher("scene_camera/image_raw", Image, qos_profile_sensor_data)
    image = Image(height=2, width=2, encoding="rgb8", step=6, data=bytes(range(12)))
    camera.publish(image)
    listener.spin(0.5)
    listener.node.destroy_publisher(camera)
    listener.spin(0.5)
    scene = observer.last_scene()
    assert scene is not None and scene.tobytes() == bytes(range(12))
    assert observer.last_scene() is not None, "again"
    observer.request_scene()
    listener.spin(0.3)
    assert observer.scene is None, "that one is older than the request"


def test_a_policy_that_cannot_be_loaded_ends_the_job_with_its_reason(ros_domain: int, tmp_path: Path) -> None:
    described = graph.describe({"policy": "tcp://localhost:99999"}, share_folder())
    supervisor = Supervisor([node for node in described if node.name == "policy"], print, logs=tmp_path)
    report = Report("cheese_sandwich", 0, "tcp://localhost:99999")
    supervisor.start()
    try:
        with pytest.raises(ChefmateError, match=r"the policy is FAULT: .*tcp://localhost:99999"):
            Job(supervisor, Interrupt(), report, print, time.monotonic()).run(tmp_path)
    finally:
        supervisor.stop()


def children_of(pid: int) -> list[str]:
    """Living processes whose environment or parent is this job's."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(status[1]) == pid:
                found.append(folder.name)
    return found


def kill_child(pid: int, executable: str) -> None:
    """kill -9 for the child that runs this executable."""
    running = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children_of(pid)}
    (found,) = [child for child, command in running.items() if executable in command]
    os.kill(int(found), signal.SIGKILL)


def test_up_exits_0_on_ctrl_c_also_after_a_restart_and_names_its_domain(
    start_process: Callable[..., Any], ros_domain: int
) -> None:
    graph = start_process([*CHEFMATE, "up", "seed:=2", "policy:=expert"])
    graph.until_output(f"ROS_DOMAIN_ID={ros_domain}", 30)
    graph.until_output("frames flow", 60)
    kill_child(graph.pid, "perception_node")
    graph.until_output("perception ended (killed by SIGKILL); it starts again", 30)
    assert graph.stop(signal.SIGINT, 40) == 0, graph.output


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["make", "cheese_sandwich"], "is the graph up?", 1),
        (["up", "--seed", "one"], "whole number", 2),
        (["up", "seed=1"], "name:=value", 2),
        (["up", "--arm", "/dev/ttyNONE"], "scene_camera must be given", 2),
        (["up", "--recipe", "no_such_sandwich"], "known are: cheese_sandwich", 2),
        (["sandwich", "no_such_sandwich"], "known are: cheese_sandwich", 2),
        (["sandwich", "--seed", "-1"], "negative", 2),
        (["sandwich", "--policy", "nowhere"], "neither expert", 2),
        (["bench", "sandwich", "--recipe", "no_such_sandwich"], "known are: cheese_sandwich", 2),
        (["bench", "twin", "--seconds", "-1"], "between 1 and 600", 2),
        (["say", "bread", "--namespace", "a b"], "not a ROS name", 2),
        (["sandwich", "--out", "/proc/none"], "cannot be made", 1),
        (["bench", "sandwich", "--seeds", "0", "--out", "/proc/none"], "cannot be made", 1),
        (["frobnicate"], "invalid choice", 2),
    ],
)
def test_wrong_use_gets_one_clear_error_and_leaves_nothing(
    start_process: Callable[..., Any],
    ros_domain: int,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    code: int,
) -> None:
    job = start_process([*CHEFMATE, *arguments], env={"ROS_DOMAIN_ID": str(ros_domain)}, cwd=tmp_path)
    assert job.wait(60) == code, job.output
    assert message in job.output
    assert "Traceback" not in job.output
    assert not list(tmp_path.iterdir())


def test_jobs_of_one_second_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {result_folder(None) for _ in range(20)}
    assert len(folders) == 20 and all(folder.parent == tmp_path / "out" for folder in folders)
    taken = folders.pop()
    assert result_folder(taken) == taken, "an empty one"
    (taken / "result.json").write_text("{}")
    with pytest.raises(ArgumentError, match="is not empty"):
        result_folder(taken)


def test_up_with_a_missing_port_ends_with_the_arms_error(
    start_process: Callable[..., Any], ros_domain: int, tmp_path: Path
) -> None:
    images = f"folder:{tmp_path}"
    calibration = ROOT / "config" / "calibration" / "twin.json"
    arguments = [f"arm:=/dev/ttyNONE{os.getpid()}", f"scene_camera:={images}", f"wrist_camera:={images}"]
    job = start_process(
        [
            *CHEFMATE,
            "up",
            *arguments,
            f"calibration:={calibration}",
            "policy:=chefmate_policy.inference.expert:ExpertBackend",
        ]
    )
    assert job.wait(60) == 1
    assert "ttyNONE" in job.output
    assert "Traceback" not in job.output
