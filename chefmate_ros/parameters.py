# SPDX-License-Identifier: Apache-2.0
"""Parameters of nodes as data: declared, typed, described and ranged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node


@dataclass(frozen=True)
class Parameter:
    """One parameter. `bounds` (inclusive) make the parameter server refuse other values. `live`: may be set
    while the node runs, and takes effect at once or, in a lifecycle node, at the next configure."""

    name: str
    default: Any
    description: str
    bounds: tuple[float, float] | None = None
    live: bool = False


def declare(node: Node, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Declares parameters with their descriptors, read-only unless live, and returns their values by name."""
    for parameter in parameters:
        descriptor = ParameterDescriptor(description=parameter.description, read_only=not parameter.live)
        if parameter.bounds is not None and isinstance(parameter.default, int):
            low, high = (int(bound) for bound in parameter.bounds)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        elif parameter.bounds is not None:
            start, end = (float(bound) for bound in parameter.bounds)
            descriptor.floating_point_range = [FloatingPointRange(from_value=start, to_value=end)]
        node.declare_parameter(parameter.name, parameter.default, descriptor)
    return {parameter.name: node.get_parameter(parameter.name).value for parameter in parameters}
