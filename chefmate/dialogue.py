# SPDX-License-Identifier: Apache-2.0
"""Questions and answers on a terminal, or the same through pipes: answers are lines of standard input.

What is shown goes to standard error where standard output carries JSON.
"""

from __future__ import annotations

import os
import select
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live

from chefmate.errors import ChefmateError

YES = ("y", "yes")
PICTURES = 15.0  # per s


class Dialogue:
    """Asks, tells, and shows live pictures."""

    def __init__(
        self, *, json: bool = False, assume_yes: bool = False, descriptor: int | None = None
    ) -> None:
        """json: standard output is kept free. assume_yes: `agree` does not wait for an answer. descriptor:
        where answers come from; by default standard input."""
        self.console = Console(stderr=json, highlight=False, soft_wrap=True, markup=False)
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._typed = b""
        self._closed = False
        self._assume_yes = assume_yes

    def tell(self, content: RenderableType = "") -> None:
        """Shows a text or a table."""
        self.console.print(content)

    def agree(self, question: str) -> bool:
        """True if the answer is yes. ChefmateError if input ends instead."""
        if self._assume_yes:
            self.tell(f"{question} [y/N] y (--yes)")
            return True
        return self.ask(f"{question} [y/N]").lower() in YES

    def ask(self, question: str) -> str:
        """The next line of input. ChefmateError if input ends instead."""
        self.tell(question)
        line = self.line(None)
        if line is None:
            raise ChefmateError("input ended before an answer came; nothing was written")
        return line.strip()

    def line(self, timeout: float | None) -> str | None:
        """A line that is typed within `timeout` s (None: whenever it comes), or None."""
        while b"\n" not in self._typed:
            if self._closed or not select.select([self._descriptor], [], [], timeout)[0]:
                return None
            data = os.read(self._descriptor, 1024)
            self._closed = not data
            self._typed += data
            if timeout is not None:
                timeout = 0.0
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace")

    @property
    def ended(self) -> bool:
        """True once input is closed and every line of it was taken."""
        return self._closed and b"\n" not in self._typed

    @contextmanager
    def live(self) -> Iterator[Callable[[RenderableType], None]]:
        """A function that replaces the picture on a terminal; elsewhere it shows nothing."""
        if not self.console.is_terminal:
            yield lambda picture: None
            return
        with self._unechoed(), Live(console=self.console, auto_refresh=False, transient=True) as live:
            yield lambda picture: live.update(picture, refresh=True)

    @contextmanager
    def _unechoed(self) -> Iterator[None]:
        """Typed lines do not tear the picture."""
        if not os.isatty(self._descriptor):
            yield
            return
        before = termios.tcgetattr(self._descriptor)
        silent = termios.tcgetattr(self._descriptor)
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(self._descriptor, termios.TCSANOW, silent)
        try:
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, before)
