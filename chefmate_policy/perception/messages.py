# SPDX-License-Identifier: Apache-2.0
"""chefmate_msgs/WorkcellState to and from its plain form."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from chefmate_msgs.msg import WorkcellObject, WorkcellState
from geometry_msgs.msg import Point
from std_msgs.msg import Header

from chefmate_policy.perception.workcell import SeenObject, Workcell


def to_message(workcell: Workcell, stamp: Time) -> WorkcellState:
    """The message, stamped with the image's capture time."""
    return WorkcellState(
        header=Header(stamp=stamp, frame_id="base_link"),
        objects=[
            WorkcellObject(
                ingredient=seen.ingredient,
                place=seen.place,
                slot=seen.slot,
                stack_index=seen.stack_index,
                confidence=float(seen.confidence),
                position=Point(x=seen.position[0], y=seen.position[1], z=seen.position[2]),
            )
            for seen in workcell.objects
        ],
        plate_visible=workcell.plate_visible,
        holder_visible=workcell.holder_visible,
    )


def from_message(message: WorkcellState) -> Workcell:
    """The plain form; `stamp` in s since the epoch."""
    return Workcell(
        stamp=message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec,
        objects=tuple(
            SeenObject(
                ingredient=seen.ingredient,
                place=seen.place,
                slot=seen.slot,
                stack_index=seen.stack_index,
                confidence=seen.confidence,
                position=(seen.position.x, seen.position.y, seen.position.z),
            )
            for seen in message.objects
        ),
        plate_visible=message.plate_visible,
        holder_visible=message.holder_visible,
    )
