# SPDX-License-Identifier: Apache-2.0
"""`chefmate data record`: episodes of the running graph, begun and ended by keys or by services."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rclpy.executors import SingleThreadedExecutor
from rich.console import Console

from chefmate.interrupting import Interrupt, interruptible
from chefmate.ros import joined
from chefmate.terminal import Keys, keys
from chefmate_policy.data.message_types import RecordingError
from chefmate_policy.data.recorder import RecorderNode
from chefmate_ros.share import share_file

QUIT = "q"
HELP = "r records an episode, s stops and keeps it, d discards it, q ends"


def run(options: argparse.Namespace) -> int:
    """0 after q, ctrl-C or SIGTERM; an episode in progress is kept. Raises RecordingError: a wrong setup.

    Without a terminal there are the services recorder/start, recorder/stop and recorder/discard alone.
    """
    namespace = f"/{options.namespace.strip('/')}" if options.namespace.strip("/") else "/"
    arguments = ["--ros-args", "-r", f"__ns:={namespace}"]
    arguments += ["--params-file", str(share_file("config", "recorder.yaml"))]
    arguments += ["-p", f"folder:={options.folder.expanduser().absolute()}", "-p", "episodes:=true"]
    console = Console()
    with joined(), interruptible() as interrupt, _typed() as typed:
        node = RecorderNode(cli_args=arguments)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            console.print(HELP if typed else "waiting for the services of recorder", highlight=False)
            _serve(node, executor, typed, interrupt, lambda line: console.print(line, highlight=False))
        finally:
            node.close()
            executor.shutdown()
            node.destroy_node()
    return 0


def _serve(
    node: RecorderNode,
    executor: SingleThreadedExecutor,
    typed: Keys | None,
    interrupt: Interrupt,
    say: Callable[[str], None],
) -> None:
    verbs: Mapping[str, Callable[[], str]] = {"r": node.start, "s": node.stop, "d": node.discard}
    while not interrupt.asked:
        executor.spin_once(0.05)
        for key in typed.read(0.0) if typed else "":
            if key == QUIT:
                return
            if key in verbs:
                try:
                    say(verbs[key]())
                except RecordingError as error:
                    say(str(error))


@contextmanager
def _typed() -> Iterator[Keys | None]:
    """Keys of the terminal; None without one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield None
        return
    with keys("chefmate data record") as typed:
        yield typed
