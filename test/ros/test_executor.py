# SPDX-License-Identifier: Apache-2.0
"""The light executor: as prompt as rclpy's for timers and topics, prompt enough for services, fewer waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from chefmate_ros.executor import ATTENTIVE, RARE_PERIOD, LightExecutor
from chefmate_ros.spinning import SpinningThread

PATIENCE = 30.0  # s


@pytest.fixture
def context(listener: Any) -> Iterator[Context]:
    yield listener.context


@pytest.fixture
def node(context: Context) -> Iterator[Node]:
    made = rclpy.create_node("light", context=context)
    yield made
    made.destroy_node()


def waits_for(executor: SingleThreadedExecutor, node: Node, ticks: int) -> int:
    """How often the executor built a wait set while a timer of the node ticked."""
    seen = builds = 0

    def tick() -> None:
        nonlocal seen
        seen += 1

    guards = type(node).guards.fget
    assert guards is not None
    executor.add_node(node)
    executor.spin_once(timeout_sec=0.0)
    timer = node.create_timer(0.01, tick)
    can_execute = executor.can_execute

    def counting(entity: Any) -> bool:
        nonlocal builds
        builds += entity is timer
        return bool(can_execute(entity))

    executor.can_execute = counting
    while seen < ticks:
        executor.spin_once(timeout_sec=None)
    node.destroy_timer(timer)
    executor.remove_node(node)
    return builds


def test_a_tick_costs_one_wait_and_not_two(context: Context, node: Node) -> None:
    executor = LightExecutor(context=context)
    try:
        assert waits_for(executor, node, 50) <= 60
    finally:
        executor.shutdown()


def test_service_is_answered_beside_a_busy_timer(listener: Any, node: Node) -> None:
    """The timer keeps the executor in waits that leave services out; they come in at RARE_PERIOD."""
    ticks: list[float] = []
    node.create_timer(0.01, lambda: ticks.append(time.monotonic()))
    node.create_service(Trigger, "light/answer", lambda _, reply: reply)
    executor = LightExecutor(context=listener.context)
    executor.add_node(node)
    thread = SpinningThread(executor, "light")
    try:
        client = listener.node.create_client(Trigger, "light/answer")
        listener.until(client.service_is_ready, PATIENCE, "the service")
        time.sleep(ATTENTIVE + 2 * RARE_PERIOD)  # not readiness: until it is not attentive any more
        taken = []
        for _ in range(3):
            began = time.monotonic()
            answer = client.call_async(Trigger.Request())
            listener.until(answer.done, PATIENCE, "the answer")
            taken.append(time.monotonic() - began)
        assert len(ticks) > 20
        assert min(taken) < RARE_PERIOD + 0.1
    finally:
        thread.close()


def test_service_alone_is_answered_though_no_timer_ends_the_wait(listener: Any, node: Node) -> None:
    node.create_timer(100.0, lambda: None)
    node.create_service(Trigger, "light/alone", lambda _, reply: reply)
    executor = LightExecutor(context=listener.context)
    executor.add_node(node)
    thread = SpinningThread(executor, "light")
    try:
        client = listener.node.create_client(Trigger, "light/alone")
        listener.until(client.service_is_ready, PATIENCE, "the service")
        for _ in range(2):
            listener.until(client.call_async(Trigger.Request()).done, PATIENCE, "the answer")
    finally:
        thread.close()


def test_message_wakes_it_at_once_and_a_task_from_another_thread_too(listener: Any, node: Node) -> None:
    heard = threading.Event()
    node.create_subscription(String, "light/words", lambda _: heard.set(), 10)
    executor = LightExecutor(context=listener.context)
    executor.add_node(node)
    thread = SpinningThread(executor, "light")
    try:
        publisher = listener.publisher("light/words", String)
        publisher.publish(String(data="hello"))
        assert heard.wait(PATIENCE)
        done = threading.Event()
        executor.create_task(done.set)
        assert done.wait(PATIENCE)
    finally:
        began = time.monotonic()
        thread.close()
        assert time.monotonic() - began < 1.5, "closing waits for nobody"


def test_work_that_a_callback_makes_is_done_without_another_wake(context: Context, node: Node) -> None:
    executor = LightExecutor(context=context)
    executor.add_node(node)
    done: list[int] = []
    timer = node.create_timer(0.01, lambda: (timer.cancel(), executor.create_task(lambda: done.append(1))))
    deadline = time.monotonic() + PATIENCE
    while not done and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=1.0)
    executor.shutdown()
    assert done
