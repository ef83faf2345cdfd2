# SPDX-License-Identifier: Apache-2.0
"""Lists among the arm's parameters: as many numbers as they need, each one that a servo can do."""

from __future__ import annotations

from typing import Any

import pytest

from chefmate_driver.arm.assembly import LIST_RULES, check_lists, protection
from chefmate_driver.arm.errors import ArmError
from chefmate_driver.arm.parameters import PARAMETERS

SHIPPED: dict[str, Any] = {parameter.name: parameter.default for parameter in PARAMETERS}


def test_the_shipped_lists_are_in_range() -> None:
    check_lists(SHIPPED.__getitem__)


def test_every_list_has_a_rule() -> None:
    lists = {name for name, default in SHIPPED.items() if isinstance(default, list)}
    assert lists == {rule.name for rule in LIST_RULES}


@pytest.mark.parametrize("rule", LIST_RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 1e9, -1e9])
def test_a_number_that_no_servo_can_do_is_refused_with_parameter_joint_and_range(
    rule: Any, number: float
) -> None:
    spoilt = [*SHIPPED[rule.name][:-1], number]
    with pytest.raises(ArmError) as refused:
        check_lists((SHIPPED | {rule.name: spoilt}).__getitem__)
    said = str(refused.value)
    assert f"`{rule.name}` is {number:g} for {rule.labels[-1]}; it must be" in said
    assert f"to {rule.high:.4g} {rule.unit} (" in said


@pytest.mark.parametrize("rule", LIST_RULES, ids=lambda rule: rule.name)
def test_a_missing_number_is_named(rule: Any) -> None:
    short = SHIPPED | {rule.name: SHIPPED[rule.name][:-1]}
    with pytest.raises(ArmError, match=rf"`{rule.name}` has \d numbers and needs one for each of "):
        check_lists(short.__getitem__)


def test_an_infinite_temperature_is_refused_where_the_protection_is_made() -> None:
    hot = SHIPPED | {"temperature_limits": [55.0, 60.0, float("inf")]}
    with pytest.raises(ArmError, match="`temperature_limits` is inf for releases"):
        protection(hot.__getitem__)
