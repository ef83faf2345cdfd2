# SPDX-License-Identifier: Apache-2.0
"""What a recording of the running graph holds, on the clock of the messages' headers.

Arrival order and arrival times decide nothing but where a message has no stamp (`instruction`, and
trajectories that begin "now").
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys.store import Typestore

from chefmate_policy.data.message_types import RecordingError
from chefmate_policy.images import image_to_rgb

__all__ = ["ClockJump", "Recording", "Track", "Trajectory", "read_recording"]

Array = NDArray[np.float64]
NS = 1_000_000_000
CLOCK_JUMP = 1.0  # s by which stamps and arrival times of a topic may part between two messages
LEASED = "policy"  # frame_id of trajectories of the policy (chefmate_policy/inference/messages.py)
IMAGES = ("image_raw/compressed", "image_raw")  # the first that is there is used
HEADER = 4  # bytes of CDR before a message


@dataclass
class Track:
    """Stamps [n] ns, ascending, and values [n, joints] rad."""

    stamps: NDArray[np.int64]
    values: Array

    @classmethod
    def of(cls, samples: Sequence[tuple[int, Sequence[float]]], joints: int) -> Track:
        """Sorted by stamp; of equal stamps the first is kept."""
        if not samples:
            return cls(np.zeros(0, dtype=np.int64), np.zeros((0, joints)))
        stamps = np.array([stamp for stamp, _ in samples], dtype=np.int64)
        ascending, first = np.unique(stamps, return_index=True)
        return cls(ascending, np.array([samples[i][1] for i in first], dtype=np.float64))

    def at(self, moments: NDArray[np.int64]) -> Array:
        """Linear between the samples [m, joints]; the nearest sample outside."""
        begin = self.stamps[0]
        seconds, wanted = (self.stamps - begin) / NS, (moments - begin) / NS
        return np.column_stack([np.interp(wanted, seconds, column) for column in self.values.T])

    def gaps(self, moments: NDArray[np.int64]) -> Array:
        """s between the samples on both sides of each moment; infinite outside of the samples."""
        after = np.searchsorted(self.stamps, moments, side="left")
        exact = (after < len(self.stamps)) & (self.stamps[np.minimum(after, len(self.stamps) - 1)] == moments)
        inside = (after > 0) & (after < len(self.stamps))
        widths = np.full(len(moments), np.inf)
        widths[inside] = (self.stamps[after[inside]] - self.stamps[after[inside] - 1]) / NS
        widths[exact] = 0.0
        return widths


@dataclass(frozen=True)
class Trajectory:
    """One message to the arm: in force from `taken` ns on; points [n, joints] rad due at `due` ns."""

    taken: int
    due: NDArray[np.int64]
    points: Array


@dataclass(frozen=True)
class ClockJump:
    """A topic's stamps went elsewhere than the time that passed."""

    topic: str
    before: int  # ns, last stamp of the old clock
    after: int  # ns, first stamp of the new one
    seconds: float

    def meets(self, start: int, end: int) -> bool:
        """Whether it happened, or stamps moved over, from `start` to `end` ns."""
        return min(self.before, self.after) <= end and max(self.before, self.after) >= start

    def __str__(self) -> str:
        return f"the clock of {self.topic} jumps by {self.seconds:+.2f} s"


