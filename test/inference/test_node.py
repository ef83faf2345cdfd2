# SPDX-License-Identifier: Apache-2.0
"""policy_node as a process, over real DDS, with a small backend of the tests' own."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chefmate_msgs.msg import ActionChunk, ArmHealth, PolicyStatus, SequencerStatus
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from chefmate_policy.inference import arm, session
from chefmate_policy.inference.messages import seconds_of
from chefmate_policy.inference.parameters import JOINTS

HERE = Path(__file__).resolve().parent
LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
HEARD = QoSProfile(depth=100, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
PERIOD = 0.02  # s, of everything that Kitchen publishes
SWING = 0.2  # rad/s


def since(message: Any) -> tuple[int, int]:
    """A message's stamp, comparable."""
    return message.header.stamp.sec, message.header.stamp.nanosec


class Kitchen:
    """Plays arm, cameras, sequencer and user for one policy node, in the test's thread; hears all it says."""

    def __init__(self, listener: Any, start_process: Callable[..., Any]) -> None:
        self.listener = listener
        self._start_process = start_process
        self.joints = True
        self.frames = True
        self.angles = [0.0] * 6
        self.moving_since: float | None = None  # the second joint then turns at SWING
        self.image_lag = 0.0  # s, by which pictures are older than the joint states sent with them
        self.sequencer: SequencerStatus | None = None
        self.arm: ArmHealth | None = None
        self.status: list[PolicyStatus] = listener.subscribe("policy/status", PolicyStatus, HEARD)
        self.chunks: list[ActionChunk] = listener.subscribe("policy/chunk", ActionChunk)
        self.trajectories: list[JointTrajectory] = listener.subscribe(
            "arm_controller/joint_trajectory", JointTrajectory
        )
        node = listener.node
        self._joint_publisher = node.create_publisher(JointState, "joint_states", 10)
        self._info_publisher = node.create_publisher(
            CameraInfo, "scene_camera/camera_info", qos_profile_sensor_data
        )
        self._image_publisher = node.create_publisher(
            Image, "scene_camera/image_raw", qos_profile_sensor_data
        )
        self._sequencer_publisher = node.create_publisher(SequencerStatus, "sequencer/status", LATCHED)
        self._health_publisher = node.create_publisher(ArmHealth, "arm/health", 10)
        node.create_timer(0.1, self._publish_health)
        self._instructions: Any = None
        self.encoding = "rgb8"
        node.create_timer(PERIOD, self._publish)

    def start(self, *parameters: str, backend: str = "wave_backend:Wave") -> Any:
        """Starts policy_node with that backend and one camera."""
        command = [
            "python",
            "-m",
            "chefmate_policy.inference.node",
            "--ros-args",
            "-p",
            f"backend:={backend}",
        ]
        for parameter in ("cameras:=['scene=scene_camera']", *parameters):
            command += ["-p", parameter]
        self.process = self._start_process(command, env={"PYTHONPATH": self._path()})
        return self.process

    @staticmethod
    def _path() -> str:
        return os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH", ""))))

    def say(self, text: str) -> None:
        if self._instructions is None:
            self._instructions = self.listener.publisher("instruction", String)
        self._instructions.publish(String(data=text))

    def drive(self, text: str = "wave") -> None:
        """Starts an instruction and waits until it drives."""
        self.until_state("IDLE")
        self.say(text)
        self.until_state("DRIVING")

    @property
    def now(self) -> PolicyStatus:
        return self.status[-1]

    def until_state(self, state: str, timeout: float = 10.0) -> PolicyStatus:
        self.listener.until(
            lambda: self.status and self.now.state == state,
            timeout,
            f"{state}; last: {self.status[-1:]}\n{self.process.output}",
        )
        return self.now

    def until_said(self, text: str) -> PolicyStatus:
        """The first status that has this instruction in force."""

        def found() -> list[PolicyStatus]:
            return [status for status in self.status if status.instruction == text]

        return self.listener.until(found, 1.0, f"a status with {text!r}")[0]

    def until_chunks(
        self, count: int = 1, timeout: float = 5.0, said_before: PolicyStatus | None = None
    ) -> ActionChunk:
        """Waits for more chunks. With `said_before`: the first one that was published after that status."""
        wanted = len(self.chunks) + count

        def found() -> list[ActionChunk]:
            if said_before is None:
                return self.chunks[wanted - 1 :]
            return [chunk for chunk in self.chunks if since(chunk) > since(said_before)]

        return self.listener.until(found, timeout, f"{count} more chunks")[0]

    def _publish(self) -> None:
        stamp = self.listener.node.get_clock().now().to_msg()
        if self.moving_since is not None:
            self.angles[1] = SWING * (seconds_of(stamp) - self.moving_since)
        if self.joints:
            joints = JointState(name=list(JOINTS), position=self.angles, velocity=[0.0] * 6)
            joints.header.stamp = stamp
            self._joint_publisher.publish(joints)
        if self.frames:
            info = CameraInfo(width=4, height=2)
            info.header.stamp = stamp
            self._info_publisher.publish(info)
            if self._image_publisher.get_subscription_count():
                image = Image(width=4, height=2, encoding=self.encoding, step=12, data=bytes([51, 0, 0] * 8))
                lag = Duration(seconds=self.image_lag)
                image.header.stamp = (Time.from_msg(stamp) - lag).to_msg()
                self._image_publisher.publish(image)
        if self.sequencer is not None:
            self.sequencer.header.stamp = stamp
            self._sequencer_publisher.publish(self.sequencer)

    def _publish_health(self) -> None:
        if self.arm is not None:
            self.arm.header.stamp = self.listener.node.get_clock().now().to_msg()
            self._health_publisher.publish(self.arm)


