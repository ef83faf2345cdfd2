# SPDX-License-Identifier: Apache-2.0
"""Bags: written as they came, read by the rosbags library, ended and recovered when things go wrong."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory
from chefmate_msgs.msg import ActionChunk, StepResult
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.typesys.store import Typestore
from std_msgs.msg import String

from chefmate_policy.data.bag import BagRecorder
from chefmate_policy.data.message_types import RecordingError, add_type, jazzy_types
from chefmate_policy.data.recovery import recover

NOW = 1_700_000_000_000_000_000  # ns
GB = 10**9


def read(folder: Path) -> list[tuple[str, int, bytes, Any]]:
    """Topic, stamp, bytes and message of everything in a bag."""
    with AnyReader([folder]) as reader:
        return [
            (link.topic, stamp, bytes(data), reader.deserialize(data, link.msgtype))
            for link, stamp, data in reader.messages()
        ]


def text(words: str) -> bytes:
    return serialize_message(String(data=words))


def test_what_is_recorded_is_read_back_unchanged(tmp_path: Path) -> None:
    bag = BagRecorder(tmp_path / "bag", min_free_space=0)
    words = bag.add("/instruction", "std_msgs/msg/String")
    chunks = bag.add("/policy/chunk", "chefmate_msgs/msg/ActionChunk")
    chunk = ActionChunk(number=7, instruction="pick up the bread", observation_names=["scene"], flushed=True)
    chunk.trajectory.joint_names = ["gripper"]
    data = serialize_message(chunk)
    assert bag.write(words, NOW, text("pick up the bread"))
    assert bag.write(chunks, NOW + 1, data)
    bag.close()
    first, second = read(tmp_path / "bag")
    assert first[:2] == ("/instruction", NOW) and first[3].data == "pick up the bread"
    assert second[:3] == ("/policy/chunk", NOW + 1, data)
    assert second[3].number == 7 and second[3].flushed
    assert second[3].trajectory.joint_names == ["gripper"]


def test_metadata_is_what_rosbag2_of_jazzy_expects(tmp_path: Path) -> None:
    bag = BagRecorder(tmp_path / "bag", min_free_space=0)
    bag.write(bag.add("/instruction", "std_msgs/msg/String"), NOW, text("bread"))
    bag.close()
    information = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    information = information["rosbag2_bagfile_information"]
    assert information["version"] == 9
    assert information["storage_identifier"] == "mcap"
    assert information["relative_file_paths"] == ["bag.mcap"]
    assert information["message_count"] == 1
    assert information["starting_time"] == {"nanoseconds_since_epoch": NOW}
    topic = information["topics_with_message_count"][0]["topic_metadata"]
    assert (topic["name"], topic["type"], topic["serialization_format"]) == (
        "/instruction",
        "std_msgs/msg/String",
        "cdr",
    )


@pytest.mark.parametrize("name", ["ActionChunk", "ArmHealth", "SequencerStatus", "WorkcellState"])
def test_type_hashes_are_those_of_the_installed_messages(name: str) -> None:
    types: Typestore = jazzy_types()
    add_type(types, f"chefmate_msgs/msg/{name}")
    file = Path(get_package_share_directory("chefmate_msgs")) / "msg" / f"{name}.json"
    hashes = {
        entry["type_name"]: entry["hash_string"] for entry in json.loads(file.read_text())["type_hashes"]
    }
    assert types.hash_rihs01(f"chefmate_msgs/msg/{name}") == hashes[f"chefmate_msgs/msg/{name}"]


def test_a_type_that_is_not_installed_is_named(tmp_path: Path) -> None:
    bag = BagRecorder(tmp_path / "bag", min_free_space=0)
    with pytest.raises(RecordingError, match="kitchen_msgs/msg/Toast"):
        bag.add("/toast", "kitchen_msgs/msg/Toast")
    bag.close()


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="exists already"):
        BagRecorder(tmp_path, min_free_space=0)


def test_a_disk_without_space_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"0\.50 GB are free .* fewer than 1\.00 GB"):
        BagRecorder(tmp_path / "bag", min_free_space=GB, free_space=lambda path: GB // 2)


def test_a_disk_that_fills_up_ends_the_recording_with_a_whole_bag(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    free = [2 * GB]
    bag = BagRecorder(tmp_path / "bag", min_free_space=GB, flush_period=0.05, free_space=lambda path: free[0])
    link = bag.add("/instruction", "std_msgs/msg/String")
    bag.write(link, NOW, text("bread"))
    eventually(lambda: bag.totals.messages == 1, 5.0)
    free[0] = 0
    eventually(lambda: bag.error, 5.0)
    assert not bag.write(link, NOW, text("cheese"))
    with pytest.raises(RecordingError, match=r"0\.00 GB are free"):
        bag.close()
    assert [message.data for _, _, _, message in read(tmp_path / "bag")] == ["bread"]


def test_a_slow_disk_drops_and_counts_instead_of_growing(tmp_path: Path) -> None:
    bag = BagRecorder(tmp_path / "bag", min_free_space=0, queue_size=1000)
    link = bag.add("/instruction", "std_msgs/msg/String")
    assert not bag.write(link, NOW, bytes(1001))
    assert bag.totals.dropped == 1
    bag.close()


WRITE_FOR_EVER = """
import sys, time
from pathlib import Path
from chefmate_policy.data.bag import BagRecorder
from rclpy.serialization import serialize_message
from std_msgs.msg import String
bag = BagRecorder(Path(sys.argv[1]), min_free_space=0, flush_period=0.1)
link = bag.add("/instruction", "std_msgs/msg/String")
number = 0
while not bag.error:
    text = f"{number} " + "x" * int(sys.argv[2])
    bag.write(link, 1_700_000_000_000_000_000 + number, serialize_message(String(data=text)))
    number += 1
    if number % 100 == 0:
        print(number, flush=True)
    time.sleep(0.0005)
