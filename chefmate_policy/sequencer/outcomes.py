# SPDX-License-Identifier: Apache-2.0
"""How a step ended, judged by what the camera saw before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from chefmate_policy.perception.workcell import ELSEWHERE, GRIPPER, HOLDER, PLATE, Workcell

SUCCESS = "SUCCESS"
PARTIAL = "PARTIAL"
WRONG_OBJECT = "WRONG_OBJECT"
MISS = "MISS"
DROP = "DROP"
COLLISION = "COLLISION"
NO_ACTION = "NO_ACTION"
TIMEOUT = "TIMEOUT"
ABORTED = "ABORTED"
OUTCOMES = (SUCCESS, PARTIAL, WRONG_OBJECT, MISS, DROP, COLLISION, NO_ACTION, TIMEOUT, ABORTED)


@dataclass(frozen=True)
class StepResult:
    """One ended step; the fields of chefmate_msgs/StepResult."""

    index: int
    ingredient: str
    instruction: str
    outcome: str
    reason: str
    seconds: float
    attempts: int


@dataclass(frozen=True)
class Verdict:
    """An outcome and what was seen."""

    outcome: str
    reason: str


def listing(classes: Counter[str]) -> str:
    """'bread', '2 bread and cheese'."""
    parts = [
        name if count == 1 else f"{count} {name}" for name, count in sorted(classes.items()) if count > 0
    ]
    return " and ".join(parts) or "nothing"


def off_plate(workcell: Workcell) -> Counter[str]:
    """Instances that are seen, but not on the plate."""
    return Counter(seen.ingredient for seen in workcell.objects if seen.place != PLATE)


def stack(before: Workcell, now: Workcell) -> tuple[str, ...]:
    """Classes on the plate now, from the lowest up, with layers that only `before` knows filled in.

    A perception that was restarted meanwhile sees the top of the stack only.
    """
    plate, was = now.plate(), before.plate()
    if now.plate_known() or not before.plate_known():
        return plate
    top = plate[-1]
    if (off_plate(before) - off_plate(now))[top]:
        return (*was, top)
    return was if was and top == was[-1] else plate


def succeeded(
    ingredient: str, before: Workcell, now: Workcell, min_confidence: float, attempt: Workcell | None = None
) -> bool:
    """Whether the named ingredient lies on top of the plate, released, and nothing else changed.

    Args:
        ingredient: class named by the step.
        before: when the step began.
        now: what is seen, with both zones visible.
        attempt: when this attempt began, where it is not the step's first: what an attempt before it knocked
            out of the holder was counted there.
        min_confidence: below it, an object on the plate lies only half on it.
    """
    plate = now.at(PLATE)
    if not now.visible or now.at(GRIPPER) or not plate or plate[-1].ingredient != ingredient:
        return False
    if plate[-1].confidence < min_confidence:
        return False
    if stack(before, now) != (*before.plate(), ingredient):
        return False
    lost = (attempt or before).classes(HOLDER) - now.classes(HOLDER)
    gone = off_plate(before) - off_plate(now)
    once = gone[ingredient] == 1 if attempt in (None, before) else gone[ingredient] >= 1
    return once and not set(lost) - {ingredient}


def judge(
    ingredient: str, before: Workcell, now: Workcell, arm_moved: bool, min_confidence: float
) -> Verdict:
    """How a failed attempt ended, with both zones visible.

    Args:
        ingredient: class named by the step.
        before: when this attempt began.
        now: what is seen after the arm came to rest.
        arm_moved: whether the joints moved since the attempt began.
        min_confidence: below it, an object on the plate lies only half on it.
    """
    lost = before.classes(HOLDER) - now.classes(HOLDER)
    held, was_held = now.classes(GRIPPER), before.classes(GRIPPER)
    others = Counter({name: count for name, count in lost.items() if name != ingredient})
    plate, was = stack(before, now), before.plate()
    gained = Counter(plate) - Counter(was)
    if plate[: len(was)] != was:
        return Verdict(
            COLLISION, f"the stack was disturbed: {' / '.join(was)} became {' / '.join(plate) or 'empty'}"
        )
    if sum(lost.values()) > 1:
        return Verdict(COLLISION, f"several things left the holder: {listing(lost)}")
    taken = others + Counter({name: count for name, count in (held - was_held).items() if name != ingredient})
    wrongly_placed = Counter({name: count for name, count in gained.items() if name != ingredient})
    if taken or wrongly_placed:
        return Verdict(WRONG_OBJECT, f"{listing(taken or wrongly_placed)} was taken instead of {ingredient}")
    if held[ingredient]:
        return Verdict(PARTIAL, f"{ingredient} is still in the gripper")
    if gained[ingredient]:
        top = now.at(PLATE)[-1]
        if top.confidence < min_confidence:
            return Verdict(PARTIAL, f"{ingredient} lies only half on the plate")
        return Verdict(TIMEOUT, f"{ingredient} came onto the plate, but none was seen to leave the holder")
    if lost[ingredient] or was_held[ingredient]:
        place = "beside the plate" if now.classes(ELSEWHERE)[ingredient] else "out of sight"
        return Verdict(DROP, f"{ingredient} ended {place}")
    if arm_moved:
        return Verdict(MISS, f"the arm moved, {ingredient} did not")
    return Verdict(NO_ACTION, "the arm did not move")
