# SPDX-License-Identifier: Apache-2.0
"""The workcell state as rviz markers."""

from __future__ import annotations

from collections.abc import Mapping

from chefmate_msgs.msg import WorkcellState
from geometry_msgs.msg import Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

SIDE, LAYER, TEXT = 0.03, 0.008, 0.015  # m: a cube smaller than a slice, one layer of a stack, letter height
UNKNOWN = (160, 160, 160)


def to_markers(state: WorkcellState, colours: Mapping[str, tuple[int, int, int]]) -> MarkerArray:
    """A cube and a label for each object, after a marker that deletes those of the state before.

    Args:
        state: positions in m, in its frame; layers of the plate are drawn one above the other.
        colours: RGB 0..255 of each ingredient.
    """
    array = MarkerArray(markers=[Marker(header=state.header, action=Marker.DELETEALL)])
    for index, seen in enumerate(state.objects):
        red, green, blue = (channel / 255.0 for channel in colours.get(seen.ingredient, UNKNOWN))
        colour = ColorRGBA(r=red, g=green, b=blue, a=max(0.3, seen.confidence))
        cube = Marker(header=state.header, ns="object", id=index, type=Marker.CUBE, color=colour)
        cube.pose.position.x, cube.pose.position.y = seen.position.x, seen.position.y
        cube.pose.position.z = seen.position.z + LAYER * max(0, seen.stack_index)
        cube.pose.orientation.w = 1.0
        cube.scale = Vector3(x=SIDE, y=SIDE, z=LAYER)
        label = Marker(header=state.header, ns="label", id=index, type=Marker.TEXT_VIEW_FACING)
        label.pose.position.x, label.pose.position.y = seen.position.x, seen.position.y
        label.pose.position.z = cube.pose.position.z + SIDE
        label.pose.orientation.w = 1.0
        label.scale.z = TEXT
        label.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
        label.text = f"{seen.ingredient} ({seen.place})"
        array.markers += [cube, label]
    return array
