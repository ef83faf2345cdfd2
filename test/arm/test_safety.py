# SPDX-License-Identifier: Apache-2.0
"""Whatever is asked for, what leaves the filter is within the limits."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from so101_meshes import ArmMeshes

from chefmate_driver.arm.collision import PAIRS, heights, separations
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.following import FollowingLimits
from chefmate_driver.arm.model import LINK_NAMES, LOWER, UPPER, link_frames, lowest_tip_height
from chefmate_driver.arm.parameters import HOME_POSE, PARK_POSE
from chefmate_driver.arm.safety import BODY, FOLLOWING, POSITION, SPEED, TABLE, Limits, SafetyFilter

DT = 0.01
VELOCITY = np.array([2.0, 2.0, 2.5, 3.0, 4.0, 4.0])
ACCELERATION = np.array([10.0, 10.0, 12.0, 20.0, 30.0, 40.0])
NO_FLOOR = -10.0


def limits(floor: float = NO_FLOOR, body: bool = False) -> Limits:
    """Those of single joints, unless a floor or `body` asks for more."""
    return Limits(LOWER, UPPER, VELOCITY, ACCELERATION, floor, self_collision=body)


def made(position: np.ndarray | None = None, floor: float = NO_FLOOR, body: bool = False) -> SafetyFilter:
    safety = SafetyFilter(limits(floor, body))
    safety.reset(np.zeros(6) if position is None else position)
    return safety


def run(safety: SafetyFilter, wanted: list[np.ndarray | None]) -> np.ndarray:
    """Commands (n + 1, 6) for wanted positions; None brakes."""
    rows = [safety.position.copy()]
    for target in wanted:
        rows.append((safety.brake(DT) if target is None else safety.step(target, DT)).copy())
    return np.array(rows)


def assert_within(path: np.ndarray, override: float = 1.0) -> None:
    speed = np.diff(path, axis=0) / DT
    assert (np.abs(speed) <= VELOCITY * override + 1e-9).all()
    rise = np.diff(np.vstack([np.zeros(6), speed]), axis=0) / DT
    assert (np.abs(rise) <= ACCELERATION * (1 + 1e-6) + 1e-6).all()
    assert (path >= LOWER - 1e-9).all() and (path <= UPPER + 1e-9).all()


TARGET = st.lists(st.floats(-4, 4), min_size=6, max_size=6).map(np.array)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), TARGET), st.integers(1, 40)), min_size=1, max_size=8))
def test_any_sequence_of_targets_and_stops_stays_within_all_limits(
    parts: list[tuple[np.ndarray | None, int]],
) -> None:
    assert_within(run(made(), [target for target, count in parts for _ in range(count)]))


def test_a_step_is_reached_without_overshoot() -> None:
    target = np.array([1.0, -1.0, 0.5, 0.3, -2.0, 1.0])
    path = run(made(), [target] * 200)
    assert path[-1] == pytest.approx(target, abs=1e-9)
    assert (np.abs(path) <= np.abs(target) + 1e-9).all()
    assert_within(path)


def test_a_trajectory_within_the_limits_passes_unchanged() -> None:
    times = np.arange(1, 300) * DT
    wanted = np.outer(0.5 * (1 - np.cos(1.5 * times)), np.ones(6))
    safety = made()
    path = run(safety, list(wanted))
    assert path[1:] == pytest.approx(wanted, abs=1e-12)
    assert safety.interventions == 0


def test_a_lagging_command_catches_up_with_a_moving_target() -> None:
    ramp = [np.full(6, 0.3 + 0.5 * index * DT) for index in range(200)]
    path = run(made(), ramp)
    assert path[-1] == pytest.approx(ramp[-1], abs=1e-6)
    assert_within(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_brakes(bad: float) -> None:
    safety = made()
    run(safety, [np.full(6, 1.0)] * 20)
    path = run(safety, [np.array([1.0, 1.0, 1.0, bad, 1.0, 1.0])] * 60)
    assert np.isfinite(path).all()
    assert safety.still
    assert safety.interventions >= 60
    assert safety.reason == "not a finite position"


def test_braking_takes_the_distance_that_the_acceleration_limit_gives() -> None:
    safety = made()
    ramp = run(safety, [np.full(6, 1.6)] * 30)
    speed = (ramp[-1] - ramp[-2]) / DT
    path = run(safety, [None] * 60)
    assert safety.still
    assert np.abs(path[-1] - path[0]) == pytest.approx(speed**2 / (2 * ACCELERATION), abs=0.03)
    assert (np.diff(path, axis=0) >= -1e-12).all()


def test_speed_override_scales_speed_and_can_change_while_moving() -> None:
    safety = made()
    run(safety, [np.full(6, 1.6)] * 30)
    safety.speed_override = 0.2
    path = run(safety, [np.full(6, 1.6)] * 60)
    assert (np.abs(np.diff(path[-10:], axis=0)) / DT <= VELOCITY * 0.2 + 1e-9).all()
    assert (np.abs(np.diff(path, n=2, axis=0)) / DT**2 <= ACCELERATION + 1e-6).all()


@pytest.mark.parametrize("share", [0.0, 0.05, 1.01, float("nan")])
def test_speed_override_outside_10_to_100_percent_is_refused(share: float) -> None:
    with pytest.raises(ArmError, match="speed override"):
        made().speed_override = share


def test_the_finger_tips_stay_above_the_table() -> None:
    safety = made(floor=0.02)
    down = np.array([0.0, 1.0, 0.5, 0.5, 0.0, 0.0])
    assert lowest_tip_height(down) < -0.05
    path = run(safety, [down] * 300)
    heights = [lowest_tip_height(row) for row in path]
    assert min(heights) > 0.02 - 1e-3
    assert min(heights) < 0.05  # it did go down
    assert_within(path)
    assert safety.reason == "table"
    # And up again from there.
    path = run(safety, [np.zeros(6)] * 300)
    assert path[-1] == pytest.approx(np.zeros(6), abs=1e-6)


def test_an_arm_found_below_the_table_limit_may_only_rise() -> None:
    low = np.array([0.0, 0.6, 0.5, 0.5, 0.0, 0.0])
    safety = made(low, floor=lowest_tip_height(low) + 0.03)
    path = run(safety, [low + np.array([0, 0.2, 0, 0, 0, 0])] * 50)
    assert path[-1] == pytest.approx(low, abs=1e-6)
    path = run(safety, [np.zeros(6)] * 300)
    assert path[-1] == pytest.approx(np.zeros(6), abs=1e-6)


def test_an_arm_found_outside_its_limits_moves_only_inward() -> None:
    outside = UPPER + 0.05
    path = run(made(outside), [UPPER + 1.0] * 50)
    assert (np.diff(path, axis=0) <= 1e-12).all()
    assert path[-1] == pytest.approx(UPPER, abs=1e-6)


def test_senseless_limits_are_refused() -> None:
    with pytest.raises(ArmError, match="velocity needs six"):
        Limits(LOWER, UPPER, np.ones(5), ACCELERATION, 0.0)
    with pytest.raises(ArmError, match="above zero"):
        Limits(LOWER, UPPER, -VELOCITY, ACCELERATION, 0.0)


# Whatever is asked: by the arm's real shape, placed by MuJoCo, not by the filter's own boxes.

HOME = np.array([*HOME_POSE, 0.0])
LINKS = [(LINK_NAMES.index(first), LINK_NAMES.index(second)) for first, second in PAIRS]
Target = Callable[[int], np.ndarray]


@pytest.fixture(scope="module")
def meshes() -> ArmMeshes:
    return ArmMeshes()


def adversary(random: np.random.Generator) -> Target:
    """Targets (6,), rad, by cycle: far out, jumping, running away, not finite, trembling."""
    one, other = random.uniform(LOWER, UPPER, (2, 6))
    far, away = random.uniform(-4.0, 4.0, 6), random.uniform(-3.0, 3.0, 6)
    rate = random.uniform(0.1, 2.0)
    kinds: list[Target] = [
        lambda cycle: far,
        lambda cycle: one,
        lambda cycle: one if cycle % 2 else other,
        lambda cycle: one + away * cycle * 0.01,
        lambda cycle: np.where(np.arange(6) == cycle % 6, [np.nan, np.inf, -np.inf][cycle % 3], one),
        lambda cycle: one + np.sin(rate * cycle),
        lambda cycle: np.full(6, 1e300) * (-1) ** cycle,
    ]
    return kinds[random.integers(len(kinds))]


def attack(seed: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Commands (n, 6) of a filter under attack that starts at home, and the cycle times, s (n - 1,)."""
    random = np.random.default_rng(seed)
    safety = made(HOME, floor, body=True)
    rows, times = [safety.position.copy()], []
    for _ in range(6):
        target, braking, rhythm = adversary(random), random.random() < 0.15, random.integers(3)
        if random.random() < 0.3:
            safety.speed_override = random.uniform(0.1, 1.0)
        if random.random() < 0.2:
            safety.slowdown = random.uniform(0.1, 1.0)
        for cycle in range(random.integers(1, 100)):
            dt = (DT, DT / 2, random.uniform(0.001, 0.03))[rhythm]
            rows.append((safety.brake(dt) if braking else safety.step(target(cycle), dt)).copy())
            times.append(dt)
    return np.array(rows), np.array(times)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), floor=st.floats(-0.02, 0.06))
