# SPDX-License-Identifier: Apache-2.0
"""ROS messages of the policy, made from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from chefmate_msgs.msg import ActionChunk
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from chefmate_policy.inference.backend import Array, Chunk
from chefmate_policy.inference.preview import gripper_path
from chefmate_policy.inference.session import AcceptedChunk

LEASED = "policy"
"""frame_id of a trajectory that the arm follows only while policy/status says DRIVING or DONE."""
LEVELS = {
    "FAULT": DiagnosticStatus.ERROR,
    "HOLDING": DiagnosticStatus.WARN,
    "UNCONFIGURED": DiagnosticStatus.WARN,
}


def seconds_of(stamp: Time) -> float:
    """s since the epoch."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def time_of(seconds: float) -> Time:
    """builtin_interfaces/Time; negative times become 0."""
    nanoseconds = max(0, round(seconds * 1e9))
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def duration_of(seconds: float) -> Duration:
    """builtin_interfaces/Duration."""
    nanoseconds = round(seconds * 1e9)
    return Duration(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def trajectory_of(chunk: Chunk, joints: Sequence[str]) -> JointTrajectory:
    """The chunk as the arm takes it: leased, stamped with its origin, so that points already past are dropped
    there."""
    message = JointTrajectory(joint_names=list(joints))
    message.header.frame_id = LEASED
    message.header.stamp = time_of(chunk.origin)
    rates = [[]] * chunk.times.size if chunk.velocities is None else chunk.velocities.tolist()
    message.points = [
        JointTrajectoryPoint(positions=position, velocities=velocity, time_from_start=duration_of(time))
        for time, position, velocity in zip(
            chunk.times.tolist(), chunk.positions.tolist(), rates, strict=True
        )
    ]
    return message


def chunk_message(
    accepted: AcceptedChunk, joints: Sequence[str], number: int, model_id: str, now: float
) -> ActionChunk:
    """policy/chunk: the trajectory and where it came from."""
    chunk, observation = accepted.chunk, accepted.inference.observation
    message = ActionChunk(
        number=number,
        instruction=observation.instruction,
        instruction_number=observation.instruction_number,
        trajectory=trajectory_of(chunk, joints),
        observation_names=list(observation.stamps),
        observation_stamps=[time_of(stamp) for stamp in observation.stamps.values()],
        model_id=model_id,
        latency_preprocess=chunk.latency_preprocess,
        latency_model=chunk.latency_model,
        latency_total=max(0.0, now - observation.stamp),
        flushed=accepted.flushed,
    )
    message.header.stamp = time_of(now)
    return message


def preview_message(joints: Sequence[str], positions: Array, seconds: float, now: float) -> MarkerArray:
    """policy/preview: the gripper's path in base_link, for `seconds`, and its end as a ball."""
    path = [Point(x=x, y=y, z=z) for x, y, z in gripper_path(joints, positions).tolist()]

    def marker(number: int, kind: int, size: float) -> Marker:
        shape = Marker(
            ns="policy", id=number, type=kind, action=Marker.ADD, color=ColorRGBA(r=0.1, g=0.7, b=1.0, a=0.9)
        )
        shape.header.frame_id = "base_link"
        shape.header.stamp = time_of(now)
        shape.lifetime = duration_of(seconds)
        shape.pose.orientation.w = 1.0
        shape.scale.x = shape.scale.y = shape.scale.z = size  # m
        return shape

    line = marker(0, Marker.LINE_STRIP, 0.004)
    line.points = path if len(path) > 1 else path * 2
    ball = marker(1, Marker.SPHERE, 0.015)
    ball.pose.position = path[-1]
    return MarkerArray(markers=[line, ball])


def diagnostics_message(
    node: str, state: str, reason: str, model_id: str, figures: Mapping[str, str], now: float
) -> DiagnosticArray:
    """/diagnostics: one status of this node."""
    status = DiagnosticStatus(
        level=LEVELS.get(state, DiagnosticStatus.OK),
        name=f"{node.lstrip('/')}: inference",
        hardware_id=model_id,
        message=f"{state}: {reason}" if reason else state,
        values=[KeyValue(key=key, value=value) for key, value in figures.items()],
    )
    message = DiagnosticArray(status=[status])
    message.header.stamp = time_of(now)
    return message


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile of some seconds; 0 of none."""
    return float(np.quantile(np.array(values), share)) if values else 0.0
