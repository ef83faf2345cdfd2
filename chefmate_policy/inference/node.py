# SPDX-License-Identifier: Apache-2.0
"""policy_node: obeys /instruction by sending leased action chunks to the arm, and says at 20 Hz what it does
and why.

Configure loads the backend, activate drives, deactivate holds. Inference runs in a thread of its own;
everything else, the heartbeat first of all, runs in the executor's thread and never waits for it.
"""

from __future__ import annotations

import queue
import sys
from collections import deque
from typing import Any

from chefmate_msgs.msg import ActionChunk, PolicyStatus, SequencerStatus
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from chefmate_policy.errors import PolicyError
from chefmate_policy.inference import messages
from chefmate_policy.inference.arm import ArmWatch
from chefmate_policy.inference.backend import Backend, BackendSettings, Observation, create_backend
from chefmate_policy.inference.chunking import Chunking, Mode, mode_of
from chefmate_policy.inference.chunks import ChunkTimeline
from chefmate_policy.inference.inputs import NEWEST, PolicyInputs
from chefmate_policy.inference.instruction import InstructionInForce
from chefmate_policy.inference.parameters import PARAMETERS, camera_topics, model_options
from chefmate_policy.inference.session import INACTIVE, STANDING, WAITING, PolicySession, SessionSettings
from chefmate_policy.inference.worker import Inference, InferenceWorker
from chefmate_ros.parameters import declare
from chefmate_ros.running import autostart, run

