# SPDX-License-Identifier: Apache-2.0
"""The real node's e-stop while it is busy or at fault, and what it says of starts that cannot work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from arm_graph import Graph
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from chefmate_driver.arm.black_box import story
from chefmate_driver.feetech.emulator import EmulatedPort


def change(graph: Graph, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(graph.listener.call("arm/change_state", ChangeState, request, timeout=30.0).success)


def test_an_estop_is_heard_while_a_torque_call_is_waited_for(
    start_arm: Any, port: EmulatedPort, listener: Any
) -> None:
    graph = Graph(
        listener, start_arm(torque_on_start=False, reply_timeout=0.4, retries=4, answer_timeout=5.0)
    )
    graph.until_state("READY", 40.0)
    button = listener.publisher("estop", Bool)
    torque, estop = (
        listener.node.create_client(SetBool, "arm/torque"),
        listener.node.create_client(Trigger, "arm/estop"),
    )
    listener.until(lambda: torque.service_is_ready() and estop.service_is_ready(), 20.0, "both services")
    port.emulator.faults.silent = {3}
    waits = torque.call_async(SetBool.Request(data=True))
    time.sleep(0.2)  # the node is in the call now, for two seconds and more
    began = time.monotonic()
    button.publish(Bool(data=True))
    stops = estop.call_async(Trigger.Request())
    listener.until(stops.done, 10.0, "an answer of arm/estop")
    took = time.monotonic() - began
    assert not waits.done()
    assert took < 1.0
    assert stops.result().message.startswith("latched: torque is off, so nothing moves")
    graph.process.until_output("e-stop: true on the topic estop")
    listener.until(waits.done, 20.0, "an answer of arm/torque")
    assert not waits.result().success
    port.emulator.faults.silent = set()
    assert graph.until_state("ESTOPPED", 20.0).reason == "e-stop: true on the topic estop"


def test_an_estop_at_fault_says_what_holds_and_writes_a_black_box_and_a_cleanup_rearms_nothing(
    graph: Graph, port: EmulatedPort
) -> None:
    port.emulator.faults.silent = {4}
    fault = graph.until_state("FAULT", 20.0)
    graph.listener.until(lambda: graph.health[-1].black_box.endswith("-fault.npz"), 10.0, "a file")
    said = graph.trigger("arm/estop").message
    assert said.startswith(f"latched: the arm is at fault ({fault.reason}), so nothing is written")
    graph.listener.until(lambda: graph.health[-1].black_box.endswith("-estop.npz"), 10.0, "a file")
    assert "e-stop: arm/estop was called" in story(Path(graph.health[-1].black_box))
    assert graph.health[-1].estop
    assert graph.trigger("arm/estop_release").success
    port.emulator.faults.silent = set()
    assert change(graph, Transition.TRANSITION_DEACTIVATE)
    assert change(graph, Transition.TRANSITION_CLEANUP)
    assert graph.until_state("FAULT").reason == fault.reason
    assert change(graph, Transition.TRANSITION_CONFIGURE)
    assert change(graph, Transition.TRANSITION_ACTIVATE)
    assert graph.until_state("FAULT").active
    assert graph.listener.call("arm/torque", SetBool, SetBool.Request(data=True)).success
    graph.until_state("HOLDING")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("black_box_folder", "~nosuchuser/boxes"), ("calibration", "~nosuchuser/arm.json")],
)
def test_a_folder_of_nobody_ends_the_node_with_the_parameters_name(
    start_arm: Any, port: EmulatedPort, parameter: str, value: str
) -> None:
    process = start_arm(**{parameter: value})
    assert process.wait() == 1
    assert f"the parameter `{parameter}` is '{value}'" in process.output
    assert "Traceback" not in process.output
