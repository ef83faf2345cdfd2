# SPDX-License-Identifier: Apache-2.0
"""Recordings of the running graph as episodes: one for each instruction that was in force.

A frame of an episode is a moment of its grid, start + k / fps: joint positions between the samples around
it, the picture nearest to it, and as action the target that the arm was to be at. All by header stamps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.data.bag_reading import NS, Recording, read_recording
from chefmate_policy.data.lerobot_layout import V2_1, DatasetError
from chefmate_policy.data.video import Picture
from chefmate_policy.data.writing import DatasetWriter
from chefmate_policy.units import JointUnits

__all__ = ["Converted", "Left", "Segment", "Wanted", "commanded", "convert", "segments"]

Array = NDArray[np.float64]
TAIL = 1.0  # s that are kept after the policy is done
JUDGED_WITHIN = 20.0  # s after an instruction's end in which its result is looked for
OBEYED = ("DRIVING", "DONE", "HOLDING", "IDLE")  # states of the policy in which an instruction counts
UNKNOWN = "unknown"  # outcome that nobody has judged


@dataclass(frozen=True)
class Segment:
    """An instruction in force, from `start` to `end` ns."""

    instruction: str
    start: int
    end: int


@dataclass(frozen=True)
class Wanted:
    """What to convert to. cameras: name -> topic without image_raw; size: pixels, None: the cameras'.

    gap: s, longest between two joint states, or from a frame to its picture. least: s, shortest episode.
    """

    fps: int
    units: JointUnits
    cameras: Mapping[str, str]
    size: tuple[int, int] | None = None
    version: str = V2_1
    gap: float = 0.15
    least: float = 1.0
    only_success: bool = False


@dataclass(frozen=True)
class Left:
    """An episode, or a whole bag's part, that was left out."""

    bag: Path
    instruction: str
    seconds: float  # since the recording's first joint state
    reason: str

    def __str__(self) -> str:
        return f"{self.bag}, {self.instruction!r} at {self.seconds:.1f} s: {self.reason}"


@dataclass
class Converted:
    """What came of it."""

    episodes: int
    frames: int
    left: list[Left]


@dataclass
class _Episode:
    """One segment, resampled, with the pictures still in the bag."""

    segment: Segment
    moments: NDArray[np.int64]
    states: Array
    actions: Array
    stamps: dict[str, NDArray[np.int64]]
    extra: dict[str, Any]


def convert(bags: Sequence[Path], folder: Path, wanted: Wanted) -> Converted:
    """Writes a dataset of the bags' episodes, in the order of bags and time.

    Raises RecordingError (a bag as a whole), DatasetError: the folder exists, nothing is left.
    """
    if folder.exists():
        raise DatasetError(f"{folder} exists; name a new folder or remove it")
    left: list[Left] = []
    found: list[tuple[Recording, list[_Episode]]] = []
    for bag in bags:
        recording = read_recording(bag, wanted.cameras, wanted.units.names)
        found.append((recording, list(_episodes(recording, wanted, left))))
    if not any(episodes for _, episodes in found):
        reasons = "; ".join(map(str, left)) or "no instruction was in force"
        raise DatasetError(f"no episode can be made of {', '.join(map(str, bags))}: {reasons}")
    sizes = wanted.size and dict.fromkeys(wanted.cameras, wanted.size)
    first = next(entry for entry in found if entry[1])
    sizes = sizes or {name: _size(*first, name) for name in wanted.cameras}
    joints = [f"{name}.pos" for name in wanted.units.names]
    writer = DatasetWriter(folder, fps=wanted.fps, joints=joints, cameras=sizes, version=wanted.version)
    with writer:
        for recording, episodes in found:
            for episode in episodes:
                writer.add_episode(
                    episode.segment.instruction,
                    wanted.units.values(episode.states),
                    wanted.units.values(episode.actions),
                    _pictures(recording, episode, sizes),
                    episode.extra,
                )
        writer.note(
            "chefmate.json",
            {
                "made_by": "chefmate data convert",
                "bags": [str(bag) for bag in bags],
                "left_out": [str(one) for one in left],
            },
        )
        count = sum(len(episodes) for _, episodes in found)
    return Converted(count, writer.frames, left)