@pytest.fixture
def kitchen(listener: Any, start_process: Callable[..., Any]) -> Iterator[Kitchen]:
    yield Kitchen(listener, start_process)


def quiet(kitchen: Kitchen, seconds: float) -> bool:
    """True when nothing that is published after the newest status, or sent at all without a chunk, comes in a
    time."""
    mark = since(kitchen.now)
    kitchen.listener.spin(seconds)
    late = [chunk for chunk in kitchen.chunks if since(chunk) > mark]
    return not late and len(kitchen.trajectories) <= len(kitchen.chunks)


def test_states_are_those_of_the_message() -> None:
    for name in ("INACTIVE", "IDLE", "DRIVING", "DONE", "HOLDING", "FAULT"):
        assert getattr(session, name) == getattr(PolicyStatus, name)


def test_states_of_the_arm_are_those_of_the_message() -> None:
    assert all(getattr(ArmHealth, name) == name for name in (*arm.UNABLE, *arm.PROTECTED))


def test_an_e_stop_drops_the_instruction_and_a_new_one_starts_from_the_measured_pose(
    kitchen: Kitchen,
) -> None:
    kitchen.arm = ArmHealth(state=ArmHealth.HOLDING)
    kitchen.start()
    kitchen.drive()
    kitchen.until_chunks()
    kitchen.arm = ArmHealth(state=ArmHealth.ESTOPPED, reason="e-stop: arm/estop was called", estop=True)
    kitchen._publish_health()
    since_stop = time.monotonic()
    status = kitchen.until_state("HOLDING", 1.0)
    assert time.monotonic() - since_stop < 0.2
    assert status.reason == "the arm is ESTOPPED: e-stop: arm/estop was called"
    assert (status.instruction, status.instruction_number) == ("", 2)
    assert quiet(kitchen, 0.6)
    kitchen.say("wave")
    kitchen.listener.until(lambda: "say it again" in kitchen.now.reason, 2.0, "a refusal")
    kitchen.say("wave")
    assert quiet(kitchen, 0.3)
    assert kitchen.process.output.count("is not obeyed") == 1
    kitchen.angles[0] = 0.7  # somebody moved the arm meanwhile
    kitchen.arm = ArmHealth(state=ArmHealth.HOLDING)
    kitchen.until_state("IDLE", 1.0)
    assert quiet(kitchen, 1.0)
    assert kitchen.now.state == "IDLE"
    kitchen.say("wave")
    first = kitchen.until_chunks()
    assert first.instruction == "wave" and first.instruction_number == 3
    assert first.trajectory.points[0].positions[0] == pytest.approx(0.7)
    kitchen.until_chunks(2)


def test_a_silent_arm_holds_and_its_return_drives_from_the_measured_pose(kitchen: Kitchen) -> None:
    kitchen.arm = ArmHealth(state=ArmHealth.FOLLOWING)
    kitchen.start("arm_age_limit:=0.5")
    kitchen.drive()
    kitchen.until_chunks()
    kitchen.arm = None
    status = kitchen.until_state("HOLDING", 2.0)
    assert status.reason.startswith("arm/health: nothing for 0.") and status.instruction == "wave"
    assert quiet(kitchen, 0.6)
    kitchen.angles[0] = -0.4
    kitchen.listener.spin(0.1)
    kitchen.arm = ArmHealth(state=ArmHealth.HOLDING)
    first = kitchen.until_chunks()
    assert first.trajectory.points[0].positions[0] == pytest.approx(-0.4)
    kitchen.until_state("DRIVING", 1.0)


