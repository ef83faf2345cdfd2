# SPDX-License-Identifier: Apache-2.0
"""The one description of the graph: arguments, nodes, parameters and supervision.

`chefmate up` (chefmate/supervisor.py) and `ros2 launch chefmate bringup.launch.py` both start what `describe`
returns. No ROS is imported here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from chefmate.description import robot_description
from chefmate.errors import ArgumentError, WorkspaceError
from chefmate_ros.share import share_places

if TYPE_CHECKING:
    from chefmate_policy.sequencer.recipes import Recipe

TWIN = "twin"
EXPERT, KITCHEN = "expert", "kitchen"
DEFAULT_POLICY = EXPERT
"""Who drives unless `policy` says otherwise: `make sandwich`, `chefmate up`, bringup.launch.py."""
DEFAULT_SEED = 0
"""Of `make sandwich`: the first of 0..19 with which DEFAULT_POLICY makes it on two cores."""
SOURCES = ("v4l2", "file", "folder", "kitchen")
MAX_SEED = 2**31 - 1
CAMERAS = ("scene_camera", "wrist_camera")
NICE = 5  # of perception, sequencer and recorder, which wait for others anyway
TWIN_IMAGE_RATE = 10.0  # Hz; perception looks at 8 of them, a checkpoint at 2 or 3, and drawing is dear
PARKING_PATIENCE = 40.0  # s; from the far end of its reach, at half speed, the way home and to park
# Time that the arm waits for the twin's port: a first start simplifies meshes and compiles the scene.
TWIN_PORT_TIMEOUT = 60.0  # s


@dataclass(frozen=True)
class Argument:
    """One argument of bringup.launch.py and option of `chefmate up`."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


SHIPPED_NAME = r"[a-z][a-z0-9_-]*"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # of the Hugging Face hub
BOOLEAN = ("true", "false")
ARGUMENTS = (
    Argument(
        "arm", TWIN, "'twin' for the physics twin, or the serial port of a real arm, for example /dev/ttyACM0"
    ),
    Argument(
        "policy",
        DEFAULT_POLICY,
        "'kitchen' (learned, comes along, twin only), 'expert' (scripted, twin only), a checkpoint's folder "
        "or hub id, a policy server as tcp://host:port, or a backend as module:Class",
    ),
    Argument(
        "recipe",
        "",
        "recipe to make as soon as everything is ready, unless a run was interrupted; empty: none",
    ),
    Argument(
        "scene_camera", TWIN, "source of the scene camera: twin, v4l2:DEVICE, file:VIDEO or folder:IMAGES"
    ),
    Argument(
        "wrist_camera", TWIN, "source of the wrist camera: twin, v4l2:DEVICE, file:VIDEO or folder:IMAGES"
    ),
    Argument(
        "image_rate",
        "auto",
        "pictures of each camera per second at most (Hz); 0: one with every frame; auto: 10 where the expert"
        " or a checkpoint drives the twin, else 0",
    ),
    Argument("calibration", TWIN, "LeRobot calibration JSON of the arm; 'twin' is the twin's own"),
    Argument(
        "execute",
        "true",
        "false is shadow mode: everything runs and previews, the arm does not move",
        BOOLEAN,
    ),
    Argument("record", "", "folder for a rosbag2 recording (MCAP) of the run; empty: none"),
    Argument("rviz", "false", "start rviz2 with config/chefmate.rviz (needs a ROS 2 install)", BOOLEAN),
    Argument("workcell", "", "perception's workcell file (zones, colours); empty: the twin's"),
    Argument("namespace", "", "namespace of all nodes and topics, for example left_arm"),
    Argument("seed", "0", "seed of the twin's layout, light and colours"),
    Argument(
        "slots", "", "twin: ingredient of each holder slot, comma separated; empty: drawn from the seed"
    ),
    Argument(
        "teleop",
        "",
        "serial port of a leader arm; `chefmate arm teleop` then engages it; empty: none",
    ),
    Argument("teleop_calibration", "", "LeRobot calibration of the leader arm: JSON file or id"),
    Argument("speed", "1.0", "speed override of the arm's safety filter, 0.1 to 1.0"),
    Argument("log_level", "info", "log level of all nodes", ("debug", "info", "warn", "error")),
)
DEFAULTS: dict[str, str] = {argument.name: argument.default for argument in ARGUMENTS}


