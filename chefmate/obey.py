# SPDX-License-Identifier: Apache-2.0
"""`chefmate obey POLICY`: does a policy do what it is told?

Cheap checks first, then trials in the twin, then what both mean. Also `python -m chefmate.obey`, where ROS 2
and the `chefmate` command are not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from chefmate.errors import ArgumentError, ChefmateError
from chefmate.interrupting import interruptible
from chefmate.obey_log import policy_digest
from chefmate.obey_options import Wanted, add
from chefmate.obey_twin import trials
from chefmate.progress import progress
from chefmate_driver.errors import DriverError
from chefmate_policy.errors import PolicyError
from chefmate_policy.obedience.summary import lines

__all__ = ["add", "main", "obey"]

Say = Callable[[str], None]
RESULT = "result.json"
INTERRUPTED = 130


def obey(options: argparse.Namespace) -> int:
    """0: done, whatever came of it. Raises ChefmateError, PolicyError, DriverError; KeyboardInterrupt after
    ctrl-C or SIGTERM: what is done is kept, and the same command goes on."""
    say, started = progress(options.json), time.monotonic()
    wanted = Wanted.of(options)
    wanted.folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "policy": options.policy,
        "digest": policy_digest(wanted.policy.backend, wanted.policy.checkpoint),
        "command": " ".join(["chefmate obey", options.policy, *_given(options)]),
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "quick": options.quick,
        "offline": None,
        "closed_loop": None,
    }
    with interruptible() as interrupt:
        if options.checks != "trials":
            result |= _offline(wanted, say)
        interrupt.check()
        if options.checks != "offline":
            result |= trials(wanted, interrupt, say)
    result["seconds"] = round(time.monotonic() - started, 1)
    return _report(wanted, result, say)


def _offline(wanted: Wanted, say: Say) -> dict[str, Any]:
    """The checks that need no twin in motion."""
    from chefmate.obey_offline import offline, offline_backend, offline_impossible

    options, policy = wanted.options, wanted.policy
    found: dict[str, Any] = {}
    if policy.backend == "local":
        found["offline"] = offline(
            policy.checkpoint,
            options.data,
            options.quick,
            say,
            base=options.base,
            device=options.device,
        )
        if options.data:
            from chefmate_policy.obedience.teaching import teaching

            found["teaching"] = teaching(
                policy.checkpoint, options.data, quick=options.quick, base=options.base, say=say
            )
    elif policy.backend == "server":
        loop = policy.loop()
        try:
            backend = loop.driver.backend
            found["offline"] = offline_backend(backend, options.policy, options.data, options.quick, say)
        finally:
            loop.close()
    else:
        found["offline"] = offline_impossible(options.policy, "it has no weights that could be looked at")
    return found


def _report(wanted: Wanted, result: dict[str, Any], say: Say) -> int:
    """Writes result.json and the page, and prints."""
    from chefmate_policy.obedience.report import write
    from chefmate_policy.obedience.verdicts import judge

    judgement = judge(result)
    result["verdicts"] = judgement.to_dict()
    file = wanted.folder / RESULT
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=2), "utf-8")
    os.replace(part, file)
    page = write(result, wanted.folder)
    if wanted.options.json:
        print(json.dumps(result, indent=2))
        return 0
    for line in [*lines(result), *judgement.lines(), f"figures in {file}, page in {page}"]:
        print(line)
    return 0


def _given(options: argparse.Namespace) -> list[str]:
    """The options that decide the figures, as they are written."""
    words = ["--quick"] if options.quick else []
    words += ["--trials", str(options.trials)] if options.trials else []
    words += ["--interval", f"{options.interval:g}"] if not (options.quick or options.trials) else []
    words += ["--rows", *options.rows] if options.rows else []
    words += ["--model", *options.model] if options.model else []
    words += ["--latency", options.latency, "--seed", str(options.seed)]
    words += ["--graph", str(options.graph), "--graph-rows", *options.graph_rows] if options.graph else []
    return words


def _processor() -> str:
    """The processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> int:
    """Entry point without the `chefmate` command: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m chefmate.obey", description=__doc__)
    add(parser)
    try:
        return obey(parser.parse_args())
    except (ChefmateError, DriverError, PolicyError) as error:
        print(f"chefmate obey: {error}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentError) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
