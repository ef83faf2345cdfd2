# SPDX-License-Identifier: Apache-2.0
"""Free ROS domains."""

from chefmate.domain import free_domain


def test_two_holders_get_different_domains() -> None:
    with free_domain() as one, free_domain() as two:
        assert one != two
        assert 1 <= one <= 101


def test_domain_is_free_again_after_the_block() -> None:
    with free_domain() as one:
        pass
    with free_domain() as again:
        assert again == one
