# SPDX-License-Identifier: Apache-2.0
"""recorder_node: records configured topics into a rosbag2 folder (MCAP), as received and without decoding
them; or, with `episodes`, into one folder after the other, when it is told to."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from std_srvs.srv import Trigger

from chefmate_policy.data.bag import BagRecorder, BagTotals
from chefmate_policy.data.message_types import RecordingError
from chefmate_ros.parameters import Parameter, declare
from chefmate_ros.polling import polled_subscription, take_all
from chefmate_ros.running import run

GB, MB = 10**9, 10**6  # bytes
RELIABLE = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=100, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
SENSOR = QoSProfile(depth=30, reliability=QoSReliabilityPolicy.BEST_EFFORT)
QOS = {"reliable": RELIABLE, "latched": LATCHED, "sensor": SENSOR}
"""Third word of an entry of `topics`; latched also receives what was published before the recorder
started."""
FOREVER = QosTime(9223372036, 854775807)
"""RMW_DURATION_INFINITE"""

POLL_PERIOD = 0.05
"""s; the shortest queue (30 messages) then lasts to 600 Hz. Stamps are the middleware's, so they do not
suffer."""

INSTRUCTION = "instruction"  # said once: a recording that begins later starts with what was said last
EPISODE = "episode_{number:04d}"

DEFAULT_TOPICS = ["/diagnostics diagnostic_msgs/msg/DiagnosticArray reliable"]
PARAMETERS = (
    Parameter("folder", "", "of the bag; must not exist yet"),
    Parameter("episodes", False, "true: folder holds a bag for each start and stop of the node's services"),
    Parameter("topics", DEFAULT_TOPICS, "entries 'TOPIC TYPE QOS' with QOS one of reliable, latched, sensor"),
    Parameter("min_free_space", 1.0, "GB; the recording ends when the disk has less", (0.0, 1e9)),
    Parameter("queue_size", 64.0, "MB of messages that may wait for the disk", (1.0, 4096.0)),
    Parameter(
        "flush_period", 1.0, "s between flushes; a killed recorder loses at most this much", (0.1, 60.0)
    ),
)


@dataclass(frozen=True)
class Topic:
    """One entry of `topics`."""

    name: str
    message_type: str
    qos: str


@dataclass
class Recorded:
    """A topic, its subscription, and its connection in the bag once a message has come."""

    topic: Topic
    subscription: Any
    connection: Connection | None = None
    last: bytes | None = None

    @property
    def lasts(self) -> bool:
        """Whether what was said before a recording still counts in it."""
        return self.topic.qos == "latched" or self.topic.name == INSTRUCTION


def parse_topic(entry: str) -> Topic:
    """One entry 'TOPIC TYPE QOS'.

    Raises:
        RecordingError: not three words, or an unknown QOS.
    """
    words = entry.split()
    if len(words) != 3 or words[1].count("/") != 2 or words[2] not in QOS:
        raise RecordingError(
            f"parameter topics: {entry!r} must be 'TOPIC package/msg/Type QOS', QOS one of {', '.join(QOS)}."
        )
    return Topic(*words)


class RecorderNode(Node):  # type: ignore[misc]
    """Records from its start to its end; with `episodes`, between `start` and `stop`, to folder/episode_0000
    and so on. A recording that ends by itself (disk full) leaves the node alive to say so.

    Raises:
        RecordingError: from the constructor: a wrong topic list, or a folder that cannot be used.
    """

    def __init__(self, name: str = "recorder", **arguments: Any) -> None:
        super().__init__(name, **arguments)
        values = declare(self, PARAMETERS)
        folder = values["folder"]
        if not folder:
            raise RecordingError("parameter folder is empty: name a folder for the recording.")
        topics = [parse_topic(entry) for entry in values["topics"]]
        kinds = [_message_class(topic.message_type) for topic in topics]
        self._folder, self._values = Path(folder).expanduser(), values
        self._bag: BagRecorder | None = None
        if not values["episodes"]:
            self._bag = self._new_bag(self._folder)
        else:
            for name, verb in (("start", self.start), ("stop", self.stop), ("discard", self.discard)):
                self.create_service(Trigger, f"~/{name}", _answering(verb))
        self._said_error = self._closed = False
        self._recorded = [
            Recorded(topic, polled_subscription(self, kind, topic.name, QOS[topic.qos], raw=True))
            for topic, kind in zip(topics, kinds, strict=True)
        ]
        self.create_timer(POLL_PERIOD, self._poll)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._on_timer)
        begun = f"recording {len(topics)} topics to {self._folder}"
        self.get_logger().info(begun if self._bag else f"ready for episodes in {self._folder}")

    def start(self) -> str:
        """Begins an episode. Raises RecordingError: one is in progress, the folder cannot be used."""
        if self._bag is not None:
            raise RecordingError(f"{self._bag.folder} is being recorded: stop or discard it first.")
        self._poll()
        number = 0
        while (folder := self._folder / EPISODE.format(number=number)).exists():
            number += 1
        self._bag, self._said_error = self._new_bag(folder), False
        now = self.get_clock().now().nanoseconds
        for entry in self._recorded:
            entry.connection = None
            if entry.lasts and entry.last is not None and (connection := self._connect(entry)) is not None:
                self._bag.write(connection, now, entry.last)
        return f"recording to {folder}"

    def stop(self) -> str:
        """Ends the episode and keeps it. Raises RecordingError: there is none, or it ended by itself."""
        self._poll()
        bag, self._bag = self._bag, None
        if bag is None:
            raise RecordingError("no episode is being recorded: start one first.")
        bag.close()
        return f"recorded {bag.totals.messages} messages to {bag.folder}"

    def discard(self) -> str:
        """Ends the episode and removes it. Raises RecordingError: there is none."""
        bag, self._bag = self._bag, None
        if bag is None:
            raise RecordingError("no episode is being recorded: start one first.")
        with suppress(RecordingError):  # it goes anyway
            bag.close()
        shutil.rmtree(bag.folder, ignore_errors=True)
        return f"discarded {bag.folder}"

    def _new_bag(self, folder: Path) -> BagRecorder:
        return BagRecorder(
            folder,
            min_free_space=int(self._values["min_free_space"] * GB),
            queue_size=int(self._values["queue_size"] * MB),
            flush_period=self._values["flush_period"],
        )

    def _poll(self) -> None:
        """Records what has arrived since the last time."""
        if self._bag is not None and self._bag.error:
            return
        for entry in self._recorded:
            for data, info in take_all(entry.subscription):
                if entry.lasts:
                    entry.last = bytes(data)
                if self._bag is None:
                    continue
                connection = entry.connection or self._connect(entry)
                if connection is None:
                    return
                # Not every middleware tells when it received a message.
                stamp = info["received_timestamp"] or self.get_clock().now().nanoseconds
                self._bag.write(connection, stamp, data)

    def _connect(self, entry: Recorded) -> Connection | None:
        """Adds the topic to the bag at its first message. None: the recording has ended; the timer says
        so."""
        topic, full_name = entry.topic, self.resolve_topic_name(entry.topic.name)
        assert self._bag is not None
        try:
            entry.connection = self._bag.add(full_name, topic.message_type, self._offered(full_name, topic))
        except RecordingError:
            return None
        return entry.connection

    def _offered(self, full_name: str, topic: Topic) -> list[Qos]:
        """What the topic's publishers offer, so that a replay offers the same."""
        profiles = [end.qos_profile for end in self.get_publishers_info_by_topic(full_name)] or [
            QOS[topic.qos]
        ]
        distinct = {(profile.reliability.name, profile.durability.name) for profile in profiles}
        return [
            Qos(
                history=QosHistory.KEEP_LAST,
                depth=QOS[topic.qos].depth,
                reliability=QosReliability[reliability],
                durability=QosDurability[durability],
                deadline=FOREVER,
                lifespan=FOREVER,
                liveliness=QosLiveliness.AUTOMATIC,
                liveliness_lease_duration=FOREVER,
                avoid_ros_namespace_conventions=False,
            )
            for reliability, durability in sorted(distinct)
        ]

    def _on_timer(self) -> None:
        totals = self._bag.totals if self._bag else BagTotals(0, 0, 0)
        error = self._bag.error if self._bag else ""
        if error and not self._said_error:
            self._said_error = True
            self.get_logger().error(error)
            if not self._values["episodes"]:
                for entry in self._recorded:
                    self.destroy_subscription(entry.subscription)
                self._recorded.clear()
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK,
            name=f"{self.get_fully_qualified_name().lstrip('/')}: recording",
            hardware_id=str(self._bag.folder if self._bag else self._folder),
            message=f"{totals.messages} messages, {totals.size / MB:.1f} MB" if self._bag else "no episode",
            values=[
                KeyValue(key="messages", value=str(totals.messages)),
                KeyValue(key="bytes", value=str(totals.size)),
                KeyValue(key="dropped", value=str(totals.dropped)),
            ],
        )
        if error:
            status.level, status.message = DiagnosticStatus.ERROR, error
        elif totals.dropped:
            status.level = DiagnosticStatus.WARN
            status.message += f"; {totals.dropped} dropped, the disk is too slow"
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def close(self) -> None:
        """Ends the recording: index and metadata.yaml are written."""
        if self._closed:
            return
        self._closed = True
        self._poll()  # what came since the last time
        if self._bag is None:
            return
        try:
            self._bag.close()
        except RecordingError as error:
            if not self._said_error:
                self.get_logger().error(str(error))
            return
        totals = self._bag.totals
        self.get_logger().info(
            f"recorded {totals.messages} messages, {totals.size / MB:.1f} MB, to {self._bag.folder}"
        )


def _answering(verb: Callable[[], str]) -> Callable[[Any, Any], Any]:
    """A service's callback: what a verb says, or why it does not work."""

    def answer(request: Any, response: Any) -> Any:
        try:
            response.message, response.success = verb(), True
        except RecordingError as error:
            response.message, response.success = str(error), False
        return response

    return answer


def _message_class(name: str) -> Any:
    package, kind, message = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), message)
    except (ImportError, AttributeError) as error:
        raise RecordingError(
            f"parameter topics: message type {name!r} is not installed ({error})."
        ) from error


def main(args: list[str] | None = None) -> int:
    """Records until ctrl-C or SIGTERM; exit status 0, or 1 when the recording cannot start."""
    return run(RecorderNode, args, "recorder", (RecordingError,))


if __name__ == "__main__":
    sys.exit(main())
