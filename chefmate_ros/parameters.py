# SPDX-License-Identifier: Apache-2.0
"""Parameters of nodes as data: declared, typed, described and ranged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter as Setting


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
    """Declares parameters with their descriptors, read-only unless live, and returns their values by name.

    A whole number is taken for a real one: `rate:=100` is 100.0.
    """
    real = {parameter.name: parameter.default for parameter in parameters if _is_real(parameter.default)}
    given = node._parameter_overrides  # rclpy has no public name for them
    for name in real.keys() & given.keys():
        given[name] = _as_real(given[name])
    node.add_pre_set_parameters_callback(
        lambda settings: [_as_real(each) if each.name in real else each for each in settings]
    )
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


def _is_real(default: Any) -> bool:
    return isinstance(default, float) or (
        isinstance(default, list) and bool(default) and all(isinstance(number, float) for number in default)
    )


def _as_real(setting: Setting) -> Setting:
    if setting.type_ is Setting.Type.INTEGER:
        return Setting(setting.name, Setting.Type.DOUBLE, float(setting.value))
    if setting.type_ is Setting.Type.INTEGER_ARRAY:
        return Setting(setting.name, Setting.Type.DOUBLE_ARRAY, [float(number) for number in setting.value])
    return setting
