# SPDX-License-Identifier: Apache-2.0
"""Single keys from a terminal."""

from __future__ import annotations

import os
import pty
import select
import termios
from collections.abc import Iterator

import pytest

from chefmate.terminal import Keys


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """The terminal as a person sees it, and as a command does."""
    master, slave = pty.openpty()
    yield master, slave
    for descriptor in (master, slave):
        os.close(descriptor)


@pytest.fixture
def typed(ends: tuple[int, int]) -> Iterator[Keys]:
    made = Keys(ends[1])
    made.start()
    yield made
    made.stop()
    made.close()


def test_keys_come_one_by_one_without_enter(ends: tuple[int, int], typed: Keys) -> None:
    os.write(ends[0], b"1q ")
    assert typed.read(5.0) == "1q "
    assert typed.read(0.0) == ""


def test_arrow_keys_are_not_letters(ends: tuple[int, int], typed: Keys) -> None:
    os.write(ends[0], b"\x1b[A1\x1b[15~\x1bOBx")
    assert typed.read(5.0) == "1x"


@pytest.mark.timeout(20)
def test_input_that_ctrl_c_took_away_after_the_look_blocks_nothing(
    typed: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "select", lambda readable, *others: (readable, [], []))
    assert typed.read(0.0) == ""


def test_the_mode_of_the_terminal_is_put_back(ends: tuple[int, int]) -> None:
    before = termios.tcgetattr(ends[1])
    typed = Keys(ends[1])
    typed.start()
    assert termios.tcgetattr(ends[1]) != before
    typed.stop()
    typed.close()
    assert termios.tcgetattr(ends[1]) == before


def test_a_closed_terminal_is_the_end_of_input() -> None:
    master, slave = pty.openpty()
    typed = Keys(slave)
    os.close(master)
    with pytest.raises(EOFError, match="terminal is closed"):
        typed.read(1.0)
    typed.close()
    os.close(slave)
