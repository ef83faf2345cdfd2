# SPDX-License-Identifier: Apache-2.0
"""The expert behind the backend interface, on poses of the real twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chefmate_msgs.msg import ExpertState, ObjectPose
from geometry_msgs.msg import Pose

from chefmate_driver.kitchen.truth import observe
from chefmate_driver.kitchen.world import World
from chefmate_policy.inference.backend import (
    BackendError,
    BackendSettings,
    Observation,
    checked,
    create_backend,
)
from chefmate_policy.inference.parameters import JOINTS

BREAD = "pick up the bread and put it into the white plate"
NOW = 1000.0  # s


def pose(position: np.ndarray, quaternion: np.ndarray) -> Pose:
    message = Pose()
    message.position.x, message.position.y, message.position.z = (float(v) for v in position)
    turn = message.orientation
    turn.w, turn.x, turn.y, turn.z = (float(v) for v in quaternion)
    return message


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.reset(0)
    return world


@pytest.fixture
def observation(world: World) -> Observation:
    """What the node would give the expert at a layout's start."""
    state = ExpertState(plate=pose(*world.plate_pose()), tray=pose(*world.tray_pose()))
    for seen in observe(world):
        item = ObjectPose(
            name=seen.state.name,
            ingredient=seen.state.ingredient,
            pose=pose(seen.state.position, seen.state.quaternion),
            place=seen.place,
            slot=seen.slot,
        )
        item.size.x, item.size.y, item.size.z = (float(v) for v in seen.state.size)
        state.objects.append(item)
    angles = world.joint_positions
    return Observation(BREAD, 1, NOW, {}, NOW, NOW, angles, angles, np.zeros(6), expert_state=state)


def test_an_instruction_becomes_a_chunk_that_leaves_from_the_measured_pose(observation: Observation) -> None:
    backend = create_backend("expert", BackendSettings(joints=tuple(JOINTS), cameras=()))
    backend.load()
    chunk = checked(backend.infer(observation), joints=6, now=NOW)
    assert chunk.origin == NOW and not chunk.done
    assert np.max(np.abs(chunk.positions[0] - observation.joint_positions)) < 0.1
    assert np.max(np.abs(chunk.positions[-1] - observation.joint_positions)) > 0.1
    assert chunk.velocities is not None
    # The next chunk is the next stretch of the same motion.
    later = replace(observation, now=NOW + 0.1, joint_positions=chunk.positions[0])
    np.testing.assert_allclose(backend.infer(later).positions[:-1], chunk.positions[1:], atol=1e-6)


def test_an_instruction_that_names_nothing_here_ends_done_and_at_rest(observation: Observation) -> None:
    backend = create_backend("expert", BackendSettings(joints=tuple(JOINTS), cameras=()))
    backend.load()
    now, angles = NOW, observation.joint_positions
    for _ in range(100):
        chunk = backend.infer(
            replace(observation, instruction="pick up the pineapple", now=now, joint_positions=angles)
        )
        if chunk.done:
            break
        now, angles = now + 0.1, chunk.positions[0]
    assert chunk.done and chunk.times.size == 0


def test_other_joints_and_checkpoints_are_refused() -> None:
    with pytest.raises(BackendError, match="parameter joints"):
        create_backend("expert", BackendSettings(joints=("pan",), cameras=())).load()
    with pytest.raises(BackendError, match="no checkpoint"):
        create_backend("expert", BackendSettings(tuple(JOINTS), (), checkpoint="run7")).load()


def test_an_unknown_backend_is_named_with_those_that_exist() -> None:
    with pytest.raises(BackendError, match="use one of: expert"):
        create_backend("oracle", BackendSettings((), ()))
    with pytest.raises(BackendError, match="cannot import nowhere:Oracle"):
        create_backend("nowhere:Oracle", BackendSettings((), ()))
