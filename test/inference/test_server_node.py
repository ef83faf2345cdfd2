# SPDX-License-Identifier: Apache-2.0
"""policy_node as a process with the server backend: the server is dead, comes, hangs, and answers garbage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fake_server import FakeServer, still
from test_node import Kitchen, since

SILENT = "backend: policy server at tcp://127.0.0.1:{port} has not answered for"


def test_node_lives_through_its_servers_troubles_and_names_them(
    listener: Any, start_process: Callable[..., Any]
) -> None:
    with FakeServer() as reserved:
        port = reserved.port
    kitchen = Kitchen(listener, start_process)
    address = f"tcp://127.0.0.1:{port}?units=degrees&fps=30&cameras=front=scene,wrist=scene"
    kitchen.start(f"checkpoint:={address}", "retry_period:=0.3", backend="server")
    silent = SILENT.format(port=port)

    def named() -> bool:
        return kitchen.now.state == "HOLDING" and kitchen.now.reason.startswith(silent)

    kitchen.until_state("IDLE", 40.0)
    kitchen.say("pick up the bread")
    listener.until(named, 20.0, "a dead server's name")
    with FakeServer(port) as server:
        kitchen.until_state("DRIVING", 20.0)
        server.go.clear()  # connected, and silent
        listener.until(named, 20.0, "a hung server's name")
        heard = len(kitchen.status)
        listener.spin(1.5)  # longer than the reply's time-out
        stamps = [sec + 1e-9 * nanosec for sec, nanosec in map(since, kitchen.status[heard:])]
        assert max(after - before for before, after in pairwise(stamps)) < 0.25
        server.go.set()
        kitchen.until_state("DRIVING", 20.0)
        server.act = lambda seen: b"\xc1"
        assert "answered with garbage" in kitchen.until_state("FAULT", 20.0).reason
        server.act = still
        kitchen.say("pick up the cheese")
        kitchen.until_state("DRIVING", 20.0)
        assert server.observations[-1]["annotation.human.task_description"] == ["pick up the cheese"]
    assert kitchen.process.stop() == 0
