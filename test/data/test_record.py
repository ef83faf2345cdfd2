# SPDX-License-Identifier: Apache-2.0
"""`chefmate data record`: a bag for each episode, begun, kept and thrown away by services and by keys."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from std_msgs.msg import String
from std_srvs.srv import Trigger


def told(bag: Path) -> list[str]:
    """Instructions in a bag."""
    with AnyReader([bag]) as reader:
        links = [link for link in reader.connections if link.topic == "/instruction"]
        return [reader.deserialize(data, link.msgtype).data for link, _, data in reader.messages(links)]


def test_episodes_begin_and_end_by_service(
    listener: Any, start_process: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "episodes"
    process = start_process(["python", "-m", "chefmate", "data", "record", str(folder)])

    def call(verb: str) -> Any:
        return listener.call(f"recorder/{verb}", Trigger, timeout=60.0)

    refused = call("stop")
    assert not refused.success and "start one first" in refused.message
    say = listener.publisher("instruction", String)
    say.publish(String(data="pick up the bread"))  # before the episode, and still in force
    assert say.wait_for_all_acked()
    assert call("start").success
    assert "is being recorded" in call("start").message
    say.publish(String(data="pick up the cheese"))
    assert say.wait_for_all_acked()
    kept = call("stop")
    assert kept.success and "episode_0000" in kept.message
    assert call("start").success and (folder / "episode_0001").exists()
    assert call("discard").success
    assert call("start").success
    assert process.stop(signal.SIGINT) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["episode_0000", "episode_0001"]
    assert told(folder / "episode_0000") == ["pick up the bread", "pick up the cheese"]
    assert told(folder / "episode_0001") == ["pick up the cheese"]


def test_episodes_begin_and_end_by_key(ros_domain: int, tmp_path: Path) -> None:
    folder = tmp_path / "episodes"
    mine, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "chefmate", "data", "record", str(folder)], stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    heard = b""

    def until(words: bytes) -> None:
        nonlocal heard
        deadline = time.monotonic() + 60
        while words not in b" ".join(heard.split()):
            assert time.monotonic() < deadline, heard
            heard += os.read(mine, 4096)
        heard = b""

    try:
        until(b"q ends")
        for key, words in ((b"s", b"start one first"), (b"r", b"recording to"), (b"d", b"discarded")):
            os.write(mine, key)
            until(words)
        os.write(mine, b"q")
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(mine)
    assert list(folder.iterdir()) == []