def test_no_attack_gets_a_command_past_any_limit(meshes: ArmMeshes, seed: int, floor: float) -> None:
    path, times = attack(seed, floor)
    assert np.isfinite(path).all()
    assert (path >= LOWER - 1e-9).all() and (path <= UPPER + 1e-9).all()
    speed = np.diff(path, axis=0) / times[:, None]
    assert (np.abs(speed) <= VELOCITY + 1e-9).all()
    rise = np.diff(np.vstack([np.zeros(6), speed]), axis=0) / times[:, None]
    assert (np.abs(rise) <= ACCELERATION * (1 + 1e-6)).all()
    assert min(meshes.height(pose) for pose in path[::3]) > floor - 1e-3
    nearest = np.argsort(separations(link_frames(path)).min(axis=1))[:3]
    assert min(meshes.distance(pose, LINKS) for pose in path[nearest]) > 0.003


@pytest.mark.parametrize("seed", [81, 535])
def test_a_stop_does_not_dip_into_the_table_on_its_way(seed: int) -> None:
    """Joints stop one after the other: here the ends of a stop are high enough, and its middle was not."""
    path, _ = attack(seed, floor=0.04)
    assert heights(link_frames(path)).min() > 0.04 - 1e-3


def test_the_gripper_stops_before_the_own_base_and_comes_back() -> None:
    into_base = np.array([0.0, 0.2, 1.6, 1.6, 0.0, 0.0])
    assert separations(link_frames(into_base[None])).min() < -0.005
    safety = made(HOME, body=True)
    path = run(safety, [into_base] * 400)
    assert separations(link_frames(path)).min() > 0.004
    assert separations(link_frames(path[-1:])).min() < 0.02  # it did go near
    assert safety.reason == BODY and safety.counts[BODY] > 100
    assert_within(path)
    assert run(safety, [HOME] * 400)[-1] == pytest.approx(HOME, abs=1e-6)


