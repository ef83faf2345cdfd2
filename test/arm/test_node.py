# SPDX-License-Identifier: Apache-2.0
"""The real node as a process, over real DDS, on emulated servos behind a pty."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arm_graph import GOAL, START, TOPIC, TWIN, Graph, drive
from chefmate_msgs.msg import PolicyStatus
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from chefmate.rearming import Rearming
from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.controller import ArmController, ArmState
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.loop import ArmLoop
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.arm.safety import Limits, SafetyFilter
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.plant import SimplePlant


def test_joint_states_come_at_100_hz_with_names_and_fresh_stamps(graph: Graph) -> None:
    graph.states.clear()
    graph.listener.spin(2.0)
    assert len(graph.states) >= 190
    message = graph.states[-1]
    assert message.name == list(JOINT_NAMES)
    assert list(message.position) == pytest.approx(START, abs=2e-3)
    assert len(message.velocity) == len(message.effort) == 6
    stamps = np.array([m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in graph.states])
    assert (np.diff(stamps) > 0).all()
    assert time.time() - stamps[-1] < 1.0


def test_start_holds_the_pose_found_and_reports_the_servos(graph: Graph, plant: SimplePlant) -> None:
    health = graph.until_state("HOLDING")
    assert health.torque and not health.estop and health.reason == ""
    assert plant.enabled.all()
    assert plant.positions == pytest.approx(START, abs=2e-3)
    assert [servo.name for servo in health.servos] == list(JOINT_NAMES)
    for servo in health.servos:
        assert servo.present and servo.torque_enabled and servo.status == 0
        assert 11.0 < servo.voltage < 13.0 and 20.0 < servo.temperature < 40.0
    graph.listener.until(lambda: graph.health[-1].loop_rate > 90, 20.0, "nearly 100 Hz")


def test_a_trajectory_reaches_its_goal(graph: Graph, plant: SimplePlant) -> None:
    graph.health.clear()
    graph.send([GOAL], [1.0])
    graph.listener.until(lambda: any(h.state == "FOLLOWING" for h in graph.health), 8.0, "FOLLOWING")
    graph.until_state("HOLDING")
    graph.listener.until(lambda: np.abs(graph.positions - GOAL).max() < 5e-3, 2.0, "the goal in joint_states")
    assert plant.positions == pytest.approx(GOAL, abs=5e-3)


def test_the_estop_stops_latches_and_is_released(graph: Graph, plant: SimplePlant) -> None:
    graph.send([GOAL], [1.5])
    graph.until_moving()
    assert graph.trigger("arm/estop").success
    health = graph.until_state("ESTOPPED")
    assert health.estop and health.torque and "arm/estop was called" in health.reason
    graph.listener.until(lambda: max(map(abs, graph.states[-1].velocity)) < 0.01, 2.0, "a standing arm")
    stopped = graph.positions
    assert np.abs(stopped - GOAL).max() > 0.05
    rejected = graph.health[-1].rejected_trajectories
    graph.send([GOAL], [0.5])
    graph.listener.until(
        lambda: graph.health[-1].rejected_trajectories == rejected + 1, 3.0, "a counted rejection"
    )
    assert graph.positions == pytest.approx(stopped, abs=3e-3)
    assert graph.trigger("arm/estop_release").success
    graph.until_state("HOLDING")
    assert graph.positions == pytest.approx(stopped, abs=3e-3)
    graph.send([GOAL], [1.0])
    graph.listener.until(
        lambda: np.abs(graph.positions - GOAL).max() < 5e-3, 4.0, "the goal after the release"
    )


def test_the_estop_topic_latches_on_true_and_ignores_false(graph: Graph) -> None:
    publisher = graph.listener.publisher("estop", Bool)
    publisher.publish(Bool(data=False))
    graph.health.clear()
    graph.listener.until(lambda: len(graph.health) >= 4, 3.0, "four reports after false")
    assert not any(health.estop for health in graph.health)
    publisher.publish(Bool(data=True))
    graph.until_state("ESTOPPED")
    publisher.publish(Bool(data=False))
    graph.listener.spin(0.3)
    assert graph.until_state("ESTOPPED").estop


def test_a_leased_trajectory_ends_with_the_policys_heartbeats(graph: Graph) -> None:
    drive(graph)
    lost = time.monotonic()
    health = graph.until_state("HOLDING", 2.0)
    assert time.monotonic() - lost < 1.0
    assert health.reason.startswith("policy lease ended: no heartbeat for 0.2")
    assert "DRIVING" in health.reason
    assert np.abs(graph.positions - GOAL).max() > 0.1


@pytest.mark.parametrize("state", [PolicyStatus.IDLE, PolicyStatus.HOLDING])
def test_a_policy_that_says_it_does_not_drive_is_braked_within_a_tenth_of_a_second(
    graph: Graph, state: str
) -> None:
    policy = drive(graph, duration=2.0)
    before = len(graph.states)
    said = time.time()
    policy.publish(PolicyStatus(state=state, reason="because of the test"))
    reason = graph.until_state("HOLDING", 2.0).reason
    assert reason == f"policy lease ended: the policy is {state} (because of the test)"
    graph.listener.until(
        lambda: (
            graph.states[-1].header.stamp.sec + graph.states[-1].header.stamp.nanosec * 1e-9 > said + 0.25
        ),
        3.0,
        "joint states of the quarter of a second after",
    )
    stamps = np.array([m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in graph.states]) - said
    pan = np.abs([m.velocity[0] for m in graph.states])
    full = pan[before - 10 : before].max()
    assert full > 0.2
    # At 10 rad/s^2 what moves this slowly stands a few hundredths of a second after braking has begun; the
    # lease alone would let it go on until 0.25 s.
    assert pan[stamps > 0.1].max() < 0.5 * full


def test_after_the_release_of_an_estop_a_policy_that_drives_on_is_refused_until_it_pauses(
    graph: Graph,
) -> None:
    policy = drive(graph)
    assert graph.trigger("arm/estop").success
    graph.listener.until(lambda: max(map(abs, graph.states[-1].velocity)) < 0.01, 2.0, "a standing arm")
    assert graph.trigger("arm/estop_release").success
    graph.until_state("HOLDING")
    stopped, rejected = graph.positions, graph.health[-1].rejected_trajectories
    for _ in range(5):
        policy.publish(PolicyStatus(state=PolicyStatus.DRIVING))
        graph.send([GOAL], [1.0], frame="policy")
        graph.listener.spin(0.05)
    graph.listener.until(
        lambda: graph.health[-1].rejected_trajectories == rejected + 5, 3.0, "counted rejections"
    )
    graph.process.until_output("a pause of the policy after the release of the e-stop", 3.0)
    assert graph.positions == pytest.approx(stopped, abs=3e-3)
    drive(graph)  # begins with a pause


@pytest.mark.parametrize(
    ("names", "row", "times", "reason"),
    [
        (JOINT_NAMES[:5], GOAL[:5], [1.0], "missing joints gripper"),
        ([*JOINT_NAMES[:5], "jaw"], GOAL, [1.0], "unknown joint 'jaw'"),
        (JOINT_NAMES, [float("nan"), *GOAL[1:]], [1.0], "not finite"),
        (JOINT_NAMES, GOAL, [], "no points"),
    ],
)
def test_bad_trajectories_are_counted_named_and_move_nothing(
    graph: Graph, names: Any, row: list[float], times: list[float], reason: str
) -> None:
    graph.send([row] * len(times), times, names=names)
    graph.listener.until(lambda: graph.health[-1].rejected_trajectories == 1, 3.0, "a counted rejection")
    graph.process.until_output(reason, 3.0)
    assert graph.health[-1].state == "HOLDING"


def test_home_and_park_move_slowly_and_torque_off_then_is_limp(graph: Graph, plant: SimplePlant) -> None:
    reply = graph.trigger("arm/park")
    assert reply.success and "on the way" in reply.message
    graph.until_state("FOLLOWING")
    assert not graph.trigger("arm/home").success
    graph.until_state("HOLDING", 15.0)
    assert plant.positions[1] == pytest.approx(-1.72, abs=0.01)
    assert plant.positions[5] == pytest.approx(START[5], abs=0.01)
    assert graph.listener.call("arm/torque", SetBool, SetBool.Request(data=False)).success
    health = graph.until_state("READY")
    assert not health.torque and not plant.enabled.any()


def test_two_publishers_on_the_topic_are_a_warning(graph: Graph) -> None:
    heard = graph.listener.subscribe("/diagnostics", DiagnosticArray)
    for _ in range(2):
        graph.listener.publisher(TOPIC, JointTrajectory)

    def warned() -> bool:
        return any(
            s.message.startswith("2 publishers") and s.level == b"\x01" for a in heard for s in a.status
        )

    graph.listener.until(warned, 5.0, "a warning about two publishers")


def test_speed_override_is_live_and_range_checked(graph: Graph) -> None:
    from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
    from rcl_interfaces.srv import SetParameters

    def set_override(value: float) -> bool:
        content = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        request = SetParameters.Request(parameters=[Parameter(name="speed_override", value=content)])
        return bool(graph.listener.call("arm/set_parameters", SetParameters, request).results[0].successful)

    assert not set_override(2.0)
    assert not set_override(float("nan"))
    set_override(1.0000005)  # rclpy tolerates this much
    assert graph.until_state("HOLDING").state == "HOLDING"  # and the node lives
    assert set_override(0.1)
    graph.states.clear()
    graph.send([[START[0] + 0.4, *START[1:]]], [0.3])
    graph.listener.until(lambda: graph.health[-1].state == "FOLLOWING", 3.0, "motion")
    graph.until_state("HOLDING", 10.0)
    pan = np.array([state.position[0] for state in graph.states])
    assert np.abs(pan[20:] - pan[:-20]).max() < 0.2 * 0.2 * 1.25  # a fifth of a second at a tenth of 2 rad/s
    assert graph.health[-1].filter_interventions > 10


def test_a_silent_servo_is_a_fault_and_torque_by_hand_ends_it(graph: Graph, port: EmulatedPort) -> None:
    port.emulator.faults.silent = {3}
    health = graph.until_state("FAULT")
    assert "servo 3 (elbow_flex) has not answered" in health.reason
    assert not health.servos[2].present and health.servos[1].present
    port.emulator.faults.silent = set()
    graph.listener.until(lambda: graph.health[-1].servos[2].present, 3.0, "servo 3 again")
    graph.listener.spin(0.3)
    assert graph.health[-1].state == "FAULT"
    assert graph.listener.call("arm/torque", SetBool, SetBool.Request(data=True)).success
    graph.until_state("HOLDING")


def test_a_job_arms_again_what_fell_silent_before_its_goal(graph: Graph, port: EmulatedPort) -> None:
    port.emulator.faults.silent = {1, 2, 3, 4, 5, 6}
    graph.until_state("FAULT")
    port.emulator.faults.silent = set()
    graph.listener.until(lambda: all(s.present for s in graph.health[-1].servos), 3.0, "the servos again")
    said: list[str] = []
    rearming = Rearming(graph.listener.node, said.append)
    graph.listener.until(
        lambda: rearming.look(graph.health[-1]) or graph.health[-1].state == "HOLDING", 8.0, "an armed arm"
    )
    assert len(said) == 1 and "has not answered" in said[0]


def test_torque_lost_by_a_servo_is_a_fault(graph: Graph, port: EmulatedPort) -> None:
    port.emulator.servos[5].temperature = 80.0
    health = graph.until_state("FAULT")
    assert "torque went off by itself: gripper (status: temperature)" in health.reason


def test_a_vanished_port_is_a_named_fault_and_the_node_lives(
    graph: Graph, port: EmulatedPort, plant: SimplePlant
) -> None:
    heard = graph.listener.subscribe("/diagnostics", DiagnosticArray)
    graph.send([GOAL], [2.0])
    graph.until_moving()
    port.close()
    health = graph.until_state("FAULT")
    assert "is lost" in health.reason and str(port.link) in health.reason
    assert not graph.listener.call("arm/torque", SetBool, SetBool.Request(data=True)).success
    heard.clear()
    graph.listener.until(
        lambda: any(s.level == b"\x02" for a in heard for s in a.status), 5.0, "an error diagnostic"
    )
    graph.states.clear()
    graph.listener.spin(0.3)
    assert not graph.states  # nothing stale is published
    with emulated_arm(TWIN, plant, port.link):
        graph.listener.until(lambda: len(graph.states) > 10, 5.0, "joint states of the servos found again")
        assert graph.until_state("FAULT").reason == health.reason
        assert graph.listener.call("arm/torque", SetBool, SetBool.Request(data=True)).success
        graph.until_state("HOLDING")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_moving_brakes_holds_and_exits_0(
    graph: Graph, plant: SimplePlant, number: int
) -> None:
    graph.send([GOAL], [2.0])
    graph.until_moving()
    assert graph.process.stop(number) == 0
    assert "holding, torque stays on" in graph.process.output
    assert "Traceback" not in graph.process.output
    assert plant.enabled.all()
    assert np.abs(plant.velocities).max() < 0.05
    assert np.abs(plant.positions - GOAL).max() > 0.05


def test_park_on_shutdown_parks_and_lets_go(
    start_arm: Any, port: EmulatedPort, listener: Any, plant: SimplePlant
) -> None:
    graph = Graph(listener, start_arm(park_on_shutdown=True))
    graph.until_state("HOLDING", 20.0)
    assert graph.process.stop(signal.SIGINT, 30.0) == 0
    assert "parked, torque is off" in graph.process.output
    assert plant.positions[2] == pytest.approx(1.66, abs=0.02)
    assert not plant.enabled.any()


def test_a_restarted_node_takes_over_without_a_jump(graph: Graph, start_arm: Any, plant: SimplePlant) -> None:
    graph.send([GOAL], [2.0])
    graph.until_moving()
    graph.kill()  # the servos hold the last goal sent
    graph.process = start_arm()
    graph.until_state("HOLDING", 20.0)
    graph.listener.until(lambda: graph.states, 20.0, "joint states")
    first = np.array(graph.states[0].position)
    graph.listener.spin(0.3)
    assert graph.positions == pytest.approx(first, abs=3e-3)


def test_without_torque_on_start_the_arm_stays_limp(
    start_arm: Any, port: EmulatedPort, listener: Any, plant: SimplePlant
) -> None:
    graph = Graph(listener, start_arm(torque_on_start=False))
    assert not graph.until_state("READY", 20.0).torque
    assert not plant.enabled.any()


def test_lifecycle_services_bring_it_up_hold_it_and_free_the_port(
    start_arm: Any, port: EmulatedPort, listener: Any, plant: SimplePlant
) -> None:
    graph = Graph(listener, start_arm(autostart=False))

    def change(number: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=number))
        return bool(listener.call("arm/change_state", ChangeState, request, timeout=20.0).success)

    assert graph.until_state("UNPOWERED", 20.0).cycles == 0
    assert change(Transition.TRANSITION_CONFIGURE)
    graph.until_state("READY")
    assert not plant.enabled.any()
    assert change(Transition.TRANSITION_ACTIVATE)
    graph.until_state("HOLDING")
    graph.send([GOAL], [2.0])
    graph.until_moving()
    assert graph.health[-1].active
    assert change(Transition.TRANSITION_DEACTIVATE)
    health = graph.until_state("HOLDING")
    assert "deactivated" in health.reason and health.torque
    listener.until(lambda: not graph.health[-1].active, 5.0, "a node that says that it is not active")
    assert np.abs(plant.positions - GOAL).max() > 0.05
    rejected = graph.health[-1].rejected_trajectories
    graph.send([GOAL], [1.0])
    listener.until(lambda: graph.health[-1].rejected_trajectories == rejected + 1, 3.0, "a counted rejection")
    assert change(Transition.TRANSITION_CLEANUP)
    graph.until_state("UNPOWERED")
    assert plant.enabled.all()
    with FeetechBus(str(port.link), reply_timeout=0.1) as bus:
        assert bus.ping(1) == 0


def test_stale_goals_in_the_servos_do_not_make_the_start_jump(
    start_arm: Any, port: EmulatedPort, listener: Any, plant: SimplePlant
) -> None:
    with FeetechBus(str(port.link), reply_timeout=0.1) as bus:
        bus.sync_write("goal_position", dict.fromkeys(range(1, 7), 2300))
        assert bus.read(6, "goal_position") == 2300
    graph = Graph(listener, start_arm())
    graph.until_state("HOLDING", 20.0)
    graph.listener.spin(0.3)
    assert plant.positions == pytest.approx(START, abs=3e-3)
    assert max(np.abs(state.velocity).max() for state in graph.states) < 0.02


def test_shadow_mode_never_writes_a_goal(
    start_arm: Any, port: EmulatedPort, listener: Any, plant: SimplePlant
) -> None:
    before = plant.positions.copy()
    graph = Graph(listener, start_arm(execute=False))
    health = graph.until_state("READY", 20.0)
    assert "shadow mode: execute is false" in health.reason
    graph.process.until_output("shadow mode")
    goals = [servo.get("goal_position") for servo in port.emulator.servos]
    graph.send([GOAL], [0.3])
    graph.listener.spin(0.8)
    assert graph.health[-1].rejected_trajectories == 0
    assert not graph.listener.call("arm/torque", SetBool, SetBool.Request(data=True)).success
    assert [servo.get("goal_position") for servo in port.emulator.servos] == goals
    assert not plant.enabled.any()
    assert (plant.positions == before).all()


# Bad starts: one clear error and exit code 1.


def test_a_missing_port_ends_the_node(start_arm: Any) -> None:
    process = start_arm(port="/dev/no-such-port")
    assert process.wait() == 1
    assert "/dev/no-such-port does not exist" in process.output
    assert "Traceback" not in process.output


def test_a_port_that_appears_in_time_is_waited_for(
    start_arm: Any, plant: SimplePlant, tmp_path: Path, listener: Any
) -> None:
    graph = Graph(listener, start_arm(port_timeout=20.0))
    listener.until(lambda: graph.health and graph.health[-1].state == "UNPOWERED", 15.0, "a waiting node")
    with emulated_arm(TWIN, plant, tmp_path / "servos"):
        graph.until_state("HOLDING", 10.0)


def test_a_signal_ends_the_wait_for_a_port(start_arm: Any, listener: Any) -> None:
    graph = Graph(listener, start_arm(port_timeout=60.0))
    listener.until(lambda: graph.health, 15.0, "a waiting node")
    assert graph.process.stop(signal.SIGINT, 5.0) == 0


def test_a_port_that_answers_garbage_ends_the_node(start_arm: Any) -> None:
    master, slave = os.openpty()
    os.set_blocking(master, False)
    process = start_arm(port=os.ttyname(slave))
    try:
        while process.process.poll() is None:
            try:
                os.write(master, b"\x00garbage\xff\xff\x7e")
                os.read(master, 1000)
            except BlockingIOError:
                pass
            time.sleep(0.002)
    finally:
        os.close(master)
        os.close(slave)
    assert process.wait() == 1
    assert "none is a reply of servo 1" in process.output
    assert "Traceback" not in process.output


def test_a_second_instance_ends_with_the_first_ones_name(graph: Graph, start_arm: Any) -> None:
    second = start_arm()
    assert second.wait() == 1
    assert f"is in use by process {graph.process.pid}" in second.output
    assert graph.until_state("HOLDING").torque


def test_a_port_held_by_another_program_is_named(start_arm: Any, port: EmulatedPort) -> None:
    with FeetechBus(str(port.link)):
        process = start_arm()
        assert process.wait() == 1
    assert f"is in use by process {os.getpid()}" in process.output


def test_a_missing_calibration_ends_the_node(start_arm: Any, port: EmulatedPort) -> None:
    process = start_arm(calibration="nobody")
    assert process.wait() == 1
    assert "no calibration file 'nobody'" in process.output


def test_another_arms_calibration_ends_the_node(start_arm: Any, port: EmulatedPort) -> None:
    port.emulator.servos[2]._store("homing_offset", 77)
    process = start_arm()
    assert process.wait() == 1
    assert "elbow_flex: the servo's homing offset is 77, the calibration file says 0" in process.output


def test_missing_servos_are_named(start_arm: Any, port: EmulatedPort) -> None:
    port.emulator.faults.silent = {2, 6}
    process = start_arm()
    assert process.wait() == 1
    assert "no answer from servo 2 (shoulder_lift), 6 (gripper)" in process.output


def test_wrong_limits_are_named(start_arm: Any, port: EmulatedPort) -> None:
    process = start_arm(velocity_limits=[1.0, 1.0])
    assert process.wait() == 1
    assert "velocity_limits" in process.output


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"rate": 1.0}, "Parameter rate out of range"),
        ({"lease": ".nan"}, "lease"),
        ({"home_pose": "[0.0, .nan, 0.0, 0.0, 0.0]"}, "`home_pose` is nan for shoulder_lift"),
        ({"park_pose": "[0.0, 0.0, .inf, 0.0, 0.0]"}, "`park_pose` is inf for elbow_flex"),
        ({"velocity_limits": "[2.0, 2.0, 2.0, 2.0, 2.0, 50.0]"}, "`velocity_limits` is 50 for gripper"),
    ],
)
def test_a_wrong_parameter_ends_the_node_with_its_name(
    start_arm: Any, port: EmulatedPort, parameters: dict[str, Any], words: str
) -> None:
    process = start_arm(**parameters)
    assert process.wait() == 1
    assert words in process.output
    assert "Traceback" not in process.output


def test_a_parameter_of_the_wrong_type_ends_the_node(
    start_process: Callable[..., Any], ros_domain: int
) -> None:
    # Without a parameter file: rcl keeps the file's value where the command line's is of another type.
    process = start_process(["python", "-m", "chefmate_driver.arm.node", "--ros-args", "-p", "rate:=fast"])
    assert process.wait() == 1
    assert "expecting type 'DOUBLE': rate" in process.output
    assert "Traceback" not in process.output


def test_torque_counts_as_off_only_when_the_servos_have_obeyed(
    port: EmulatedPort, plant: SimplePlant, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = ArmUnits(read_calibration(TWIN))
    limits = Limits(*units.limits(), np.full(6, 2.0), np.full(6, 10.0), -1.0)
    controller = ArmController(SafetyFilter(limits), lease=0.25)
    loop = ArmLoop(
        controller,
        lambda: ArmServos(FeetechBus(str(port.link), reply_timeout=0.1), units),
        rate=100.0,
        answer_timeout=1.0,
        on_sample=lambda _: None,
    )
    loop.connect()
    loop.start()
    try:
        loop.set_torque(True)
        with monkeypatch.context() as patch:

            def refuse(servos: ArmServos) -> None:
                raise ArmError("servos do not take torque_enable")

            patch.setattr(ArmServos, "disable", refuse)
            with pytest.raises(ArmError, match="do not take"):
                loop.set_torque(False)
        assert controller.torque and controller.state is ArmState.HOLDING
        assert plant.enabled.all()
        loop.set_torque(False)
        assert controller.state is ArmState.READY and not plant.enabled.any()
    finally:
        loop.stop()


def test_the_twins_ticks_and_angles_agree(port: EmulatedPort) -> None:
    units = ArmUnits(read_calibration(TWIN))
    with FeetechBus(str(port.link), reply_timeout=0.1) as bus:
        ticks = bus.sync_read("present_position", units.ids)
    assert units.radians([ticks[id] for id in units.ids]) == pytest.approx(START, abs=1e-3)