@dataclass
class Recording:
    """All of a bag but the pictures. Entries of the lists are sorted by stamp (ns)."""

    folder: Path
    joints: Track
    leader: Track
    trajectories: list[Trajectory]
    cameras: dict[str, NDArray[np.int64]]  # stamps of the pictures, ascending
    topics: dict[str, str]  # of the cameras
    policy: list[tuple[int, str, int, str]]  # instruction, its number, state
    instructions: list[tuple[int, str]]  # as published; arrival times, for the message has no stamp
    health: list[tuple[int, str]]  # state of the arm
    sequencer: list[tuple[int, str, tuple[tuple[str, str], ...]]]  # state, (instruction, outcome) so far
    types: Typestore  # of the messages in the bag
    jumps: list[ClockJump] = field(default_factory=list)

    def pictures(self, wanted: Mapping[str, set[int]]) -> Iterator[tuple[str, int, bytes, str]]:
        """Yields camera, stamp, message and type of the pictures with these stamps, in the bag's order."""
        names = {topic: name for name, topic in self.topics.items() if name in wanted}
        with AnyReader([self.folder]) as bag:
            links = [link for link in bag.connections if link.topic in names]
            for link, _, data in bag.messages(connections=links):
                name, stamp = names[link.topic], _stamp(data)
                if stamp in wanted[name]:
                    yield name, stamp, bytes(data), link.msgtype

    def decode(self, data: bytes, message_type: str) -> NDArray[np.uint8]:
        """[height, width, 3] RGB of a picture's message. Raises RecordingError: it is damaged."""
        import cv2

        message = _message(self.types, data, message_type)
        if not message_type.endswith("CompressedImage"):
            return np.ascontiguousarray(image_to_rgb(message))
        found = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR)
        if found is None:
            raise RecordingError(f"{self.folder}: a picture of format {message.format!r} cannot be decoded")
        return np.ascontiguousarray(found[:, :, ::-1], dtype=np.uint8)


def read_recording(folder: Path, cameras: Mapping[str, str], joints: Sequence[str]) -> Recording:
    """Reads a rosbag2 folder. cameras: name -> topic without image_raw; joints: order of the values.

    Raises RecordingError: no bag, no joint states, a camera without pictures, a joint that is missing.
    """
    try:
        with AnyReader([folder]) as bag:
            return _Reading(folder, bag, cameras, joints).recording()
    except (AnyReaderError, OSError) as error:
        raise RecordingError(f"{folder} is no rosbag2 folder that can be read: {error}") from None


