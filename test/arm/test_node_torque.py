# SPDX-License-Identifier: Apache-2.0
"""The real node: teleoperation, torque at its end, its black box, and two of them on one machine."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arm_graph import GOAL, START, TWIN, Graph, yaml_text
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool

from chefmate_driver.arm.black_box import story
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.faults import Fault, FaultKind, FaultScript
from chefmate_driver.feetech.plant import SimplePlant

PARKED_ELBOW = 1.66  # rad, config/arm.yaml


def switch(graph: Graph, service: str, on: bool) -> Any:
    return graph.listener.call(service, SetBool, SetBool.Request(data=on))


class LeaderArm:
    """Publishes a pose as a leader node does, at 50 Hz, in a thread: whatever the test is waiting for."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._publisher = graph.listener.publisher("teleop/joint_command", JointState)
        self.pose = list(START)
        self._silent = threading.Event()
        self._thread = threading.Thread(target=self._speak_on, daemon=True)
        self._thread.start()

    def _speak_on(self) -> None:
        while not self._silent.wait(0.02):
            self.speak()

    def speak(self, names: Any = JOINT_NAMES) -> None:
        """One command."""
        message = JointState(name=list(names), position=self.pose[: len(names)])
        message.header.stamp = self._graph.listener.node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def fall_silent(self) -> None:
        self._silent.set()
        self._thread.join()

    def engage(self) -> None:
        """As often as it takes: on a busy machine this leader may itself be silent for too long."""

        def engaged() -> bool:
            if self._graph.health[-1].state != "TELEOPERATED":
                switch(self._graph, "arm/teleop", True)
            return bool(self._graph.health[-1].state == "TELEOPERATED")

        self._graph.listener.until(engaged, 30.0, "TELEOPERATED")


def test_a_leader_drives_after_a_slow_engagement_and_its_silence_ends_that(
    graph: Graph, plant: SimplePlant
) -> None:
    refused = switch(graph, "arm/teleop", True)
    assert not refused.success and "nothing fresh on teleop/joint_command yet" in refused.message
    leader = LeaderArm(graph)
    leader.pose[0] += 0.5
    leader.engage()
    assert any(h.reason.startswith("engaging: shoulder_pan") for h in graph.health), "a named ramp"
    graph.listener.until(lambda: abs(graph.positions[0] - leader.pose[0]) < 0.01, 10.0, "the leader's pose")
    graph.listener.until(lambda: graph.health[-1].reason == "", 3.0, "nothing more to wait for")
    rejected = graph.health[-1].rejected_trajectories
    graph.send([GOAL], [0.5])
    graph.listener.until(
        lambda: graph.health[-1].rejected_trajectories == rejected + 1, 5.0, "a counted rejection"
    )
    leader.pose[5] += 0.3
    graph.listener.until(
        lambda: abs(plant.positions[5] - leader.pose[5]) < 0.02, 10.0, "the mirrored gripper"
    )
    leader.fall_silent()
    health = graph.until_state("HOLDING")
    assert health.reason.startswith("teleoperation ended: the leader is silent for 0.2")
    for _ in range(10):
        leader.speak()
        graph.listener.spin(0.02)
    assert graph.until_state("HOLDING").torque


def test_an_estop_ends_teleoperation_and_diagnostics_tell_what_there_is_to_tell(graph: Graph) -> None:
    heard = graph.listener.subscribe("/diagnostics", DiagnosticArray)
    leader = LeaderArm(graph)
    leader.engage()
    assert graph.trigger("arm/estop").success
    graph.until_state("ESTOPPED")
    assert not switch(graph, "arm/teleop", True).success
    leader.fall_silent()
    leader.speak(JOINT_NAMES[:3])

    def counted() -> bool:
        entries = [e for a in heard for s in a.status if s.name.endswith("trajectories") for e in s.values]
        return any(e.key == "rejected_leader_commands" and e.value == "1" for e in entries)

    graph.listener.until(counted, 5.0, "a counted command")

    def told() -> dict[str, dict[str, str]]:
        return {s.name: {e.key: e.value for e in s.values} for s in heard[-1].status}

    graph.listener.until(lambda: float(told()["arm: timing"]["loop_rate"]) > 80.0, 20.0, "nearly 100 Hz")
    values = told()
    timing = values["arm: timing"]
    assert float(timing["wanted_rate"]) == 100.0
    assert sum(int(v) for k, v in timing.items() if k.startswith("lateness_") and k.endswith("_ms")) > 50
    assert "SCHED_FIFO" in timing["scheduling"] or "normal scheduling" in timing["scheduling"]
    assert values["arm: protection"]["stage"] == "NORMAL"
    assert values["arm: servo 6 gripper"]["settings"] == "as expected"
    assert any(key.startswith("filter: ") for key in values["arm: trajectories"])