def segments(recording: Recording) -> list[Segment]:
    """When which instruction was in force: by the policy's status, else by what was published."""
    found = _by_status(recording) or _by_words(recording)
    last = int(recording.joints.stamps[-1])
    return [Segment(one.instruction, one.start, min(one.end, last)) for one in found if one.start < last]


def commanded(recording: Recording, moments: NDArray[np.int64]) -> Array:
    """The target [m, joints] rad that the arm was to be at, by the trajectories in force.

    A trajectory takes over where the one before has brought the target; before the first, the arm holds the
    pose that it is in.
    """
    track = recording.joints
    target = track.at(moments)
    due, points = np.zeros(0, dtype=np.int64), np.zeros((0, target.shape[1]))
    for number, one in enumerate(recording.trajectories):
        here = _interpolated(due, points, one.taken) if len(due) else track.at(np.array([one.taken]))[0]
        ahead = one.due > one.taken
        due = np.concatenate([[one.taken], one.due[ahead]])
        points = np.vstack([here, one.points[ahead]])
        until = recording.trajectories[number + 1].taken if number + 1 < len(recording.trajectories) else None
        for index in np.flatnonzero(moments >= one.taken):
            if until is None or moments[index] < until:
                target[index] = _interpolated(due, points, int(moments[index]))
    return target


def _episodes(recording: Recording, wanted: Wanted, left: list[Left]) -> Iterator[_Episode]:
    begin = int(recording.joints.stamps[0])
    for segment in segments(recording):
        result = _episode(recording, segment, wanted)
        if isinstance(result, str):
            left.append(Left(recording.folder, segment.instruction, (segment.start - begin) / NS, result))
        else:
            yield result


