# SPDX-License-Identifier: Apache-2.0
"""Polled subscriptions keep their messages and leave the executor alone."""

from __future__ import annotations

from typing import Any

from rclpy.qos import QoSProfile
from std_msgs.msg import String

from chefmate_ros.polling import polled_subscription, take_all


def test_unread_messages_do_not_wake_the_executor_and_are_kept_to_the_depth(listener: Any) -> None:
    node = listener.node
    subscription = polled_subscription(node, String, "words", QoSProfile(depth=5))
    publisher = listener.publisher("words", String)
    ticks: list[float] = []
    node.create_timer(0.05, lambda: ticks.append(0.0))
    for number in range(20):
        publisher.publish(String(data=str(number)))
    wakes = 0

    def count() -> bool:
        nonlocal wakes
        wakes += 1
        return len(ticks) >= 20

    listener.until(count, 5.0, "20 ticks of the timer beside unread messages")
    assert wakes < 150, "each tick and each end of a 20 ms look is a wake, unread messages are none"
    assert [message.data for message, _ in take_all(subscription)] == ["15", "16", "17", "18", "19"]
    assert not list(take_all(subscription))