HEARTBEAT = 0.05
"""s, period of policy/status and of the session's step; the arm's lease (0.25 s) stands for five of them."""
FRAME_PERIOD = 0.002
"""s between looks for the frames that a request waits for."""
PREVIEW_PERIOD = 0.2
"""s, between previews at least."""
RATE_WINDOW = 2.0
"""s over which chunk_rate is counted."""
LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class PolicyNode(LifecycleNode):  # type: ignore[misc]
    """See the module. All state but the worker's lives in the executor's thread."""

    def __init__(self, name: str = "policy", **arguments: Any) -> None:
        super().__init__(name, **arguments)
        declare(self, PARAMETERS)
        self._session: PolicySession | None = None
        self._instruction_subscription: Any = None
        self._load_fault = self._refused = ""
        self._chunks = 0
        self._chunk_times: deque[float] = deque(maxlen=200)
        self._latencies: deque[float] = deque(maxlen=200)
        self._preview_time = float("-inf")
        self._said = (PolicyStatus.UNCONFIGURED, "")
        self._closing = False
        self._status_publisher = self.create_publisher(PolicyStatus, "policy/status", LATCHED)
        self._chunk_publisher = self.create_publisher(ActionChunk, "policy/chunk", 10)
        self._trajectory_publisher = self.create_publisher(
            JointTrajectory, "arm_controller/joint_trajectory", 10
        )
        self._preview_publisher = self.create_publisher(MarkerArray, "policy/preview", 1)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._results: queue.SimpleQueue[Inference] = queue.SimpleQueue()
        self._result_arrived = self.create_guard_condition(self._on_results)
        self.create_timer(HEARTBEAT, self._on_heartbeat)
        self._frame_timer = self.create_timer(FRAME_PERIOD, self._on_frame_timer, autostart=False)
        self._frames_wanted_since: float | None = None
        self.create_timer(1.0, self._publish_diagnostics)
        self.add_post_set_parameters_callback(self._on_parameters)

    def value(self, name: str) -> Any:
        """Value of a declared parameter."""
        return self.get_parameter(name).value

    def now(self) -> float:
        """s since the epoch, by the node's clock."""
        return float(self.get_clock().now().nanoseconds) * 1e-9

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Makes and loads the backend and subscribes to what it needs."""
        self._load_fault = ""
        try:
            self._configure()
        except Exception as error:  # a checkpoint can fail in any way; the node lives and says how
            kind = "" if isinstance(error, PolicyError) else f"{type(error).__name__}: "
            self._load_fault = f"backend {self.value('backend')}: {kind}{error}"
            self.get_logger().error(f"cannot configure: {self._load_fault}")
            self._publish_status()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        cameras = camera_topics(self.value("cameras"))
        self._joints: tuple[str, ...] = tuple(self.value("joints"))
        self._backend: Backend = create_backend(
            self.value("backend"),
            BackendSettings(
                joints=self._joints,
                cameras=tuple(cameras),
                checkpoint=self.value("checkpoint"),
                execution_horizon=self.value("execution_horizon"),
                options=model_options(self),
            ),
        )
        self._backend.load()
        limits = {key: self.value(f"{name}_age_limit") for key, name in LIMITS.items()}
        arm = ArmWatch(self.value("arm_age_limit"), lambda: bool(self.value("execute")))
        self._inputs = PolicyInputs(self, self._backend, self._joints, cameras, limits, arm, self._on_arm)
        self._worker = InferenceWorker(self._backend, self._hand_over)
        self._sequencer_subscription = self.create_subscription(
            SequencerStatus, "sequencer/status", self._on_sequencer, LATCHED
        )
        mode = mode_of(self.value("chunking"), self._backend)
        self._chunking = Chunking(mode, self.value("blend_time"))
        self._timeline = ChunkTimeline(
            self.value("execution_horizon"),
            self.value("lead"),
            self.value("refill_margin"),
            waits=mode is Mode.SYNC,
        )
        self._chunks = 0
        self._session = PolicySession(
            SessionSettings(
                joints=len(self._joints),
                rate=self.value("rate"),
                instruction_timeout=self.value("instruction_timeout"),
                inference_limit=self.value("inference_limit"),
                retry_period=self.value("retry_period"),
                slack=HEARTBEAT,
            ),
            InstructionInForce(self.value("sequencer_lease")),
            self._inputs.watch,
            arm,
            self._timeline,
            request=self._request,
            busy_for=self._worker.busy_for,
            cancel=self._backend.cancel,
            chunking=self._chunking,
            awaited=str(getattr(self._backend, "awaited", "")),
        )
        self.get_logger().info(f"{self._backend.model_id} is loaded")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begins to obey. /instruction has a subscriber only from here on, so `ros2 topic pub --once` waits
        for it."""
        assert self._session is not None
        self._session.activate(self.now())
        self._instruction_subscription = self.create_subscription(
            String, "instruction", self._on_instruction, NEWEST
        )
        self._publish_status()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Holds: the status leaves DRIVING at once, so the arm brakes."""
        self._deactivate()
        return super().on_deactivate(state)

    def _deactivate(self) -> None:
        if self._instruction_subscription is not None:
            self.destroy_subscription(self._instruction_subscription)
            self._instruction_subscription = None
        if self._session is not None:
            self._session.deactivate(self.now())
        self._publish_status()

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the backend."""
        self._release()
        self._publish_status()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Holds and frees the backend."""
        self._deactivate()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _release(self) -> None:
        if self._session is None:
            return
        self._session = None
        self._inputs.close()
        self.destroy_subscription(self._sequencer_subscription)
        if self._worker.close(timeout=1.0):
            self._backend.close()
        else:
            self.get_logger().warning("the backend still infers; it is left behind")

    def close(self) -> None:
        """Says that nothing drives any more, waits until the arm has heard it, and frees the backend."""
        self._closing = True
        self._deactivate()
        self._status_publisher.wait_for_all_acked(Duration(seconds=0.2))
        self._release()

    # Inputs

    def _on_instruction(self, message: String) -> None:
        if self._session is None:
            return
        if self._session.instruct(message.data, self._poll(self._session)):
            self._publish_status()  # not DRIVING any more: the arm brakes now
            instruction = self._session.instruction
            self.get_logger().info(f"instruction {instruction.number}: {instruction.text or 'stop'}")
        if (refusal := self._session.refusal) != self._refused:
            self._refused = refusal  # a sequencer says it again and again
            if refusal:
                self.get_logger().warning(f"{message.data[:80]!r} is not obeyed: {refusal}")

    def _on_arm(self) -> None:
        if self._session is not None:
            self._session.heed_arm(self.now())

    def _on_sequencer(self, message: SequencerStatus) -> None:
        if self._session is not None:
            self._session.instruction.sequencer(message.state, message.instruction, self.now())

    def _on_parameters(self, parameters: list[Parameter]) -> None:
        if self._session is not None and any(parameter.name == "execute" for parameter in parameters):
            self._session.interrupt(self._poll(self._session))
            self._publish_status()

    def _poll(self, session: PolicySession) -> float:
        """Brings the inputs up to date, as everything that the session does must start; the time after
        that."""
        now = self.now()
        # A request that waits for the next frames takes them itself; a result need not wait for that.
        wanted = session.wants_observation(now) and not self._frames_worth_waiting_for(now)
        self._inputs.poll(now, observe=wanted)
        return self.now()

    def _request(self, ticket: int) -> bool:
        """Starts an inference; False while one runs, or while the next frames are worth waiting for."""
        if self._worker.busy_for() > 0.0 or self._awaits_frames(self.now()):
            return False
        return self._worker.submit(ticket, self._observe())

    def _awaits_frames(self, now: float) -> bool:
        """While the arm moves a request waits for frames that are captured from now on, at most
        `frame_patience`: what is there is up to a camera's period old."""
        patience: float = self.value("frame_patience")
        if not self._frames_worth_waiting_for(now):
            self._frames_wanted_since = None
        elif self._frames_wanted_since is None:
            self._frames_wanted_since = now
        since = self._frames_wanted_since
        wait = since is not None and now - since < patience and not self._inputs.frames_since(since)
        if not wait:
            self._frames_wanted_since = None
            self._frame_timer.cancel()
        elif self._frame_timer.is_canceled():
            self._frame_timer.reset()
        return wait

    def _frames_worth_waiting_for(self, now: float) -> bool:
        looks = self._backend.needs_images and self.value("frame_patience") > 0.0
        return looks and self._timeline.moving(now)

    def _on_frame_timer(self) -> None:
        """Looks for the frames that a request waits for."""
        if self._session is None or self._frames_wanted_since is None:
            self._frame_timer.cancel()
            return
        since, now = self._frames_wanted_since, self.now()
        self._inputs.poll_frames()
        if self._inputs.frames_since(since) or now - since >= self.value("frame_patience"):
            self._session.step(self._poll(self._session))
            self._publish_status_if_changed()
            if self._worker.busy_for() > 0.0:  # asked, or no longer wanted
                self._frames_wanted_since = None

    def _observe(self) -> Observation:
        assert self._session is not None
        now, inputs, instruction = self.now(), self._inputs, self._session.instruction
        stamps = inputs.watch.stamps
        start = self._timeline.start_of_next(now)
        # An arm whose chunk has ended was told to hold: it is where it is, not where it should have come.
        commanded = planned = None
        oldest = min(stamps.values(), default=now)
        if self.value("execute") and self._timeline.moving(now):
            commanded = self._timeline.position_at(start)
            planned = self._chunking.planned(self._timeline, oldest, start)
        seen = min((frame.stamp for frame in inputs.frames.values()), default=now)
        positions, velocities = inputs.joint_history.at(seen)
        return Observation(
            instruction=instruction.text,
            instruction_number=instruction.number,
            stamp=oldest,
            stamps=stamps,
            now=now,
            start=start,
            start_positions=inputs.joint_history.at(now)[0] if commanded is None else commanded,
            joint_positions=positions,
            joint_velocities=velocities,
            images=dict(inputs.frames),
            expert_state=inputs.expert_state,
            planned=planned,
        )

    # Results

    def _hand_over(self, inference: Inference) -> None:
        """Called in the worker's thread."""
        self._results.put(inference)
        if not self._closing:
            self._result_arrived.trigger()

    def _on_results(self) -> None:
        while self._session is not None and not self._results.empty():
            now = self._poll(self._session)
            accepted = self._session.result(self._results.get(), now)
            # The status goes first: a chunk must not meet an arm whose last word from here was HOLDING.
            self._publish_status_if_changed()
            if accepted is None:
                continue
            self._chunks += 1
            message = messages.chunk_message(
                accepted, self._joints, self._chunks, self._backend.model_id, now
            )
            if self.value("execute"):
                self._trajectory_publisher.publish(message.trajectory)
            self._chunk_publisher.publish(message)
            self._chunk_times.append(now)
            self._latencies.append(accepted.inference.seconds)
            if (
                now - self._preview_time >= PREVIEW_PERIOD
                and self._preview_publisher.get_subscription_count()
            ):
                self._preview_time = now
                seconds = float(accepted.chunk.times[-1]) + accepted.chunk.origin - now
                self._preview_publisher.publish(
                    messages.preview_message(self._joints, accepted.chunk.positions, max(0.1, seconds), now)
                )

    # Status

    def _on_heartbeat(self) -> None:
        if self._session is not None:
            self._session.step(self._poll(self._session))
        self._publish_status()

    def _state(self) -> tuple[str, str]:
        if self._session is not None:
            return self._session.state, self._session.reason
        return (PolicyStatus.FAULT, self._load_fault) if self._load_fault else (PolicyStatus.UNCONFIGURED, "")

    def _publish_status_if_changed(self) -> None:
        if self._state()[0] != self._said[0]:
            self._publish_status()

    def _publish_status(self) -> None:
        now, (state, reason) = self.now(), self._state()
        message = PolicyStatus(state=state, reason=reason, executing=self.value("execute"))
        message.header.stamp = messages.time_of(now)
        if self._session is not None:
            message.instruction = self._session.instruction.text
            message.instruction_number = self._session.instruction.number
            message.model_id = self._backend.model_id
            message.chunk_rate = sum(now - time <= RATE_WINDOW for time in self._chunk_times) / RATE_WINDOW
            message.observation_age = self._session.watch.oldest_age(now)
        self._status_publisher.publish(message)
        # Waiting for an instruction's first chunk is the normal beginning of every instruction.
        if (
            state != self._said[0]
            and state in (PolicyStatus.HOLDING, PolicyStatus.FAULT)
            and not reason.startswith((WAITING, STANDING))
        ):
            self.get_logger().warning(f"{state}: {reason}")
        self._said = (state, reason)

    def _publish_diagnostics(self) -> None:
        now, (state, reason) = self.now(), self._state()
        figures: dict[str, str] = {}
        model_id = str(self.value("backend"))
        if self._session is not None:
            watch = self._session.watch
            model_id = self._backend.model_id
            figures = {
                "instruction": self._session.instruction.text,
                "executing": str(self.value("execute")),
                "chunks": str(self._chunks),
                "results_discarded": str(self._session.discarded),
                "chunking": self._chunking.mode.value,
                "lead_s": f"{self._timeline.lead:.3f}",
                "inference_p50_s": f"{messages.quantile(self._latencies, 0.5):.4f}",
                "inference_p95_s": f"{messages.quantile(self._latencies, 0.95):.4f}",
            }
            if state != INACTIVE:
                figures |= {
                    f"{limit.name}_age_s": f"{watch.age(limit.name, now):.3f}" for limit in watch.limits
                }
        self._diagnostics_publisher.publish(
            messages.diagnostics_message(
                self.get_fully_qualified_name(), state, reason, model_id, figures, now
            )
        )


LIMITS = {"joints": "joint", "cameras": "camera", "expert": "expert"}


def main(args: list[str] | None = None) -> int:
    """Runs the policy until ctrl-C or SIGTERM; exit status 0."""
    return run(PolicyNode, args, "policy", (PolicyError,), started=autostart)


if __name__ == "__main__":
    sys.exit(main())
