# SPDX-License-Identifier: Apache-2.0
"""Subscriptions that are looked at when their messages are wanted, instead of waking the executor for each.

rclpy builds its wait set anew for every wake, about 0.3 ms on a small machine; at 200 messages a second that
is a tenth of a core for messages of which only the newest ten or twenty a second are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription


class _Never(CallbackGroup):  # type: ignore[misc]
    """Callback group that no executor runs."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing began."""


def polled_subscription(
    node: Node, kind: type, topic: str, qos: QoSProfile, raw: bool = False
) -> Subscription:
    """A subscription for `take_all`; node.destroy_subscription ends it.

    It has no QoS events either: with rmw_fastrtps an event of a subscription that is itself missing from the
    wait set wakes that wait set for every unread message, and the executor spins without serving its timers.
    """
    return node.create_subscription(
        kind,
        topic,
        _unused,
        qos,
        callback_group=_Never(),
        event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        raw=raw,
    )


def take_all(subscription: Subscription) -> Iterator[tuple[Any, dict[str, int]]]:
    """Messages that wait at a polled subscription (bytes for a raw one), oldest first, with their info:
    source_timestamp and received_timestamp, ns since the epoch."""
    # At most as many as its queue holds, so that a fast publisher cannot keep the caller here.
    for _ in range(max(1, subscription.qos_profile.depth)):
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        if taken is None:
            return
        yield taken


def _unused(message: Any) -> None:
    """rclpy wants a callback."""