def test_every_part_of_the_arm_stays_above_the_table(meshes: ArmMeshes) -> None:
    """Elbow first: the finger tips are high, the wrist is not."""
    folded = np.array([0.0, 1.7, -1.4, -1.4, 0.0, 0.0])
    assert lowest_tip_height(folded) > 0.05 > meshes.height(folded)
    safety = made(np.array([0.0, 0.3, -0.6, -0.6, 0.0, 0.0]), floor=0.05, body=True)
    path = run(safety, [folded] * 400)
    assert min(meshes.height(pose) for pose in path) > 0.05 - 2e-4
    assert safety.reason == TABLE


def motions_away(pose: np.ndarray) -> list[np.ndarray]:
    """Targets, rad (6,), 0.04 rad off in one joint, on the way to which nothing comes nearer."""
    found = []
    for joint in range(6):
        for way in (-0.04, 0.04):
            targets = pose + np.linspace(0.0, way, 41)[:, None] * np.eye(6)[joint]
            frames = link_frames(targets)
            rises = np.diff(heights(frames)), np.diff(separations(frames).min(axis=1))
            if all((np.abs(rise) < 1e-12).all() or (rise > 1e-6).all() for rise in rises):
                found.append(targets[-1])
    return found


def test_from_a_violated_region_a_motion_away_is_always_possible() -> None:
    """From poses in the table or in the own body: whatever leads away is done, and nearly always one of the
    twelve motions of a single joint does (of both at once some poses need two)."""
    poses = np.random.default_rng(1).uniform(LOWER + 0.1, UPPER - 0.1, (100, 6))
    height, body = heights(link_frames(poses)), separations(link_frames(poses)).min(axis=1)
    bad = poses[(height < -0.01) | (body < -0.005)]
    assert len(bad) > 20
    for pose in bad:
        ways = motions_away(pose)
        assert ways
        for target in ways[:3]:
            safety = made(pose, floor=0.0, body=True)
            assert run(safety, [target] * 60)[-1] == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize("dt", [0.0, -0.01, float("nan")])
