# SPDX-License-Identifier: Apache-2.0
"""Free ROS domains."""

import socket

from chefmate.domain import DOMAIN_GAIN, PORT_BASE, free_domain


def test_two_holders_get_different_domains() -> None:
    with free_domain() as one, free_domain() as two:
        assert one != two
        assert 1 <= one <= 101


def test_domain_is_free_again_after_the_block() -> None:
    with free_domain() as one:
        pass
    with free_domain() as again:
        assert again == one


def test_domain_of_a_participant_that_outlived_the_first_is_not_free() -> None:
    with free_domain() as one:
        pass
    third = PORT_BASE + DOMAIN_GAIN * one + 10 + 2 * 2
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as orphan:
        orphan.bind(("", third))
        with free_domain() as other:
            assert other != one