@dataclass(frozen=True)
class Node:
    """One process of the graph.

    `required`: its death ends the graph with a failure. `respawn`: it is started again with backoff.
    `niceness`: above 0, others go before it where cores are scarce: its lateness harms nobody.
    `ros_only`: it is part of a ROS 2 install and missing from PyPI, so it is left out where it cannot be
    found, unless it was `asked_for` by this argument. `stop_order`: lower numbers are stopped first; the arm
    stops after everything that commands it. `restart_parameters`: what `chefmate up` sets otherwise when it
    starts the node again.
    """

    name: str
    executable: str
    package: str = "chefmate"
    namespace: str = ""
    parameter_files: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    ros_arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    required: bool = False
    respawn: bool = False
    ros_only: bool = False
    asked_for: str = ""
    restart_parameters: Mapping[str, Any] = field(default_factory=dict)
    stop_order: int = 0
    niceness: int = 0
    patience: float = 8.0  # s between the signal to end and SIGKILL; the arm confirms its hold in this time


def leave_out(node: Node) -> None:
    """Of a node whose executable cannot be found: returns if the graph does without it.

    Raises:
        WorkspaceError: it does not; with what to install.
    """
    if not node.ros_only:
        raise WorkspaceError(f"{node.executable} of {node.package} is not built, run: make setup")
    if node.asked_for:
        package = f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{node.package.replace('_', '-')}"
        raise WorkspaceError(
            f"{node.asked_for} needs {node.package}, which is not installed and comes with ROS 2 installs "
            f"only: sudo apt install {package}, source that ROS 2, make setup; or leave {node.asked_for} out."
        )


def shipped_policy(name: str) -> Path | None:
    """Folder of a policy that comes with the package, policies/NAME; None: there is none of that name."""
    if not re.fullmatch(SHIPPED_NAME, name):
        return None
    places = share_places("policies", name)
    return next((place for place in places if (place / "config.json").is_file()), None)


def policy_parameters(policy: str) -> dict[str, str]:
    """The policy node's backend and checkpoint for the argument `policy`.

    A name of a policy that comes along goes before a folder of that name: write ./NAME for the folder.

    Raises:
        ArgumentError: it is nothing that can be loaded.
    """
    if (shipped := shipped_policy(policy)) is not None:
        return {"backend": "local", "checkpoint": str(shipped.resolve())}
    if policy == EXPERT or re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", policy):
        return {"backend": policy}
    if policy.startswith("tcp://"):
        return {"backend": "server", "checkpoint": policy}
    if Path(policy).expanduser().is_dir():
        return {"backend": "local", "checkpoint": str(Path(policy).expanduser().resolve())}
    if HUB_ID.fullmatch(policy):
        return {"backend": "local", "checkpoint": policy}
    raise ArgumentError(
        f"policy:={policy!r} is neither expert, nor a policy that comes along, nor the folder or hub id "
        "(owner/name) of a checkpoint, nor a policy server's tcp://host:port, nor module:Class."
    )