def test_without_time_nothing_moves(dt: float) -> None:
    safety = made()
    before = safety.position.copy()
    assert (safety.step(np.ones(6), dt) == before).all() and (safety.brake(dt) == before).all()


# What counts as an intervention.


def way_points(speed: float) -> list[np.ndarray]:
    """A policy's chunk: there and back, points every 0.1 s, joined by lines, at 100 Hz."""
    points = np.array([0.0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 2]) * 0.1 * speed
    line = np.interp(np.arange(0, 11, 0.1), np.arange(12), points)
    return [HOME + value * np.array([1.0, -0.2, -1.0, 0.3, 0.5, 0.5]) for value in line]


def test_corners_of_a_target_within_the_limits_are_shaped_and_not_counted() -> None:
    safety = made(HOME, floor=0.0, body=True)
    wanted = way_points(0.7)
    path = run(safety, wanted)
    assert safety.interventions == 0 and safety.shaped > 20
    assert np.abs(path[1:] - wanted).max() < 0.05
    assert_within(path)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (lambda cycle: HOME + np.array([0.04 * cycle, 0, 0, 0, 0, 0]), SPEED),
        (lambda cycle: HOME + np.array([1.0, 0, 0, 0, 0, 0]), SPEED),
        (lambda cycle: np.where(np.arange(6) == 4, 3.0, HOME), POSITION),
        (lambda cycle: np.full(6, np.nan), "not a finite position"),
    ],
)
def test_each_reason_is_counted_by_its_name(target: Target, reason: str) -> None:
    safety = made(HOME, floor=0.0, body=True)
    run(safety, [target(cycle) for cycle in range(40)])
    if reason == POSITION:  # the speed is the first that stands against a jump
        run(safety, [target(cycle) for cycle in range(400)])
    assert safety.counts[reason] > 10
    assert safety.reason == reason
    assert safety.interventions == sum(safety.counts.values())


def test_slowdown_and_override_multiply() -> None:
    safety = made()
    safety.speed_override, safety.slowdown = 0.5, 0.4
    path = run(safety, [np.full(6, 1.6)] * 60)
    assert np.abs(np.diff(path, axis=0)).max(axis=0) / DT == pytest.approx(VELOCITY * 0.2, rel=1e-6)
    with pytest.raises(ArmError, match="slowdown"):
        safety.slowdown = 0.0


# Following error.


def stuck(joint: int, cycles: int, target: np.ndarray) -> tuple[SafetyFilter, np.ndarray]:
    """A filter whose arm follows one cycle late, apart from one joint that does not move; its commands."""
    safety = made(HOME, body=True)
    rows = [HOME]
    for _ in range(cycles):
        measured = rows[-1].copy()
        measured[joint] = HOME[joint]
        safety.observe(measured, DT)
        rows.append(safety.step(target, DT).copy())
    return safety, np.array(rows)