def test_the_estop_writes_a_black_box_and_limp_is_a_call_of_its_own(graph: Graph, plant: SimplePlant) -> None:
    words = graph.listener.publisher("instruction", String)
    words.publish(String(data="pick up the bread"))
    graph.send([GOAL], [2.0])
    graph.until_moving()
    graph.trigger("arm/estop")
    graph.listener.until(lambda: graph.health[-1].black_box, 10.0, "a black box file")
    told = story(Path(graph.health[-1].black_box))
    for words in ("pick up the bread", "one-shot, 1 points", "ESTOPPED", "arm/estop was called"):
        assert words in told
    graph.process.until_output("black box written")
    assert plant.enabled.all()
    assert switch(graph, "arm/torque", False).success
    health = graph.until_state("ESTOPPED")
    assert not health.torque and not plant.enabled.any()


def test_a_full_disk_is_said_and_the_arm_does_not_mind(
    start_arm: Any, port: EmulatedPort, listener: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    graph = Graph(listener, start_arm(black_box_folder=tmp_path / "file" / "box"))
    graph.until_state("HOLDING", 40.0)
    graph.trigger("arm/estop")
    graph.process.until_output("the black box could not be written")
    assert graph.trigger("arm/estop_release").success
    graph.until_state("HOLDING")


def test_a_restarted_node_says_that_the_servos_held(graph: Graph, start_arm: Any) -> None:
    graph.kill()
    graph.process = start_arm(torque_on_start=False)
    health = graph.until_state("HOLDING", 40.0)
    assert health.reason.startswith("the servos held torque already, left so by an earlier node")
    graph.process.until_output("the servos held torque already")


def test_a_second_signal_ends_parking_and_holds(
    start_arm: Any, port: EmulatedPort, listener: Any, plant: Any
) -> None:
    graph = Graph(listener, start_arm(park_on_shutdown=True, slow_speed=0.1))
    graph.until_state("HOLDING", 40.0)
    listener.until(lambda: graph.states, 10.0, "joint states, which are found apart from the arm's health")
    graph.process.process.send_signal(signal.SIGINT)
    graph.process.until_output("parking, ")
    graph.until_moving_slowly()
    time.sleep(0.6)  # one wish is what comes within half a second
    assert graph.process.stop(signal.SIGTERM, 15.0) == 0
    assert "parking was cut short: holding, torque stays on" in graph.process.output
    assert plant.enabled.all() and np.abs(plant.velocities).max() < 0.05
    assert plant.positions[2] < PARKED_ELBOW - 0.2


@pytest.mark.parametrize("before", ["estop", "held object"])
def test_parking_at_the_end_leaves_out_what_it_must(
    start_arm: Any, port: EmulatedPort, listener: Any, plant: SimplePlant, before: str
) -> None:
    graph = Graph(listener, start_arm(park_on_shutdown=True, slow_speed=2.0))
    graph.until_state("HOLDING", 40.0)
    if before == "estop":
        graph.trigger("arm/estop")
        graph.until_state("ESTOPPED")
        words = "cannot park: the arm is ESTOPPED"
    else:
        port.play(FaultScript((Fault(FaultKind.STUCK, ids=(6,)),)))
        graph.send([[*START[:5], 0.1]], [0.3])
        graph.until_state("FOLLOWING")
        graph.until_state("HOLDING")
        words = "parked; the gripper holds something, so torque stays on"
    assert graph.process.stop(signal.SIGINT) == 0
    assert words in graph.process.output
    assert plant.enabled.all()


def test_two_nodes_under_namespaces_drive_two_arms(
    start_process: Callable[..., Any], ros_domain: int, listener: Any, tmp_path: Path
) -> None:
    from arm_graph import CONFIG

    plants = {side: SimplePlant(START) for side in ("left", "right")}
    with (
        emulated_arm(TWIN, plants["left"], tmp_path / "left"),
        emulated_arm(TWIN, plants["right"], tmp_path / "right"),
    ):
        graphs = {}
        for side in plants:
            values = {
                "port": tmp_path / side,
                "calibration": "twin",
                "torque_on_start": True,
                "park_on_shutdown": False,
                "black_box_folder": tmp_path / "box",
            }
            words = [word for name, value in values.items() for word in ("-p", f"{name}:={yaml_text(value)}")]
            process = start_process(
                [
                    "python",
                    "-m",
                    "chefmate_driver.arm.node",
                    "--ros-args",
                    "-r",
                    f"__ns:=/{side}",
                    "--params-file",
                    str(CONFIG),
                    *words,
                ]
            )
            graphs[side] = Graph(listener, process, f"{side}/")
        for graph in graphs.values():
            graph.until_state("HOLDING", 40.0)
        graphs["left"].send([GOAL], [1.0])
        graphs["left"].until_moving()
        assert graphs["right"].trigger("right/arm/estop").success
        graphs["right"].until_state("ESTOPPED")
        listener.until(
            lambda: np.abs(graphs["left"].positions - GOAL).max() < 0.01, 10.0, "the left arm's goal"
        )
        graphs["left"].until_state("HOLDING")
        assert plants["right"].positions == pytest.approx(START, abs=5e-3)
        listener.until(lambda: graphs["right"].health[-1].black_box, 10.0, "the right arm's black box")
        assert Path(graphs["right"].health[-1].black_box).name.startswith("right_arm-")