def check(values: Mapping[str, str]) -> dict[str, str]:
    """Fills in defaults and refuses what no node could use.

    Raises:
        ArgumentError: unknown argument or bad value, naming it and what is allowed.
    """
    unknown = sorted(set(values) - set(DEFAULTS))
    if unknown:
        raise ArgumentError(f"unknown argument {unknown[0]!r}; known are {', '.join(DEFAULTS)}.")
    full = {**DEFAULTS, **values}
    for argument in ARGUMENTS:
        value = full[argument.name]
        if argument.choices and value not in argument.choices:
            raise ArgumentError(f"{argument.name}:={value!r} is not one of {', '.join(argument.choices)}.")
    if not re.fullmatch(r"\d+", full["seed"]) or int(full["seed"]) > MAX_SEED:
        raise ArgumentError(f"seed:={full['seed']!r} is not a whole number from 0 to {MAX_SEED}.")
    policy_parameters(full["policy"])
    if full["record"] and Path(full["record"]).exists():
        raise ArgumentError(f"record:={full['record']} exists already; name a new folder.")
    if full["workcell"] and not Path(full["workcell"]).is_file():
        raise ArgumentError(f"workcell:={full['workcell']} is not a file.")
    for camera in CAMERAS:
        if full[camera] != TWIN and full[camera].split(":")[0] not in SOURCES:
            raise ArgumentError(
                f"{camera}:={full[camera]!r} is not a source: twin, v4l2:DEVICE, file:VIDEO or folder:IMAGES."
            )
    try:
        speed = float(full["speed"])
    except ValueError:
        speed = 0.0
    if not 0.1 <= speed <= 1.0:
        raise ArgumentError(f"speed:={full['speed']!r} is not between 0.1 and 1.0.")
    image_rate(full)
    check_namespace(full["namespace"])
    if full["teleop"] and not full["teleop_calibration"]:
        raise ArgumentError(
            f"teleop:={full['teleop']} needs teleop_calibration: the leader's LeRobot calibration."
        )
    if full["arm"] != TWIN:
        for argument_name in (*CAMERAS, "calibration"):
            if full[argument_name] == TWIN:
                raise ArgumentError(
                    f"arm:={full['arm']} is a real arm, so {argument_name} must be given "
                    f"(it is '{TWIN}', which exists on the twin only)."
                )
        if full["policy"] == EXPERT:
            raise ArgumentError(
                "policy:=expert knows the twin's poses and cannot drive a real arm; give a checkpoint."
            )
        if shipped_policy(full["policy"]) is not None:
            raise ArgumentError(
                f"policy:={full['policy']} has seen the twin's pictures only and cannot drive a real arm; "
                "give a checkpoint trained on yours."
            )
    return full


def recipe(name: str, share: Path, workcell: str = "") -> Recipe:
    """The recipe as the sequencer of this package will find it.

    Args:
        name: of a recipe file, without its ending.
        share: the package's share folder.
        workcell: as the argument of that name.

    Raises:
        ArgumentError: nobody knows it; lists the known ones.
        RecipeError: its file is wrong; names file, line and key.
        SettingsError: the workcell file cannot be used.
    """
    from chefmate_policy.sequencer.book import RecipeBook
    from chefmate_policy.sequencer.recipes import UnknownRecipeError

    (parameters,) = yaml.safe_load((share / "config" / "sequencer.yaml").read_text("utf-8")).values()
    try:
        return RecipeBook.open(parameters["ros__parameters"]["recipe_folder"], workcell).recipe(name)
    except UnknownRecipeError as error:
        raise ArgumentError(str(error)) from None


def image_rate(full: Mapping[str, str]) -> float:
    """The cameras' parameter image_rate, Hz. Raises ArgumentError."""
    given = full["image_rate"]
    if given == "auto":
        learned = full["arm"] == TWIN and policy_parameters(full["policy"])["backend"] == "local"
        return TWIN_IMAGE_RATE if learned or full["policy"] == EXPERT else 0.0
    if not re.fullmatch(r"\d+(\.\d+)?", given) or float(given) > 240.0:
        raise ArgumentError(f"image_rate:={given!r} is neither auto nor a number from 0 to 240 (Hz).")
    return float(given)


def check_namespace(namespace: str) -> None:
    """Raises ArgumentError for what cannot be a namespace; empty is none."""
    if namespace and not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", namespace):
        raise ArgumentError(f"namespace {namespace!r} is not a ROS name, for example left_arm.")


def twin_names(namespace: str, run: str) -> tuple[str, str]:
    """Port link and shared-memory name of a twin, apart for each namespace and run on one machine."""
    tag = "_".join(part for part in ("chefmate", namespace.strip("/").replace("/", "_"), run) if part)
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")
    return str(folder / f"{tag}.port"), tag