class _Reading:
    """One pass over a bag."""

    def __init__(
        self, folder: Path, bag: AnyReader, cameras: Mapping[str, str], joints: Sequence[str]
    ) -> None:
        self._folder, self._bag, self._order = folder, bag, list(joints)
        self._joints: list[tuple[int, Sequence[float]]] = []
        self._leader: list[tuple[int, Sequence[float]]] = []
        self._chunks: list[Trajectory] = []
        self._trajectories: list[tuple[bool, Trajectory]] = []
        self._policy: list[tuple[int, str, int, str]] = []
        self._instructions: list[tuple[int, str]] = []
        self._health: list[tuple[int, str]] = []
        self._sequencer: list[tuple[int, str, tuple[tuple[str, str], ...]]] = []
        self._last: dict[str, tuple[int, int]] = {}
        self._jumps: list[ClockJump] = []
        self._topics = {name: self._camera(name, prefix) for name, prefix in cameras.items()}
        self._stamps: dict[str, list[int]] = {topic: [] for topic in self._topics.values()}

    def recording(self) -> Recording:
        """Everything, sorted."""
        takers: dict[str, Callable[[Any, int], None]] = {
            "joint_states": lambda m, at: self._joints.append((_ns(m), self._row(m.name, m.position))),
            "teleop/joint_command": lambda m, at: self._leader.append(
                (_ns(m), self._row(m.name, m.position))
            ),
            "policy/chunk": self._take_chunk,
            "arm_controller/joint_trajectory": self._take_trajectory,
            "policy/status": lambda m, at: self._policy.append(
                (_ns(m), m.instruction, int(m.instruction_number), m.state)
            ),
            "instruction": lambda m, at: self._instructions.append((at, m.data)),
            "arm/health": lambda m, at: self._health.append((_ns(m), m.state)),
            "sequencer/status": lambda m, at: self._sequencer.append(
                (_ns(m), m.state, tuple((r.instruction, r.outcome) for r in m.results))
            ),
        }
        for link, arrived, data in self._bag.messages():
            if link.topic in self._stamps:
                stamp = _stamp(data)
                self._stamps[link.topic].append(stamp)
                self._watch_clock(link.topic, stamp, arrived)
                continue
            name = next((key for key in takers if _is(link.topic, key)), None)
            if name is None:
                continue
            message = _message(self._bag.typestore, data, link.msgtype)
            if name == "joint_states":
                self._watch_clock(link.topic, _ns(message), arrived)
            takers[name](message, arrived)
        if not self._joints:
            raise RecordingError(f"{self._folder} holds no joint_states: nothing says where the arm was")
        # A chunk says when it was published; the trajectory that carries it to the arm does not.
        sent = [one for leased, one in self._trajectories if not (leased and self._chunks)]
        return Recording(
            folder=self._folder,
            joints=Track.of(self._joints, len(self._order)),
            leader=Track.of(self._leader, len(self._order)),
            trajectories=sorted([*self._chunks, *sent], key=lambda one: one.taken),
            cameras={
                name: np.unique(np.array(self._stamps[topic], dtype=np.int64))
                for name, topic in self._topics.items()
            },
            topics=self._topics,
            policy=sorted(self._policy, key=lambda entry: entry[0]),
            instructions=sorted(self._instructions, key=lambda entry: entry[0]),
            health=sorted(self._health, key=lambda entry: entry[0]),
            sequencer=sorted(self._sequencer, key=lambda entry: entry[0]),
            types=self._bag.typestore,
            jumps=self._jumps,
        )

    def _camera(self, name: str, prefix: str) -> str:
        there = {link.topic for link in self._bag.connections if link.msgcount}
        for kind in IMAGES:
            found = sorted(topic for topic in there if _is(topic, f"{prefix.strip('/')}/{kind}"))
            if found:
                return found[0]
        raise RecordingError(
            f"{self._folder} holds no pictures of camera {name}: no topic {prefix}/{' or '.join(IMAGES)};"
            f" there are {', '.join(sorted(there)) or 'no messages'}"
        )

    def _row(self, names: Sequence[str], values: Any) -> list[float]:
        try:
            return [float(values[list(names).index(name)]) for name in self._order]
        except (ValueError, IndexError):
            raise RecordingError(
                f"{self._folder}: a message has joints {', '.join(names)}, not {', '.join(self._order)}"
            ) from None

    def _take_chunk(self, message: Any, arrived: int) -> None:
        if message.trajectory.points:
            self._chunks.append(self._trajectory(message.trajectory, _ns(message), _ns(message.trajectory)))

    def _take_trajectory(self, message: Any, arrived: int) -> None:
        if message.points:
            start = _ns(message) or arrived
            leased = message.header.frame_id == LEASED
            self._trajectories.append((leased, self._trajectory(message, start, start)))

    def _trajectory(self, message: Any, taken: int, origin: int) -> Trajectory:
        due = [origin + p.time_from_start.sec * NS + p.time_from_start.nanosec for p in message.points]
        rows = [self._row(message.joint_names, point.positions) for point in message.points]
        return Trajectory(taken, np.array(due, dtype=np.int64), np.array(rows))

    def _watch_clock(self, topic: str, stamp: int, arrived: int) -> None:
        if topic in self._last:
            before, then = self._last[topic]
            apart = ((stamp - before) - (arrived - then)) / NS
            if abs(apart) > CLOCK_JUMP:
                self._jumps.append(ClockJump(topic, before, stamp, apart))
        self._last[topic] = (stamp, arrived)


def _message(types: Typestore, data: Any, message_type: str) -> Any:
    """A serialized message, read. Raises RecordingError: it is damaged.

    What rclpy serializes may be followed by bytes that belong to nothing (Fast CDR's estimate of empty
    sequences), which rosbags' own deserialize_cdr refuses.
    """
    definition = types.get_msgdef(message_type)
    little = bytes(data[1:2]) == b"\x01"
    read = definition.deserialize_cdr_le if little else definition.deserialize_cdr_be
    try:
        message, _ = read(data[HEADER:], 0, definition.cls, types)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise RecordingError(f"a message of type {message_type} is damaged: {error}") from None
    return message


def _is(topic: str, name: str) -> bool:
    """Whether a topic, in whatever namespace, has this name."""
    return topic == f"/{name}" or topic.endswith(f"/{name}")


def _ns(message: Any) -> int:
    return int(message.header.stamp.sec) * NS + int(message.header.stamp.nanosec)


def _stamp(data: Any) -> int:
    """Stamp (ns) of a serialized message that begins with a header; saves decoding pictures."""
    order = "<" if bytes(data[1:2]) == b"\x01" else ">"
    seconds, rest = struct.unpack_from(f"{order}iI", data, HEADER)
    return int(seconds) * NS + int(rest)
