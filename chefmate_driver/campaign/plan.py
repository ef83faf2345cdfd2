# SPDX-License-Identifier: Apache-2.0
"""What happens in one run of the campaign; the seed decides everything."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

from chefmate_driver.campaign.classes import CLASSES, FaultClass
from chefmate_driver.feetech.faults import WHOLE_BUS, Fault

# rad; poses well above the table from which every joint can go both ways
POSES = ((-1.0, 1.0), (-1.2, -0.5), (0.3, 1.1), (0.0, 1.0), (-1.2, 1.2), (0.1, 1.0))
BEYOND = 0.3  # share of targets with a joint that lies outside its range, or low over the table
MOTION = 1.8  # s that the arm is kept moving
SERVOS = (1, 2, 3, 4, 5, 6)


class Kind(str, Enum):
    """How the arm is moved."""

    ONE_SHOT = "one-shot"  # one trajectory of several points
    CHUNKS = "chunks"  # a policy's leased chunks, with heartbeats
    ESTOP = "e-stop"  # one trajectory, and an e-stop at a random moment


@dataclass(frozen=True)
class Plan:
    """One run. Times in s from the start of the motion, angles in rad."""

    seed: int
    fault_class: FaultClass
    fault: Fault
    motion: Kind
    start: tuple[float, ...]
    targets: tuple[tuple[float, ...], ...]  # reached one after the other, evenly over MOTION
    estop: float | None


def plan(seed: int) -> Plan:
    """The run of a seed: classes take turns, everything else is drawn."""
    chance = random.Random(seed)
    fault_class = CLASSES[seed % len(CLASSES)]
    ids = tuple(sorted(chance.sample(SERVOS, chance.randint(1, 3))))
    begin = chance.uniform(0.25, 0.7)
    fault = Fault(
        fault_class.kind,
        begin,
        chance.uniform(*fault_class.duration),
        () if fault_class.kind in WHOLE_BUS else ids,
        chance.choice(fault_class.amounts),
    )
    motion = chance.choice((Kind.ONE_SHOT, Kind.ONE_SHOT, Kind.CHUNKS, Kind.CHUNKS, Kind.ESTOP))
    return Plan(
        seed,
        fault_class,
        fault,
        motion,
        _pose(chance),
        tuple(_target(chance) for _ in range(3)),
        chance.uniform(0.2, 1.2) if motion is Kind.ESTOP else None,
    )


def _pose(chance: random.Random) -> tuple[float, ...]:
    return tuple(chance.uniform(low, high) for low, high in POSES)


def _target(chance: random.Random) -> tuple[float, ...]:
    pose = list(_pose(chance))
    if chance.random() < BEYOND:
        joint = chance.randrange(6)
        pose[joint] = chance.choice((-3.2, 3.2)) if joint != 1 else chance.choice((-2.2, 1.2))
    return tuple(pose)
