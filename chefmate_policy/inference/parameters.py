# SPDX-License-Identifier: Apache-2.0
"""The policy node's parameters: declared, typed, described and ranged. config/policy.yaml states each of
them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from chefmate_policy.errors import PolicyError
from chefmate_ros.parameters import Parameter

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
MODEL_PREFIX = "model"
"""Parameters below it (`model.units`, `model.denoising_steps`, ...) go to the backend as they are."""


class ParameterError(PolicyError):
    """A parameter's value cannot be used."""


Live = partial(Parameter, live=True)  # `execute` at once, the others at the next configure

PARAMETERS = (
    Live(
        "backend",
        "expert",
        "who decides: expert, local (a checkpoint of GR00T N1.5), server, or module:class",
    ),
    Live("checkpoint", "", "folder, file, hub id or address, as the backend understands it"),
    Live(
        "cameras",
        ["scene=scene_camera", "wrist=wrist_camera"],
        "input name=topic prefix, one for each camera",
    ),
    Live("joints", JOINTS, "joint names in the order in which the backend gives positions"),
    Live("rate", 5.0, "Hz, inferences at most", (0.1, 100.0)),
    Live("execution_horizon", 0.5, "s of each chunk executed before the next one takes over", (0.05, 10.0)),
    Live(
        "lead",
        0.15,
        "s between asking for a chunk and its takeover, at least",
        (0.0, 5.0),
    ),
    Live(
        "refill_margin",
        0.03,
        "s added to the slowest of the last ten inferences; the lead is at least that sum",
        (0.0, 2.0),
    ),
    Live(
        "chunking",
        "auto",
        "how a chunk follows another: switch, blend, sync, rtc, rtc_hard; auto: rtc where the backend can",
    ),
    Live("blend_time", 0.1, "s over which mode blend goes over to the new chunk", (0.0, 2.0)),
    Live(
        "frame_patience",
        0.04,
        "s for which a request waits for the next frames while the arm moves; 0: takes what is there",
        (0.0, 1.0),
    ),
    Live("joint_age_limit", 0.2, "s, older joint states hold the arm", (0.02, 5.0)),
    Live("camera_age_limit", 0.3, "s, older camera frames hold the arm", (0.02, 5.0)),
    Live("expert_age_limit", 0.3, "s, older expert states hold the arm", (0.02, 5.0)),
    Live(
        "arm_age_limit",
        1.0,
        "s without arm/health, once it was heard, that hold the arm; 0: do not watch the arm",
        (0.0, 60.0),
    ),
    Live(
        "sequencer_lease",
        1.0,
        "s without sequencer/status after which its instruction is not obeyed",
        (0.1, 60.0),
    ),
    Live(
        "instruction_timeout",
        0.0,
        "s after which an instruction is not obeyed any more; 0: never",
        (0.0, 3600.0),
    ),
    Live("inference_limit", 2.0, "s without a result after which the backend is at fault", (0.05, 120.0)),
    Live("retry_period", 1.0, "s between questions to a backend that is unavailable", (0.1, 60.0)),
    Live("execute", True, "false is shadow mode: chunks and previews are published, the arm gets nothing"),
    Live("autostart", True, "configure and activate at start; false: wait for a lifecycle manager"),
)


def model_options(node: Node) -> dict[str, Any]:
    """The `model.*` parameters that were given by file or command line, without the prefix."""
    given: Mapping[str, Any] = node._parameter_overrides
    options = {}
    for name in given:
        if name.startswith(f"{MODEL_PREFIX}."):
            if not node.has_parameter(name):
                node.declare_parameter(
                    name, given[name].value, ParameterDescriptor(description="for the backend")
                )
            options[name.removeprefix(f"{MODEL_PREFIX}.")] = node.get_parameter(name).value
    return options


def camera_topics(entries: list[str]) -> dict[str, str]:
    """Input name -> topic prefix.

    Raises:
        ParameterError: an entry is not name=prefix, or a name occurs twice.
    """
    topics: dict[str, str] = {}
    for entry in filter(None, entries):
        name, equals, prefix = (part.strip() for part in entry.partition("="))
        if not (name and equals and prefix) or name in topics:
            raise ParameterError(
                f"parameter cameras: {entry!r} must be name=prefix, for example scene=scene_camera, once."
            )
        topics[name] = prefix
    return topics
