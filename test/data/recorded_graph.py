# SPDX-License-Identifier: Apache-2.0
"""Small recordings as recorder_node writes them: an arm on a known path, pictures that tell the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from chefmate_msgs.msg import ActionChunk, ArmHealth, PolicyStatus, SequencerStatus, StepResult
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_policy.data.bag import BagRecorder
from chefmate_policy.inference.messages import duration_of, time_of

BEGIN = 1_700_000_000.0  # s since the epoch
BREAD, CHEESE = "pick up the bread", "pick up the cheese"
WIDTH, HEIGHT = 32, 24
LEAD = 0.3  # rad between target and pose: nobody confuses them


def pose(time: Any) -> np.ndarray:
    """[..., 6] rad at a time, s since BEGIN."""
    phase = np.asarray(time)[..., None] + np.arange(6)
    return 0.4 + 0.3 * np.sin(phase)


def grey(time: float) -> int:
    """Brightness of the picture taken at a time: six more than that of the one before, 30 times a second."""
    return 30 + 6 * (round(30 * time) % 32)


@dataclass
class Recorded:
    """What to write. arrival: s from stamp to arrival, by the message's number. lost: (topic, from, to) s."""

    seconds: float = 6.0
    arrival: Callable[[int], float] = lambda number: 0.001
    lost: list[tuple[str, float, float]] = field(default_factory=list)
    teleoperated: tuple[float, float] = (9.0, 9.0)
    compressed: bool = True
    status: bool = True
    jump_at: float = 99.0  # s, from here on the joints' clock is 5 s ahead

    def write(self, folder: Path) -> Path:
        """A rosbag2 folder: bread from 1 to 3 s (success), cheese from 3 to 5.5 s."""
        messages: list[tuple[float, str, str, Any]] = []
        for number in range(round(self.seconds * 100)):
            time = number / 100
            ahead = 5.0 if time >= self.jump_at else 0.0
            state = JointState(name=JOINT_NAMES[::-1], position=pose(time)[::-1].tolist())
            state.header.stamp = time_of(BEGIN + time + ahead)
            messages.append((time, "/joint_states", "sensor_msgs/msg/JointState", state))
            if self.teleoperated[0] <= time < self.teleoperated[1]:
                leader = JointState(name=list(JOINT_NAMES), position=(pose(time) - LEAD).tolist())
                leader.header.stamp = time_of(BEGIN + time)
                messages.append((time, "/teleop/joint_command", "sensor_msgs/msg/JointState", leader))
        for number in range(round(self.seconds * 30)):
            messages += [self._picture(number / 30, camera) for camera in ("scene", "wrist")]
        for number in range(round(self.seconds * 10)):
            time = number / 10
            led = self.teleoperated[0] <= time < self.teleoperated[1]
            health = ArmHealth(state=ArmHealth.TELEOPERATED if led else ArmHealth.FOLLOWING)
            health.header.stamp = time_of(BEGIN + time)
            messages.append((time, "/arm/health", "chefmate_msgs/msg/ArmHealth", health))
            messages.append((time, "/policy/chunk", "chefmate_msgs/msg/ActionChunk", _chunk(time)))
            text, count = (BREAD, 1) if 1 <= time < 3 else (CHEESE, 2) if 3 <= time < 5.5 else ("", 3)
            status = PolicyStatus(state=PolicyStatus.DRIVING if text else PolicyStatus.IDLE)
            status.instruction, status.instruction_number = text, count if time >= 1 else 0
            status.header.stamp = time_of(BEGIN + time)
            if self.status:
                messages.append((time, "/policy/status", "chefmate_msgs/msg/PolicyStatus", status))
            results = [StepResult(instruction=BREAD, outcome="SUCCESS")] if time >= 3 else []
            told = SequencerStatus(state=SequencerStatus.RUNNING, results=results)
            told.header.stamp = time_of(BEGIN + time)
            messages.append((time, "/sequencer/status", "chefmate_msgs/msg/SequencerStatus", told))
        for time, text in ((1.0, BREAD), (3.0, CHEESE), (5.5, "")):
            messages.append((time, "/instruction", "std_msgs/msg/String", String(data=text)))
        kept = [m for m in messages if not any(m[1] == t and a <= m[0] < b for t, a, b in self.lost)]
        delays = [self.arrival(number) if m[1] != "/instruction" else 0.0 for number, m in enumerate(kept)]
        bag, links = BagRecorder(folder, min_free_space=0), {}
        for (time, topic, kind, message), delay in sorted(
            zip(kept, delays, strict=True), key=lambda entry: entry[0][0] + entry[1]
        ):
            links[topic] = links.get(topic) or bag.add(topic, kind)
            bag.write(links[topic], round((BEGIN + time + delay) * 1e9), serialize_message(message))
        bag.close()
        return folder

    def _picture(self, time: float, camera: str) -> tuple[float, str, str, Any]:
        pixels = np.full((HEIGHT, WIDTH, 3), grey(time), np.uint8)
        topic = f"/{camera}_camera/image_raw"
        message: Any
        if self.compressed:
            message = CompressedImage(format="rgb8; jpeg compressed bgr8")
            message.data = cv2.imencode(".jpg", pixels)[1].tobytes()
            topic, kind = f"{topic}/compressed", "sensor_msgs/msg/CompressedImage"
        else:
            message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
            message.data, kind = pixels.tobytes(), "sensor_msgs/msg/Image"
        message.header.stamp = time_of(BEGIN + time)
        return time, topic, kind, message


def _chunk(time: float) -> ActionChunk:
    """Published at `time`, of an observation 50 ms before: the arm's path, LEAD ahead of it."""
    due = np.arange(16) * 0.1
    trajectory = JointTrajectory(joint_names=list(JOINT_NAMES))
    trajectory.header.frame_id, trajectory.header.stamp = "policy", time_of(BEGIN + time - 0.05)
    trajectory.points = [
        JointTrajectoryPoint(positions=row.tolist(), time_from_start=duration_of(float(seconds)))
        for seconds, row in zip(due, pose(time - 0.05 + due) + LEAD, strict=True)
    ]
    chunk = ActionChunk(trajectory=trajectory)
    chunk.header.stamp = time_of(BEGIN + time)
    return chunk
