# SPDX-License-Identifier: Apache-2.0
"""Parameters as people type them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.parameter import Parameter as Setting

from chefmate_ros.parameters import Parameter, declare

PARAMETERS = (
    Parameter("rate", 50.0, "Hz", (1.0, 200.0), live=True),
    Parameter("limits", [1.0, 2.0], "rad/s"),
    Parameter("count", 3, "of cycles", (0, 5), live=True),
)


@pytest.fixture
def make(ros_domain: int) -> Iterator[Callable[..., Node]]:
    """Function (name:=value, ...) -> node."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    made = []

    def node(*words: str) -> Node:
        options = [word for each in words for word in ("-p", each)]
        made.append(rclpy.create_node("counter", context=context, cli_args=["--ros-args", *options]))
        return made[-1]

    yield node
    for each in made:
        each.destroy_node()
    context.try_shutdown()


def test_a_whole_number_is_taken_for_a_real_one(make: Callable[..., Node]) -> None:
    values = declare(make("rate:=100", "limits:=[3, 4]", "count:=2"), PARAMETERS)
    assert values == {"rate": 100.0, "limits": pytest.approx([3.0, 4.0]), "count": 2}
    assert isinstance(values["rate"], float)


def test_also_while_the_node_runs_and_within_the_same_range(make: Callable[..., Node]) -> None:
    node = make()
    declare(node, PARAMETERS)
    assert node.set_parameters([Setting("rate", value=120)])[0].successful
    assert node.get_parameter("rate").value == 120.0
    assert not node.set_parameters([Setting("rate", value=300)])[0].successful


@pytest.mark.parametrize("word", ["rate:=fast", "count:=2.5", "limits:=[a, b]"])
def test_another_type_is_still_refused(make: Callable[..., Node], word: str) -> None:
    node: Any = make(word)
    with pytest.raises(InvalidParameterTypeException):
        declare(node, PARAMETERS)
