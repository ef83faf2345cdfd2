# SPDX-License-Identifier: Apache-2.0
"""recorder_node as a process, over real DDS."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chefmate_msgs.msg import PolicyStatus
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

ROOT = Path(__file__).resolve().parents[2]
LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture
def start_recorder(start_process: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Function (*parameters, wrapper=(), namespace="/"): starts recorder_node into tmp_path/bag."""

    def start(*parameters: str, wrapper: tuple[str, ...] = (), namespace: str = "/") -> Any:
        command = [*wrapper, "python", "-m", "chefmate_policy.data.recorder", "--ros-args"]
        command += ["-r", f"__ns:={namespace}", "--params-file", str(ROOT / "config" / "recorder.yaml")]
        for parameter in (f"folder:={tmp_path / 'bag'}", *parameters):
            command += ["-p", parameter]
        return start_process(command)

    return start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_graphs_topics_are_recorded_with_their_qos(
    listener: Any, start_recorder: Callable[..., Any], tmp_path: Path, number: int
) -> None:
    status = listener.node.create_publisher(PolicyStatus, "policy/status", LATCHED)
    status.publish(PolicyStatus(state=PolicyStatus.IDLE, reason="said before the recorder came"))
    process = start_recorder()
    say = listener.publisher("instruction", String)
    look = listener.publisher("scene_camera/image_raw/compressed", CompressedImage, qos_profile_sensor_data)
    before = time.time_ns()
    for number_ in range(20):
        say.publish(String(data=f"instruction {number_}"))
        if number_ == 0:
            assert (
                say.wait_for_all_acked()
            )  # the recorder has found the publisher: it misses nothing from here
        look.publish(CompressedImage(format="jpeg", data=bytes(30_000)))
        listener.spin(0.02)
    diagnostics = listener.subscribe("/diagnostics", DiagnosticArray)
    listener.until(lambda: len(diagnostics) >= 2, 5.0, "two diagnostics of the recorder")
    assert process.stop(number) == 0
    with AnyReader([tmp_path / "bag"]) as reader:
        heard: dict[str, list[Any]] = {}
        for link, stamp, data in reader.messages():
            heard.setdefault(link.topic, []).append((stamp, reader.deserialize(data, link.msgtype)))
        qos = {link.topic: link.ext.offered_qos_profiles[0] for link in reader.connections}
    assert [message.data for _, message in heard["/instruction"]] == [f"instruction {i}" for i in range(20)]
    assert all(before < stamp < time.time_ns() for stamp, _ in heard["/instruction"])
    assert len(heard["/scene_camera/image_raw/compressed"]) >= 10
    assert heard["/policy/status"][0][1].reason == "said before the recorder came"
    assert "/diagnostics" in heard and "/kitchen/truth" not in heard
    assert qos["/policy/status"].durability.name == "TRANSIENT_LOCAL"
    assert qos["/scene_camera/image_raw/compressed"].reliability.name == "BEST_EFFORT"
    assert qos["/instruction"].reliability.name == "RELIABLE"
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    profile = metadata["rosbag2_bagfile_information"]["topics_with_message_count"][0]["topic_metadata"]
    assert profile["offered_qos_profiles"][0]["history"] == "keep_last"
    assert profile["type_description_hash"].startswith("RIHS01_")


def test_topics_follow_the_namespace(
    listener: Any, start_recorder: Callable[..., Any], tmp_path: Path
) -> None:
    process = start_recorder(namespace="/left_arm")
    say = listener.publisher("/left_arm/instruction", String)
    say.publish(String(data="bread"))
    assert say.wait_for_all_acked()
    process.stop()
    with AnyReader([tmp_path / "bag"]) as reader:
        assert "/left_arm/instruction" in reader.topics


def test_a_full_disk_ends_the_recording_and_the_node_lives_and_says_so(
    listener: Any, start_recorder: Callable[..., Any]
) -> None:
    diagnostics: list[DiagnosticArray] = listener.subscribe("/diagnostics", DiagnosticArray)
    process = start_recorder(wrapper=("prlimit", "--fsize=1000000"))
    look = listener.publisher("scene_camera/image_raw/compressed", CompressedImage, qos_profile_sensor_data)

    def ended() -> bool:
        look.publish(CompressedImage(format="jpeg", data=bytes(60_000)))
        return any(b"\x02" == entry.level for message in diagnostics for entry in message.status)

    listener.until(ended, 15.0, "an ERROR in the diagnostics")
    process.until_output("File too large")
    assert process.process.poll() is None
    assert process.stop() == 0


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("folder:=''", "folder is empty"),
        ("min_free_space:=1000000.0", "are free on the disk"),
        ("topics:=['instruction std_msgs/msg/String']", "must be 'TOPIC package/msg/Type QOS'"),
        ("topics:=['toast kitchen_msgs/msg/Toast reliable']", "is not installed"),
    ],
)
def test_a_recording_that_cannot_start_says_why(
    ros_domain: int, start_recorder: Callable[..., Any], parameter: str, words: str
) -> None:
    process = start_recorder(parameter)
    assert process.wait() == 1
    assert words in process.output