AWAY = HOME + np.array([0.9, 0.0, 0.0, 0.0, 0.9, 0.9])


def test_a_blocked_joint_slows_then_stops_and_is_named() -> None:
    safety, path = stuck(0, 120, AWAY)
    assert "shoulder_pan does not follow: 0." in safety.blocked
    assert safety.counts[FOLLOWING] > 10
    lag = path[:, 0] - HOME[0]
    assert 0.25 < lag[-1] < 0.55
    assert lag[-1] == pytest.approx(lag[-20], abs=1e-9)  # it stands
    speed = np.diff(path[:, 4]) / DT
    assert speed.max() < VELOCITY[4] + 1e-9 and speed[60] <= 0.1 * VELOCITY[4] + 1e-9  # the others are slow
    assert_within(path)


def test_a_blocked_joint_may_go_back_to_where_it_is_and_is_free_then() -> None:
    safety, _ = stuck(0, 120, AWAY)
    for _ in range(300):
        safety.observe(HOME, DT)
        command = safety.step(HOME, DT)
    assert command == pytest.approx(HOME, abs=1e-6)
    assert safety.blocked == ""
    safety.reset(HOME)
    assert run(safety, [AWAY] * 200)[-1] == pytest.approx(AWAY, abs=1e-6)


def test_a_joint_that_stays_blocked_never_gets_a_command_farther_off() -> None:
    safety, path = stuck(0, 120, AWAY)
    held = path[-1, 0]
    for target in [AWAY, AWAY + 0.5, HOME + 1.5] * 40:
        safety.observe(HOME, DT)
        assert safety.step(target, DT)[0] <= held + 1e-9


def test_a_gripper_that_holds_something_is_not_blocked() -> None:
    safety, path = stuck(5, 120, AWAY)
    assert safety.blocked == "" and path[-1] == pytest.approx(AWAY, abs=1e-6)


def test_one_odd_measurement_stops_nothing() -> None:
    safety = made(HOME, body=True)
    safety.observe(HOME + 1.0, DT)
    assert safety.blocked == ""
    safety.observe(HOME, DT)
    assert safety.blocked == ""
    assert run(safety, [AWAY] * 200)[-1] == pytest.approx(AWAY, abs=1e-6)


def test_an_arm_that_follows_late_is_neither_slowed_nor_blocked() -> None:
    """0.14 s behind at full speed, farther than a joint at rest may be."""
    safety = made(HOME, body=True)
    target = HOME + np.array([0.9, 0.0, 0.0, 0.0, 0.0, 0.0])
    rows = [HOME] * 15
    for _ in range(200):
        safety.observe(rows[-14], DT)
        assert safety.blocked == ""
        rows.append(safety.step(target, DT).copy())
    assert rows[-1] == pytest.approx(target, abs=1e-6)
    assert np.diff(rows, axis=0)[:, 0].max() / DT == pytest.approx(VELOCITY[0])


def test_senseless_following_limits_are_refused() -> None:
    with pytest.raises(ArmError, match="slow < hold"):
        FollowingLimits(slow=0.3, hold=0.2)


def test_park_and_home_are_reached_without_intervention() -> None:
    safety = made(HOME, floor=0.0, body=True)
    park = np.array([*PARK_POSE, 0.0])
    line = [HOME + share * (park - HOME) for share in (1 - np.cos(np.linspace(0, np.pi, 150))) / 2]
    assert run(safety, [*line, *[park] * 20])[-1] == pytest.approx(park, abs=1e-6)
    assert safety.interventions == 0


def test_a_step_of_the_filter_costs_little() -> None:
    safety = made(HOME, floor=0.0, body=True)
    times = []
    for wanted in way_points(0.7) * 5:
        begin = time.perf_counter()
        safety.observe(safety.position, DT)
        safety.step(wanted, DT)
        times.append(time.perf_counter() - begin)
    print(f"filter step: {np.median(times) * 1e6:.0f} us median, {np.min(times) * 1e6:.0f} us least")
    assert np.min(times) < 1e-3
