# SPDX-License-Identifier: Apache-2.0
"""300 + 300 frames of 640x480 at 30 Hz from two camera nodes reach three subscriber processes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from camera_images import many_frames

FRAMES = 300
CAMERAS = ("scene_camera", "wrist_camera")
COUNTER = Path(__file__).with_name("frame_counter.py")
NODE = ("python", "-m", "chefmate_driver.camera.node", "--ros-args", "-p", "autostart:=false")


def test_every_frame_of_two_cameras_reaches_three_processes(
    tmp_path: Path, start_process: Callable[..., Any], listener: Any
) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    source = f"source:=folder:{many_frames(tmp_path / 'frames', FRAMES)}"
    cameras = [start_process([*NODE, "-r", f"__node:={name}", "-p", source]) for name in CAMERAS]

    def change(name: str, transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert listener.call(f"{name}/change_state", ChangeState, request, timeout=20.0).success

    for name in CAMERAS:
        change(name, Transition.TRANSITION_CONFIGURE)
    topics = [f"{name}/image_raw" for name in CAMERAS]
    counters = [start_process(["python", str(COUNTER), *topics]) for _ in range(3)]
    reports = listener.subscribe("/diagnostics", DiagnosticArray)

    def both_say(key: str, value: str) -> bool:
        found = {
            status.name
            for report in reports
            for status in report.status
            if any(pair.key == key and pair.value == value for pair in status.values)
        }
        return len(found) == 2

    listener.until(lambda: both_say("subscribers", "3"), 20.0, "three subscribers, as the cameras see them")
    for name in CAMERAS:
        change(name, Transition.TRANSITION_ACTIVATE)
    listener.until(lambda: both_say("state", "ended"), 30.0, "the end of both folders")
    assert both_say("frames", str(FRAMES))

    for counter in counters:
        assert counter.stop(signal.SIGINT) == 0
        counts = [int(word) for word in counter.lines[-1].split()[1:]]
        print("frames received", counts)
        assert all(FRAMES * 0.99 <= count <= FRAMES for count in counts)
    for camera in cameras:
        assert camera.stop(signal.SIGINT) == 0
