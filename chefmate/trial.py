# SPDX-License-Identifier: Apache-2.0
"""One instruction on one layout of a running twin, judged by its truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from chefmate_msgs.msg import PolicyStatus, SequencerStatus, WorkcellObject, WorkcellState
from chefmate_msgs.srv import KitchenPlace, KitchenReset
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from chefmate.errors import ChefmateError
from chefmate.observer import Observer, stack
from chefmate.rearming import Rearming

INSTRUCTION_QOS = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE
)
SETTLE_PATIENCE = 20.0  # s for reset and a quiet arm between trials
GAVE_UP = 3.0  # s of DONE with nothing on the plate: the policy will not go on


class TrialRunner:
    """Resets the twin, gives an instruction and watches what is taken."""

    def __init__(self, alive: Callable[[], bool]) -> None:
        """Joins the graph of the current domain; `alive` false ends every wait with an error."""
        self._alive = alive
        self.node = Node("trial_runner")
        self.observer = Observer(self.node)
        self._instruction = self.node.create_publisher(String, "instruction", INSTRUCTION_QOS)
        self._reset = self.node.create_client(KitchenReset, "kitchen/reset")
        self._place = self.node.create_client(KitchenPlace, "kitchen/place")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def __enter__(self) -> TrialRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self.node.destroy_node()

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Spins until the condition holds; False when time is over or the graph ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or not self._alive():
                return False
            self._executor.spin_once(0.05)
        return True

    def wait_ready(self, seconds: float) -> None:
        """Waits until the sequencer is ready for goals, which means that every other node is.

        Raises:
            ChefmateError: it is not, saying what it waits for.
        """

        rearming = Rearming(self.node, self.node.get_logger().warning)

        def ready() -> bool:
            rearming.look(self.observer.arm)
            status = self.observer.sequencer
            if fault := self.observer.policy_fault():
                raise ChefmateError(f"the graph is not ready: {fault}")
            return status is not None and status.state == SequencerStatus.IDLE

        if not self.wait(ready, seconds):
            why = (
                self.observer.sequencer.reason
                if self.observer.sequencer
                else "the sequencer has not been heard"
            )
            raise ChefmateError(f"the graph is not ready: {why}")

    def say(self, text: str) -> None:
        """Publishes an instruction."""
        self._instruction.publish(String(data=text))

    def spin(self, seconds: float) -> None:
        """Works off what has arrived, for `seconds` at most."""
        self._executor.spin_once(seconds)

    def place(self, name: str, place: str) -> None:
        """Moves a slice by hand, as `kitchen/place` does. Raises ChefmateError: refused, or no answer."""
        if not self.wait(self._place.service_is_ready, SETTLE_PATIENCE):
            raise ChefmateError("nobody serves kitchen/place; is this the twin?")
        future = self._place.call_async(KitchenPlace.Request(name=name, place=place, slot=-1))
        if not self.wait(future.done, SETTLE_PATIENCE) or not future.result().success:
            reason = future.result().message if future.done() else "no answer"
            raise ChefmateError(f"kitchen/place of {name} failed: {reason}")

    def reset(self, seed: int, slots: Sequence[str] = ()) -> WorkcellState:
        """A new layout; returns its truth. slots: ingredient of each slot; none: drawn from the seed.

        Raises:
            ChefmateError: the kitchen refused or does not answer.
        """
        self.say("")
        quiet = (PolicyStatus.IDLE, PolicyStatus.INACTIVE)
        self.wait(
            lambda: self.observer.policy is not None and self.observer.policy.state in quiet, SETTLE_PATIENCE
        )
        if not self.wait(self._reset.service_is_ready, SETTLE_PATIENCE):
            raise ChefmateError("nobody serves kitchen/reset; is this the twin?")
        future = self._reset.call_async(KitchenReset.Request(seed=seed, slots=list(slots)))
        if not self.wait(future.done, SETTLE_PATIENCE) or not future.result().success:
            reason = future.result().message if future.done() else "no answer"
            raise ChefmateError(f"kitchen/reset with seed {seed} failed: {reason}")
        moment = self.node.get_clock().now().nanoseconds
        if not self.wait(lambda: self.observer.truth_after(moment) is not None, SETTLE_PATIENCE):
            raise ChefmateError("the kitchen publishes no truth after a reset")
        assert self.observer.truth is not None
        return self.observer.truth

    def run(self, seed: int, named: str, text: str, seconds: float) -> dict[str, Any]:
        """One trial.

        Returns:
            seed, named and taken ingredient (None: nothing), slot of the named one, placed (the named one
            lies on the plate), seconds until then.
        """
        before = self.reset(seed)
        slots = {item.slot: item.ingredient for item in before.objects if item.place == WorkcellObject.HOLDER}
        started = time.monotonic()
        taken: list[str] = []
        done_since: list[float] = []

        def finished() -> bool:
            truth, policy = self.observer.truth, self.observer.policy
            assert truth is not None
            left = {item.slot for item in truth.objects if item.place == WorkcellObject.HOLDER}
            taken.extend(slots[slot] for slot in slots if slot not in left and not taken)
            if any(
                item.ingredient == named and item.place == WorkcellObject.PLATE and item.stack_index >= 0
                for item in truth.objects
            ):
                return True
            if policy is not None and policy.state == PolicyStatus.DONE and policy.instruction == text:
                done_since.append(time.monotonic())
                return time.monotonic() - done_since[0] > GAVE_UP
            done_since.clear()
            return False

        self.say(text)
        self.wait(finished, seconds)
        truth = self.observer.truth
        assert truth is not None
        on_plate = stack(truth)
        self.say("")
        return {
            "seed": seed,
            "named": named,
            "taken": taken[0] if taken else None,
            "slots": [slot for slot, ingredient in slots.items() if ingredient == named],
            "placed": on_plate == [named],
            "seconds": round(time.monotonic() - started, 1),
        }