def test_an_arm_without_torque_is_no_reason_to_hold_in_shadow_mode(kitchen: Kitchen) -> None:
    kitchen.arm = ArmHealth(state=ArmHealth.READY)
    kitchen.start("execute:=false")
    kitchen.drive()
    kitchen.until_chunks(2)
    assert not kitchen.trajectories


def test_a_long_text_is_refused_with_a_name(kitchen: Kitchen) -> None:
    kitchen.start()
    kitchen.drive()
    kitchen.say("wave " * 1000)
    kitchen.listener.until(lambda: "5000 characters" in kitchen.now.reason, 2.0, "a refusal")
    assert kitchen.now.instruction == "wave" and kitchen.now.state == "DRIVING"
    assert len(kitchen.process.output) < 5000
    kitchen.until_chunks(2)


def test_an_instruction_becomes_leased_chunks_that_join(kitchen: Kitchen) -> None:
    kitchen.start()
    kitchen.drive("wave at me")
    kitchen.until_chunks(3)
    first, second = kitchen.chunks[0], kitchen.chunks[1]
    assert [first.number, second.number] == [1, 2]
    assert first.instruction == "wave at me" and first.instruction_number == 1
    assert list(first.observation_names) == ["scene", "joint_states"]
    assert first.model_id == "wave:plain"
    assert 0.0 < first.latency_total < 0.5
    assert not first.flushed and second.flushed
    assert kitchen.trajectories[0] == first.trajectory
    assert first.trajectory.header.frame_id == "policy"
    assert list(first.trajectory.joint_names) == JOINTS
    # The second begins on the first's line, where the arm is when it takes over.
    starts = [chunk.trajectory.header.stamp for chunk in (first, second)]
    gap = (starts[1].sec - starts[0].sec) + 1e-9 * (starts[1].nanosec - starts[0].nanosec)
    assert second.trajectory.points[0].positions[0] == pytest.approx(0.1 * min(1.0, gap), abs=1e-6)
    assert 0.3 < gap < 0.7


def test_status_is_a_heartbeat_of_20_hz_also_during_inference(kitchen: Kitchen) -> None:
    kitchen.start()
    kitchen.until_state("IDLE")
    kitchen.say("slow")
    kitchen.until_state("DRIVING")
    kitchen.status.clear()
    kitchen.listener.spin(2.0)
    stamps = [status.header.stamp.sec + 1e-9 * status.header.stamp.nanosec for status in kitchen.status]
    assert 36 <= len(stamps) <= 60
    assert max(late - early for early, late in itertools.pairwise(stamps)) < 0.2


def test_equal_text_changes_nothing(kitchen: Kitchen) -> None:
    kitchen.start()
    kitchen.drive()
    kitchen.status.clear()
    for _ in range(5):
        kitchen.say("wave")
        kitchen.until_chunks()
    assert {status.state for status in kitchen.status} == {"DRIVING"}
    assert {status.instruction_number for status in kitchen.status} == {1}


def test_new_instruction_brakes_discards_the_running_result_and_is_obeyed(kitchen: Kitchen) -> None:
    kitchen.start("lead:=0.6", "execution_horizon:=0.7")
    kitchen.drive("slow wave")
    kitchen.until_chunks()
    for turn in range(4):
        # Somewhere within the running inference, which takes 0.5 s of each cycle.
        kitchen.listener.spin(0.15 * turn)
        kitchen.status.clear()
        said = time.monotonic()
        kitchen.say(f"wave {turn}")
        braking = kitchen.until_said(f"wave {turn}")
        assert braking.state == "HOLDING"
        chunk = kitchen.until_chunks(said_before=braking)
        assert chunk.instruction == f"wave {turn}"
        assert time.monotonic() - said < 0.5 + 0.2, "the rest of one inference, one short one, and margin"
        kitchen.until_state("DRIVING")
        kitchen.status.clear()
        kitchen.say(f"slow wave {turn}")
        chunk = kitchen.until_chunks(said_before=kitchen.until_said(f"slow wave {turn}"))
        assert chunk.instruction == f"slow wave {turn}"


def test_empty_text_stops_and_the_same_text_starts_again(kitchen: Kitchen) -> None:
    kitchen.start()
    kitchen.drive()
    kitchen.say("")
    kitchen.until_state("IDLE", 1.0)
    assert quiet(kitchen, 1.0)
    kitchen.say("wave")
    kitchen.until_state("DRIVING", 2.0)
    assert kitchen.now.instruction_number == 3