def describe(values: Mapping[str, str], share: Path, run: str = "") -> list[Node]:
    """The graph for these arguments, in start order.

    Args:
        values: arguments by name; missing ones take their default.
        share: the package's share folder (config/ and launch/ below it).
        run: tag that keeps the twins of simultaneous runs apart; empty: the process id.

    Raises:
        ArgumentError: see `check`; or nobody knows the recipe.
        RecipeError: the recipe's file is wrong.
    """
    full = check(values)
    if full["recipe"]:
        recipe(full["recipe"], share, full["workcell"])
    twin = full["arm"] == TWIN
    execute = full["execute"] == "true"
    namespace = full["namespace"]
    port, memory = twin_names(namespace, run or str(os.getpid()))
    config = share / "config"
    imaging = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(config / "fastdds.xml"),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(config / "fastdds.xml"),
        "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"),
    }

    def files(name: str) -> tuple[str, ...]:
        return (str(config / f"{name}.yaml"),)

    nodes = []
    if twin:
        nodes.append(
            Node(
                "kitchen",
                "kitchen_node",
                parameter_files=files("kitchen_node"),
                parameters={
                    "port": port,
                    "shared_memory": memory,
                    "seed": int(full["seed"]),
                    "slots": full["slots"],
                },
                environment={"MUJOCO_GL": imaging["MUJOCO_GL"]},
                required=True,
                stop_order=2,
            )
        )
    nodes.append(
        Node(
            "arm",
            "arm_node",
            parameter_files=files("arm"),
            parameters={
                "port": port if twin else full["arm"],
                "port_timeout": TWIN_PORT_TIMEOUT if twin else 0.0,
                "calibration": str(config / "calibration" / "twin.json")
                if full["calibration"] == TWIN
                else full["calibration"],
                "speed_override": float(full["speed"]),
                "execute": execute,
                "torque_on_start": twin,
                # The twin's arm drops nothing when its process ends, and jobs end without waiting for it.
                "park_on_shutdown": not twin,
            },
            required=True,
            stop_order=1,
            # A real arm parks first. A second ctrl-C makes it hold at once.
            patience=8.0 if twin else PARKING_PATIENCE,
        )
    )
    for camera in CAMERAS:
        source = full[camera]
        nodes.append(
            Node(
                camera,
                "camera_node",
                parameter_files=files(camera),
                parameters={
                    "source": f"kitchen:{memory}:{camera.removesuffix('_camera')}"
                    if source == TWIN
                    else source,
                    "camera_name": camera,
                    "image_rate": image_rate(full),
                },
                environment=imaging,
                respawn=True,
            )
        )
    chosen = policy_parameters(full["policy"])
    nodes += [
        Node(
            "policy",
            "policy_node",
            parameter_files=files("policy")
            + (files("policy_checkpoint") if chosen["backend"] == "local" else ()),
            parameters={**chosen, "execute": execute},
            required=True,
        ),
        Node(
            "perception",
            "perception_node",
            parameter_files=files("perception"),
            parameters={"workcell": full["workcell"]},
            respawn=True,
            niceness=NICE,
        ),
        Node(
            "sequencer",
            "sequencer_node",
            parameter_files=files("sequencer"),
            # A learned policy begins where its episodes began; the expert goes on from anywhere.
            parameters={"recipe": full["recipe"], "workcell": full["workcell"]}
            | ({"return_time": 0.0} if full["policy"] == EXPERT else {}),
            restart_parameters={"recipe": ""},
            respawn=True,
            niceness=NICE,
        ),
    ]
    if full["teleop"]:
        nodes.append(
            Node(
                "teleop",
                "teleop_node",
                parameter_files=files("teleop"),
                parameters={"port": full["teleop"], "calibration": full["teleop_calibration"]},
                respawn=True,
            )
        )
    if full["record"]:
        nodes.append(
            Node(
                "recorder",
                "recorder_node",
                parameter_files=files("recorder"),
                parameters={"folder": full["record"]},
                niceness=NICE,
            )
        )
    nodes += ros_nodes(config, rviz=full["rviz"] == "true")
    level = ("--log-level", full["log_level"])
    return [replace(node, namespace=namespace, ros_arguments=level) for node in nodes]


def ros_nodes(config: Path, rviz: bool) -> list[Node]:
    """Nodes of a ROS 2 install: the robot's transforms, the cameras' frames and rviz."""
    nodes = [
        Node(
            "robot_state_publisher",
            "robot_state_publisher",
            package="robot_state_publisher",
            parameters={"robot_description": robot_description(config / "camera_frames.yaml")},
            ros_only=True,
            respawn=True,
        )
    ]
    if rviz:
        nodes.append(
            Node(
                "rviz2",
                "rviz2",
                package="rviz2",
                arguments=("-d", str(config / "chefmate.rviz")),
                ros_only=True,
                asked_for="rviz:=true",
            )
        )
    return nodes
