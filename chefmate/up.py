# SPDX-License-Identifier: Apache-2.0
"""`chefmate up`: the graph without `ros2 launch`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from chefmate import graph
from chefmate.errors import ArgumentError
from chefmate.interrupting import interruptible
from chefmate.supervisor import Supervisor
from chefmate.workspace import share_folder


def up(values: Mapping[str, str]) -> int:
    """Runs the graph in the caller's domain until ctrl-C (exit code 0) or a required node's death (1).

    A node that died and was started again, or was not needed, is no failure; one that fails at ctrl-C is.
    """
    nodes = graph.describe(values, share_folder())
    with interruptible() as interrupt:
        supervisor = Supervisor(nodes, say)
        print(f"ROS_DOMAIN_ID={os.environ.get('ROS_DOMAIN_ID', '0')}", flush=True)
        supervisor.start()
        supervisor.run(until=interrupt)
        codes = supervisor.stop(hurry=lambda: interrupt.times > 1)
    if supervisor.failure:
        say(supervisor.failure)
        return 1
    failed = {name: code for name, code in codes.items() if code not in (0, -signal.SIGINT)}
    if failed:
        say("ended with a failure: " + ", ".join(f"{name} ({code})" for name, code in failed.items()))
        return 1
    return 0


def say(line: str) -> None:
    """One line of the supervisor on standard error, beside the nodes' own logs."""
    print(f"chefmate: {line}", file=sys.stderr, flush=True)


def read_arguments(given: list[str], options: Mapping[str, str | None]) -> dict[str, str]:
    """Arguments as options (`--seed 3`) or in launch's form (`seed:=3`), later ones winning."""
    values = {name: value for name, value in options.items() if value is not None}
    for text in given:
        name, separator, value = text.partition(":=")
        if not separator:
            raise ArgumentError(f"{text!r} is not of the form name:=value, for example seed:=3.")
        values[name] = value
    if values.get("record"):
        values["record"] = str(Path(values["record"]).expanduser().absolute())
    return values