def _episode(recording: Recording, segment: Segment, wanted: Wanted) -> _Episode | str:
    """The episode of a segment, or why there is none."""
    count = int((segment.end - segment.start - 1) * wanted.fps // NS) + 1  # another is in force at `end`
    if count < 2 or (count - 1) / wanted.fps < wanted.least:
        return f"{(segment.end - segment.start) / NS:.2f} s are shorter than {wanted.least:g} s"
    for jump in recording.jumps:
        if jump.meets(segment.start, segment.end):
            return str(jump)
    moments = segment.start + (np.arange(count) * NS) // wanted.fps
    gaps = recording.joints.gaps(moments)
    if len(late := np.flatnonzero(gaps > wanted.gap)):
        what = (
            "no joint_states"
            if np.isinf(gaps[late[0]])
            else f"a gap of {gaps[late[0]]:.2f} s in joint_states"
        )
        return f"{what} at {late[0] / wanted.fps:.2f} s, the limit is {wanted.gap:g} s"
    stamps = {}
    for name, taken in recording.cameras.items():
        stamps[name] = taken[_nearest(taken, moments)]
        away = np.abs(stamps[name] - moments) / NS
        if len(late := np.flatnonzero(away > wanted.gap)):
            return (
                f"the nearest picture of camera {name} is {away[late[0]]:.2f} s away from the frame at"
                f" {late[0] / wanted.fps:.2f} s, the limit is {wanted.gap:g} s"
            )
    actions = commanded(recording, moments)
    led = _teleoperated(recording, moments)
    if led.any():
        without = led & (recording.leader.gaps(moments) > wanted.gap if len(recording.leader.stamps) else led)
        if without.any():
            return f"teleoperated without teleop/joint_command at {np.argmax(without) / wanted.fps:.2f} s"
        actions[led] = recording.leader.at(moments[led])
    extra = _labels(recording, segment, bool(led.any()))
    if wanted.only_success and extra["outcome"] != "success":
        return f"its outcome is {extra['outcome']}"
    return _Episode(segment, moments, recording.joints.at(moments), actions, stamps, extra)


def _labels(recording: Recording, segment: Segment, takeover: bool) -> dict[str, Any]:
    outcome, until = UNKNOWN, segment.end + round(JUDGED_WITHIN * NS)
    before = [results for stamp, _, results in recording.sequencer if stamp <= segment.start]
    known = len(before[-1]) if before else 0
    for stamp, _, results in recording.sequencer:
        if segment.start < stamp <= until:
            mine = [told for text, told in results[known:] if text == segment.instruction and told]
            if mine:
                outcome = mine[0].lower()
                break
    paused = any(
        state == "PAUSED" and segment.start <= stamp <= segment.end for stamp, state, _ in recording.sequencer
    )
    return {
        "outcome": outcome,
        "operator_help": paused or takeover,
        "takeover": takeover,
        "bag": recording.folder.name,
        "start_ns": segment.start,
    }


def _by_status(recording: Recording) -> list[Segment]:
    found: list[Segment] = []
    entries = recording.policy
    index = 0
    while index < len(entries):
        start, text, number, _ = entries[index]
        stop = index
        done: int | None = None
        while stop < len(entries) and entries[stop][1:3] == (text, number) and entries[stop][3] in OBEYED:
            done = entries[stop][0] if done is None and entries[stop][3] == "DONE" else done
            stop += 1
        end = entries[min(stop, len(entries) - 1)][0]
        end = end if done is None else min(end, done + round(TAIL * NS))
        if text and stop > index:
            found.append(Segment(text, start, end))
        index = max(stop, index + 1)
    return found


def _by_words(recording: Recording) -> list[Segment]:
    told = recording.instructions
    ends = [stamp for stamp, _ in told[1:]] + [int(recording.joints.stamps[-1])]
    return [Segment(text, stamp, end) for (stamp, text), end in zip(told, ends, strict=True) if text]


def _teleoperated(recording: Recording, moments: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not recording.health:
        return np.zeros(len(moments), dtype=bool)
    stamps = np.array([stamp for stamp, _ in recording.health], dtype=np.int64)
    led = np.array([state == "TELEOPERATED" for _, state in recording.health])
    index = np.searchsorted(stamps, moments, side="right") - 1
    return np.where(index >= 0, led[np.maximum(index, 0)], False)


def _nearest(stamps: NDArray[np.int64], moments: NDArray[np.int64]) -> NDArray[np.int64]:
    after = np.clip(np.searchsorted(stamps, moments), 1, max(len(stamps) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(stamps) - 1)
    return np.where(moments - stamps[before] <= stamps[after] - moments, before, after)


def _interpolated(due: NDArray[np.int64], points: Array, moment: int) -> Array:
    seconds = (due - due[0]) / NS
    return np.array([np.interp((moment - due[0]) / NS, seconds, column) for column in points.T])


def _pictures(
    recording: Recording, episode: _Episode, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, Iterator[Picture]]:
    """By camera, in the order of the frames; one episode's messages are held at a time."""
    wanted = {name: {int(stamp) for stamp in stamps} for name, stamps in episode.stamps.items()}
    held = {(name, stamp): (data, kind) for name, stamp, data, kind in recording.pictures(wanted)}

    def frames(name: str) -> Iterator[Picture]:
        for stamp in episode.stamps[name]:
            yield _sized(recording.decode(*held[name, int(stamp)]), sizes[name])

    return {name: frames(name) for name in episode.stamps}


def _size(recording: Recording, episodes: Sequence[_Episode], camera: str) -> tuple[int, int]:
    wanted = {camera: {int(episodes[0].stamps[camera][0])}}
    _, _, data, kind = next(recording.pictures(wanted))
    height, width = recording.decode(data, kind).shape[:2]
    return width, height


def _sized(picture: Picture, size: tuple[int, int]) -> Picture:
    import cv2

    if picture.shape[1::-1] == size:
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