@pytest.mark.parametrize(
    ("source", "words", "limit"),
    [("frames", "scene camera: no frame for 0.3", 0.3), ("joints", "joint states: no message for 0.2", 0.2)],
)
def test_a_silent_input_holds_within_its_limit_and_its_return_drives_again(
    kitchen: Kitchen, source: str, words: str, limit: float
) -> None:
    kitchen.start()
    kitchen.drive()
    kitchen.until_chunks()
    kitchen.until_state("DRIVING")
    setattr(kitchen, source, False)
    since = time.monotonic()
    status = kitchen.until_state("HOLDING", 2.0)
    assert time.monotonic() - since < limit + 0.2
    assert status.reason.startswith(words)
    assert quiet(kitchen, 1.0)
    assert kitchen.now.observation_age > 1.0
    setattr(kitchen, source, True)
    kitchen.until_state("DRIVING", 2.0)
    kitchen.until_chunks()


def test_an_input_that_never_comes_is_named(kitchen: Kitchen) -> None:
    kitchen.frames = False
    kitchen.start()
    kitchen.until_state("IDLE")
    kitchen.say("wave")
    assert kitchen.until_state("HOLDING").reason.startswith("scene camera: no frame yet")
    assert not kitchen.trajectories


def test_nan_in_the_joint_states_holds_and_is_named(kitchen: Kitchen) -> None:
    kitchen.start()
    kitchen.drive()
    kitchen.angles[2] = math.nan
    kitchen.listener.until(lambda: "nan" in kitchen.now.reason, 2.0, "the NaN's name")
    assert kitchen.now.state == "HOLDING"
    assert kitchen.now.reason == "joint states: the position of elbow_flex is nan"
    assert quiet(kitchen, 0.6)
    kitchen.angles[2] = 0.0
    kitchen.until_state("DRIVING", 2.0)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("raise", "backend: ValueError: no such joint angle"),
        ("nan", "backend: the chunk has a position of nan at point"),
    ],
)
def test_a_failing_backend_is_a_named_fault_and_the_node_lives(
    kitchen: Kitchen, word: str, reason: str
) -> None:
    kitchen.start()
    kitchen.drive()
    kitchen.say(word)
    assert kitchen.until_state("FAULT", 2.0).reason.startswith(reason)
    assert quiet(kitchen, 0.6)
    kitchen.say("wave")
    kitchen.until_state("DRIVING", 2.0)


def test_a_hanging_backend_stops_the_heartbeat_of_driving(kitchen: Kitchen) -> None:
    kitchen.start("inference_limit:=0.5")
    kitchen.drive()
    kitchen.say("hang")
    assert kitchen.until_state("FAULT", 2.0).reason.startswith("backend: no result for 0.5 s")
    kitchen.say("wave")
    kitchen.until_state("DRIVING", 8.0)
    assert kitchen.chunks[-1].instruction == "wave"


def test_the_sequencers_silence_ends_its_instruction(kitchen: Kitchen) -> None:
    kitchen.sequencer = SequencerStatus(state=SequencerStatus.RUNNING, instruction="wave")
    kitchen.start()
    kitchen.drive()
    kitchen.until_chunks(3)
    kitchen.sequencer = None
    since = time.monotonic()
    reason = kitchen.until_state("HOLDING", 3.0).reason
    assert 0.8 < time.monotonic() - since < 1.3
    assert reason.startswith("the sequencer's lease ended")
    assert quiet(kitchen, 0.6)
    kitchen.sequencer = SequencerStatus(state=SequencerStatus.RUNNING, instruction="wave")
    kitchen.until_state("DRIVING", 2.0)


def test_the_last_chunk_is_done_and_nothing_more_comes(kitchen: Kitchen) -> None:
    kitchen.start()
    kitchen.drive("last wave")
    kitchen.until_state("DONE", 3.0)
    assert len(kitchen.chunks) == 1
    kitchen.say("nothing")
    kitchen.listener.until(lambda: kitchen.now.instruction == "nothing", 2.0, "the next instruction")
    kitchen.until_state("DONE", 3.0)
    assert len(kitchen.trajectories) == 1


def test_shadow_mode_publishes_chunks_and_sends_nothing(kitchen: Kitchen) -> None:
    previews = kitchen.listener.subscribe("policy/preview", MarkerArray)
    kitchen.start("execute:=false")
    kitchen.drive()
    kitchen.until_chunks(2)
    kitchen.listener.until(lambda: previews, 2.0, "a preview")
    assert not kitchen.trajectories
    assert not kitchen.now.executing
    assert kitchen.chunks[0].trajectory.points
    # The arm does not move, so every chunk starts from the measured pose.
    assert kitchen.chunks[-1].trajectory.points[0].positions[0] == pytest.approx(0.0)


