# SPDX-License-Identifier: Apache-2.0
"""Single keys from a terminal, for commands that are driven by hand."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from chefmate.errors import ChefmateError


class Keys:
    """Keys as they are pressed. Made by `keys`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._line_mode = termios.tcgetattr(descriptor)
        # A view of its own that never waits: ctrl-C empties the input, also between the look and the read,
        # and standard input itself is shared with the shell.
        self._input = os.open(_name(descriptor), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)

    def read(self, timeout: float) -> str:
        """Characters typed within `timeout` s, newest last; empty if none. Sequences of arrow and function
        keys are left out. EOFError when the terminal is gone."""
        if not select.select([self._input], [], [], max(timeout, 0.0))[0]:
            return ""
        try:
            data = os.read(self._input, 1024)
        except BlockingIOError:
            return ""
        except OSError as error:
            raise EOFError(f"the terminal is closed: {error.strerror}") from error
        if not data:
            raise EOFError("the terminal is closed")
        return _plain(data.decode(errors="ignore"))

    def start(self) -> None:
        """Keys come one by one and are not shown. Ctrl-C stays what it is."""
        tty.setcbreak(self._descriptor)

    def stop(self) -> None:
        """Lines again, as before; keys that nobody read are forgotten."""
        termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._line_mode)

    def close(self) -> None:
        """Ends the view. The terminal's mode stays as it is."""
        os.close(self._input)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Lines for the length of the block, to ask for a name."""
        self.stop()
        try:
            yield
        finally:
            self.start()


def _name(descriptor: int) -> str:
    try:
        return os.ttyname(descriptor)
    except OSError:  # a terminal from outside of this container
        return "/dev/tty"


def _plain(text: str) -> str:
    """Without escape sequences: ESC, a letter or bracket, digits, and what ends them."""
    kept, inside = [], False
    for index, character in enumerate(text):
        if character == "\x1b":
            inside = True
        elif inside:
            inside = not (character.isalpha() or character == "~") or (
                character in "[O" and text[index - 1] == "\x1b"
            )
        else:
            kept.append(character)
    return "".join(kept)


@contextmanager
def keys(command: str) -> Iterator[Keys]:
    """Single keys for the length of the block; the terminal is put back as it was, whatever happens.

    Raises:
        ChefmateError: standard input or output is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ChefmateError(f"{command} is driven by keys: run it in a terminal, not through a pipe")
    typed = Keys(sys.stdin.fileno())
    typed.start()
    try:
        yield typed
    finally:
        with contextlib.suppress(termios.error):  # the terminal is closed
            typed.stop()
        typed.close()