print(bag.error, flush=True)
"""


def test_a_killed_recorder_leaves_all_but_the_last_flush_period(
    tmp_path: Path, start_process: Callable[..., Any]
) -> None:
    process = start_process(["python", "-c", WRITE_FOR_EVER, str(tmp_path / "bag"), "100"])
    process.until_output("500")
    time.sleep(0.3)  # longer than the flush period, so that the first 500 are in the file
    process.process.send_signal(signal.SIGKILL)
    process.wait()
    count = recover(tmp_path / "bag", tmp_path / "mended")
    numbers = [int(message.data.split()[0]) for _, _, _, message in read(tmp_path / "mended")]
    assert numbers == list(range(count)) and count >= 500


def test_a_file_that_cannot_grow_ends_the_recording_and_can_be_recovered(
    tmp_path: Path, start_process: Callable[..., Any]
) -> None:
    # A limit on the file's size makes write() fail in the middle of a record, as a full disk does.
    command = ["prlimit", "--fsize=3000000", "python", "-c", WRITE_FOR_EVER, str(tmp_path / "bag"), "10000"]
    process = start_process(command)
    assert process.wait() == 0
    assert "File too large" in process.output and "chefmate_policy.data.recovery" in process.output
    count = recover(tmp_path / "bag", tmp_path / "mended")
    assert len(read(tmp_path / "mended")) == count > 200


def test_recovery_of_something_else_says_so(tmp_path: Path) -> None:
    (tmp_path / "note.mcap").write_text("bread")
    with pytest.raises(RecordingError, match="no MCAP file"):
        recover(tmp_path, tmp_path / "mended")
    with pytest.raises(RecordingError, match="holds 0"):
        recover(tmp_path / "nowhere", tmp_path / "mended")
    assert not (tmp_path / "mended").exists()


def test_step_results_survive_with_their_constants(tmp_path: Path) -> None:
    bag = BagRecorder(tmp_path / "bag", min_free_space=0)
    link = bag.add("/step", "chefmate_msgs/msg/StepResult")
    bag.write(link, NOW, serialize_message(StepResult(outcome=StepResult.SUCCESS, seconds=12.5)))
    bag.close()
    message = read(tmp_path / "bag")[0][3]
    assert message.outcome == message.SUCCESS == "SUCCESS"
