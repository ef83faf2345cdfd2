# SPDX-License-Identifier: Apache-2.0
"""rviz markers of the workcell."""

from builtin_interfaces.msg import Time
from visualization_msgs.msg import Marker

from chefmate_policy.perception.markers import to_markers
from chefmate_policy.perception.messages import to_message
from chefmate_policy.perception.workcell import PLATE, SeenObject, Workcell


def test_each_object_is_a_cube_and_a_label_where_it_lies_and_old_ones_go() -> None:
    objects = (
        SeenObject("bread", PLATE, stack_index=0, position=(0.2, 0.1, 0.01)),
        SeenObject("cheese", PLATE, stack_index=1, position=(0.2, 0.1, 0.01)),
    )
    state = to_message(Workcell(stamp=3.0, objects=objects), Time(sec=3))
    markers = to_markers(state, {"cheese": (255, 204, 0)}).markers
    assert markers[0].action == Marker.DELETEALL
    cubes = [marker for marker in markers if marker.type == Marker.CUBE and marker.action == Marker.ADD]
    assert [(cube.pose.position.x, cube.pose.position.y) for cube in cubes] == [(0.2, 0.1)] * 2
    assert cubes[1].pose.position.z > cubes[0].pose.position.z
    assert (cubes[1].color.r, cubes[1].color.b) == (1.0, 0.0)
    assert [marker.text for marker in markers if marker.text] == ["bread (plate)", "cheese (plate)"]
    assert {marker.header.frame_id for marker in markers} == {"base_link"}
    assert len({(marker.ns, marker.id) for marker in markers[1:]}) == len(markers) - 1