def test_shadow_mode_can_be_left_while_it_runs(kitchen: Kitchen) -> None:
    kitchen.start("execute:=false")
    kitchen.drive()
    request = SetParameters.Request(parameters=[Parameter("execute", value=True).to_parameter_msg()])
    result = kitchen.listener.call("policy/set_parameters", SetParameters, request)
    assert result.results[0].successful
    kitchen.listener.until(lambda: kitchen.trajectories, 2.0, "a trajectory")
    assert kitchen.now.executing


def test_preview_ends_where_the_chunk_ends(kitchen: Kitchen) -> None:
    previews = kitchen.listener.subscribe("policy/preview", MarkerArray)
    kitchen.start()
    kitchen.drive()
    kitchen.listener.until(lambda: previews, 3.0, "a preview")
    line, ball = previews[0].markers
    assert line.header.frame_id == "base_link" and len(line.points) == 11
    assert line.points[0].x == pytest.approx(0.3914, abs=1e-3)
    assert ball.pose.position == line.points[-1]


def test_images_reach_a_backend_that_needs_them(kitchen: Kitchen) -> None:
    kitchen.start(backend="wave_backend:Looking")
    kitchen.drive()
    assert kitchen.until_chunks().trajectory.points[-1].positions[0] == pytest.approx(51 / 255)
    kitchen.encoding = "bayer_rggb8"
    assert "bayer_rggb8" in kitchen.until_state("FAULT", 3.0).reason


def test_joints_are_those_of_the_moment_of_the_picture(kitchen: Kitchen) -> None:
    kitchen.moving_since, kitchen.image_lag = time.time(), 0.12
    kitchen.start(backend="wave_backend:Looking")
    kitchen.drive()
    chunk = kitchen.until_chunks(3)
    stamps = dict(zip(chunk.observation_names, map(seconds_of, chunk.observation_stamps), strict=True))
    assert stamps["joint_states"] - stamps["scene"] > 0.1
    seen = chunk.trajectory.points[-1].positions[1]
    assert seen == pytest.approx(SWING * (stamps["scene"] - kitchen.moving_since), abs=0.002)


def test_a_backend_that_cannot_be_loaded_is_a_named_fault_and_can_be_configured_again(
    kitchen: Kitchen,
) -> None:
    diagnostics: list[DiagnosticArray] = kitchen.listener.subscribe("/diagnostics", DiagnosticArray)
    kitchen.start("checkpoint:=missing")
    reason = kitchen.until_state("FAULT").reason
    assert reason == "backend wave_backend:Wave: checkpoint 'missing' does not exist; give a folder."
    kitchen.listener.until(
        lambda: diagnostics and "does not exist" in diagnostics[-1].status[0].message, 3.0, "a diagnostic"
    )
    request = SetParameters.Request(parameters=[Parameter("checkpoint", value="here").to_parameter_msg()])
    assert kitchen.listener.call("policy/set_parameters", SetParameters, request).results[0].successful
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        change = ChangeState.Request(transition=Transition(id=transition))
        assert kitchen.listener.call("policy/change_state", ChangeState, change).success
    kitchen.drive()


def test_an_unknown_backend_is_named(kitchen: Kitchen) -> None:
    kitchen.start(backend="expart")
    assert "use one of: expert" in kitchen.until_state("FAULT").reason


def test_deactivation_holds_and_activation_waits_for_a_new_instruction(kitchen: Kitchen) -> None:
    kitchen.start()
    kitchen.drive()
    change = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
    assert kitchen.listener.call("policy/change_state", ChangeState, change).success
    assert kitchen.until_state("INACTIVE", 1.0).instruction == ""
    change.transition.id = Transition.TRANSITION_ACTIVATE
    assert kitchen.listener.call("policy/change_state", ChangeState, change).success
    kitchen.until_state("IDLE", 1.0)
    assert quiet(kitchen, 0.6)
    kitchen.listener.until(lambda: kitchen._instructions.get_subscription_count() == 1, 5.0, "a subscriber")
    kitchen.say("wave")
    kitchen.until_state("DRIVING", 2.0)


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_ends_it_with_a_last_word_and_exit_code_0(kitchen: Kitchen, number: int) -> None:
    kitchen.start()
    kitchen.drive()
    kitchen.process.process.send_signal(number)
    kitchen.until_state("INACTIVE", 3.0)
    assert kitchen.process.wait(10.0) == 0
