# SPDX-License-Identifier: Apache-2.0
"""Progress lines of long work."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from typing import Any


def progress(quiet: bool) -> Callable[[str], None]:
    """Where progress lines go: standard error when standard output carries JSON."""
    stream = sys.stderr if quiet else sys.stdout

    def say(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            print(line, file=stream, flush=True)

    return say


class StepLines:
    """One line per ended step; on a terminal, a last line is rewritten while a step runs."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._steps, self._printed = say, 0, 0

    def __call__(self, feedback: Any) -> None:
        """Takes the action's feedback."""
        self._steps = feedback.steps
        self.finish(feedback.results)
        if sys.stdout.isatty():
            text = (
                f"step {feedback.step + 1}/{feedback.steps} {feedback.phase}, {feedback.elapsed:.0f} s, try "
            )
            print(f"\r  {text}{feedback.attempt}: {feedback.instruction[:60]}\033[K", end="", flush=True)

    def finish(self, results: Iterable[Any]) -> None:
        """Prints the steps that have ended since the last call."""
        for step in list(results)[self._printed :]:
            if sys.stdout.isatty():
                print("\r\033[K", end="")
            of = f"/{self._steps}" if self._steps else ""
            attempts = "" if step.attempts == 1 else f", {step.attempts} attempts"
            self._say(
                f"step {step.index + 1}{of} {step.outcome} {step.seconds:.0f} s{attempts}: {step.instruction}"
            )
            self._printed += 1
