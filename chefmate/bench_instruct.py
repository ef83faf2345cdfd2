# SPDX-License-Identifier: Apache-2.0
"""`chefmate bench instruct`: with bread and cheese both in the tray, is the named one taken?

One graph; for each seed a new layout and, with the same layout, each instruction. What is taken is read from
the twin's truth: the first object that leaves its slot.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chefmate import graph
from chefmate.domain import free_domain
from chefmate.errors import ChefmateError
from chefmate.interrupting import interruptible
from chefmate.sandwich import isolate
from chefmate.supervisor import Supervisor
from chefmate.workspace import share_folder
from chefmate_policy.intervals import rate, words

INSTRUCTIONS = {
    "bread": "pick up the bread and put it into the white plate",
    "cheese": "pick up the yellow cheese and put it into the white plate",
}
READY_PATIENCE = 90.0  # s
TRIAL_PATIENCE = 40.0  # s until the named one must lie on the plate


def bench_instruct(seeds: range, policy: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs the trials on a graph of its own; returns counts with their intervals."""
    trials: list[dict[str, Any]] = []
    with (
        free_domain() as domain,
        interruptible() as interrupt,
        tempfile.TemporaryDirectory(prefix="chefmate-bench-") as logs,
    ):
        isolate(domain, Path(logs))
        supervisor = Supervisor(graph.describe({"policy": policy}, share_folder()), say, logs=Path(logs))
        supervisor.start()
        try:
            from chefmate.ros import joined
            from chefmate.trial import TrialRunner

            with joined(), TrialRunner(lambda: supervisor.poll() and not interrupt.asked) as runner:
                runner.wait_ready(READY_PATIENCE)
                for seed in seeds:
                    for ingredient, text in INSTRUCTIONS.items():
                        trial = runner.run(seed, ingredient, text, TRIAL_PATIENCE)
                        if supervisor.failure:
                            raise ChefmateError(supervisor.failure)
                        if interrupt.asked:
                            break
                        trials.append(trial)
                        say(
                            f"seed {seed} {ingredient}: took {trial['taken'] or 'nothing'}, "
                            f"{trial['seconds']:.1f} s"
                        )
                    if interrupt.asked:
                        break
        finally:
            supervisor.stop()
    summary: dict[str, Any] = {"policy": policy, "interrupted": interrupt.asked, "trials": trials}
    for ingredient in INSTRUCTIONS:
        mine = [trial for trial in trials if trial["named"] == ingredient]
        if not mine:
            continue
        summary[f"{ingredient}_taken"] = rate(sum(trial["taken"] == ingredient for trial in mine), len(mine))
        summary[f"{ingredient}_placed"] = rate(sum(trial["placed"] for trial in mine), len(mine))
        say(f"{ingredient} named, taken: {words(summary[f'{ingredient}_taken'])}")
        say(f"{ingredient} named, on the plate: {words(summary[f'{ingredient}_placed'])}")
    return summary
