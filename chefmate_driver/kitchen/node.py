# SPDX-License-Identifier: Apache-2.0
"""kitchen_node: the twin as a node. Cameras are camera_node's, the arm is arm_node's; both use what this
node offers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from chefmate_msgs.msg import ExpertState, ObjectPose, WorkcellObject, WorkcellState
from chefmate_msgs.srv import KitchenPlace, KitchenReset
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from numpy.typing import NDArray
from rclpy.node import Node
from std_msgs.msg import Header

from chefmate_driver.arm.calibration import find_calibration
from chefmate_driver.errors import DriverError
from chefmate_driver.kitchen.config import KitchenConfig, KitchenError
from chefmate_driver.kitchen.live import LiveTwin
from chefmate_driver.kitchen.truth import TrueObject, observe
from chefmate_driver.kitchen.world import World
from chefmate_ros.parameters import Parameter, declare
from chefmate_ros.running import run

EXPERT_RATE = 20.0  # Hz
TRUTH_RATE = 10.0  # Hz
SLOW = 0.9  # real-time factor below which diagnostics warn
LARGEST_SEED = 2**62
PARAMETERS = (
    Parameter("port", "/tmp/chefmate.port", "symbolic link to make: the serial port of the twin's servos"),
    Parameter(
        "shared_memory", "chefmate", "name of the state in shared memory, for cameras: kitchen:NAME:scene"
    ),
    Parameter("seed", 0, "seed of layout, light and colours", (0, LARGEST_SEED)),
    Parameter(
        "slots",
        "",
        "ingredient of each holder slot, comma separated (empty between commas: empty slot); "
        "empty: drawn from the seed",
    ),
    Parameter("config", "", "scene file; empty: config/kitchen_scene.yaml of the package"),
    Parameter("calibration", "twin", "LeRobot calibration that the emulated servos hold: a file or an id"),
)


class KitchenNode(Node):  # type: ignore[misc]
    """Reset, placing by hand, privileged poses and diagnostics of a LiveTwin."""

    def __init__(self, name: str = "kitchen", **arguments: Any) -> None:
        """Raises DriverError: bad parameters, a port or shared memory that another twin has."""
        super().__init__(name, **arguments)
        self._values = declare(self, PARAMETERS)
        self._seed = int(self._values["seed"])
        config = KitchenConfig.load(self._values["config"] or None)
        world = World(config, self._seed)
        if self._values["slots"]:
            world.reset(self._seed, parse_slots(self._values["slots"]))
        self.twin = LiveTwin(
            world,
            Path(self._values["port"]).expanduser(),
            self._values["shared_memory"],
            find_calibration(self._values["calibration"]),
        )
        self._expert = self.create_publisher(ExpertState, "kitchen/expert_state", 10)
        self._truth = self.create_publisher(WorkcellState, "kitchen/truth", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(KitchenReset, "kitchen/reset", self._reset)
        self.create_service(KitchenPlace, "kitchen/place", self._place)
        self.create_timer(1.0 / EXPERT_RATE, self._publish_expert_state)
        self.create_timer(1.0 / TRUTH_RATE, self._publish_truth)
        self.create_timer(1.0, self._publish_diagnostics)
        self.get_logger().info(
            f"twin with seed {self._seed} runs: servos on {self._values['port']}, "
            f"state in {self._values['shared_memory']}"
        )

    def close(self) -> None:
        """Ends the physics and removes the port and the shared memory."""
        self.twin.close()

    # Services

    def _reset(self, request: KitchenReset.Request, response: KitchenReset.Response) -> KitchenReset.Response:
        seed = self._seed + 1 if request.seed < 0 else int(request.seed)
        try:
            with self.twin.stopped_world() as world:
                layout = world.reset(seed, list(request.slots) or None)
        except KitchenError as error:
            response.success, response.message, response.seed = False, str(error), self._seed
            return response
        self._seed = seed
        response.success, response.seed = True, seed
        response.message = "slots: " + ", ".join(name or "-" for name in layout.slots)
        self.get_logger().info(f"reset to seed {seed}, {response.message}")
        return response

    def _place(self, request: KitchenPlace.Request, response: KitchenPlace.Response) -> KitchenPlace.Response:
        try:
            with self.twin.stopped_world() as world:
                instance = world.place(request.name, request.place, int(request.slot))
        except KitchenError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, f"{instance} is on its place: {request.place}"
        self.get_logger().info(response.message)
        return response

    # Topics

    def _publish_expert_state(self) -> None:
        if self.twin.failure is not None:
            raise DriverError(f"the twin's physics ended: {self.twin.failure}")
        if not self._expert.get_subscription_count():
            return
        with self.twin.stopped_world() as world:
            message = ExpertState(header=self._header())
            plate, tray = world.plate_pose(), world.tray_pose()
            found = observe(world)
        message.plate, message.tray = _pose(*plate), _pose(*tray)
        for seen in found:
            state = seen.state
            message.objects.append(
                ObjectPose(
                    name=state.name,
                    ingredient=state.ingredient,
                    pose=_pose(state.position, state.quaternion),
                    size=_vector(state.size),
                    place=seen.place,
                    slot=seen.slot,
                )
            )
        self._expert.publish(message)

    def _publish_truth(self) -> None:
        if not self._truth.get_subscription_count():
            return
        with self.twin.stopped_world() as world:
            message = WorkcellState(header=self._header(), plate_visible=True, holder_visible=True)
            found = observe(world)
        message.objects = [truth_message(seen) for seen in found]
        self._truth.publish(message)

    def _header(self) -> Header:
        header = Header(frame_id="base_link")
        header.stamp.sec, header.stamp.nanosec = divmod(self.twin.stamp, 1_000_000_000)
        return header

    def _publish_diagnostics(self) -> None:
        figures = self.twin.figures()
        slow = figures.real_time_factor < SLOW
        message = f"real-time factor {figures.real_time_factor:.2f}"
        if slow:
            message += f", below {SLOW}: this machine cannot keep up, close other programs"
        values = {
            "real_time_factor": f"{figures.real_time_factor:.3f}",
            "simulated_s": f"{figures.simulated:.2f}",
            "dropped_s": f"{figures.dropped:.3f}",
            "states_written": str(figures.writes),
            "servo_packets": str(figures.requests),
            "seed": str(self._seed),
        }
        report = DiagnosticStatus(
            level=DiagnosticStatus.WARN if slow else DiagnosticStatus.OK,
            name=f"{self.get_fully_qualified_name().lstrip('/')}: real time",
            hardware_id=self.twin.pty,
            message=message,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        diagnostics = DiagnosticArray(status=[report])
        diagnostics.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics)


def truth_message(seen: TrueObject) -> WorkcellObject:
    """A slice for /kitchen/truth. It has a layer only where it is laid: flat, released, inside of the rim."""
    x, y, z = (float(v) for v in seen.state.position)
    return WorkcellObject(
        ingredient=seen.state.ingredient,
        place=seen.place,
        slot=seen.slot,
        stack_index=seen.stack_index if seen.laid else -1,
        confidence=1.0,
        position=Point(x=x, y=y, z=z),
    )


def parse_slots(text: str) -> list[str]:
    """Ingredients of the holder's slots from "bread,,cheese": an empty place is an empty slot."""
    return [word.strip() for word in text.split(",")]


def _pose(position: NDArray[np.float64], quaternion: NDArray[np.float64]) -> Pose:
    x, y, z = (float(v) for v in position)
    qw, qx, qy, qz = (float(v) for v in quaternion)
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def _vector(values: tuple[float, float, float]) -> Vector3:
    x, y, z = (float(v) for v in values)
    return Vector3(x=x, y=y, z=z)


def main(args: list[str] | None = None) -> int:
    """Runs the twin until ctrl-C or SIGTERM; exit status 0, 1 when it cannot start or its physics end."""
    return run(KitchenNode, args, "kitchen", (DriverError,))


if __name__ == "__main__":
    sys.exit(main())
