# SPDX-License-Identifier: Apache-2.0
"""The closed loop of `chefmate obey`: trials in lockstep, the expert beside them, some in the real graph."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from chefmate.errors import ChefmateError
from chefmate.interrupting import Interrupt
from chefmate.obey_log import TrialLog
from chefmate.obey_options import LATENCIES, Wanted
from chefmate.obey_trials import Latency, Policy, measure, run_trials, watch_trials
from chefmate_policy.obedience import battery
from chefmate_policy.obedience.battery import BY_ID
from chefmate_policy.obedience.results import closed_loop, paired
from chefmate_policy.obedience.scoring import Judged
from chefmate_policy.obedience.trial import NULL, Outcome, Trial

__all__ = ["trials"]

Say = Callable[[str], None]
EXPERT_EVERY = 10  # trials, of which the expert does one too
TRIALS, EXPERT, GRAPH, PICTURES = "trials", "expert", "graph", "pictures"  # in the report's folder
SHOWN = (
    "correct",
    "swapped",
    "cell_negated",
    "cell_change",
    "stop",
    "named",
)  # rows, the first trial of each
QUICK_SHOWN = 2
EXPERT_TIME = 0.15  # of what the policy has
EXPERT_LATENCY = 0.01  # s: it looks, and answers within a cycle


def trials(wanted: Wanted, interrupt: Interrupt, say: Say) -> dict[str, Any]:
    """The closed loop, with its baselines and, where asked for, through the real graph."""
    log = TrialLog(wanted.folder / TRIALS)
    with log.locked():
        latency = _latency(wanted, log, say)
        log.begin(wanted.about(latency))
        times = Latency(latency["s"], latency["p95"] or latency["s"])
        outcomes = _run(wanted, wanted.policy, wanted.plan, times, log, interrupt, TRIALS, wanted.seconds)
        expert = {} if wanted.policy.backend == "expert" else _expert(wanted, interrupt)
        found: dict[str, Any] = {
            "closed_loop": {
                "quick": wanted.options.quick,
                "seed": wanted.options.seed,
                "per_row": wanted.per_row,
                "latency": latency,
                **closed_loop(wanted.plan, outcomes, expert),
            }
        }
        found["pictures"] = _pictures(wanted, outcomes, times)
        if wanted.options.graph:
            found["graph"] = _graph(wanted, outcomes, TrialLog(wanted.folder / GRAPH), interrupt, say)
    return found


def _run(
    wanted: Wanted,
    policy: Policy,
    trials: Sequence[Trial],
    latency: Latency,
    log: TrialLog,
    interrupt: Interrupt,
    title: str,
    seconds: float,
) -> dict[int, Outcome]:
    """Runs trials with a progress line. Raises KeyboardInterrupt: what is done is kept."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[right]} answered rightly, {task.fields[faults]} faults"),
        TimeRemainingColumn(),
    )
    by_number = {trial.number: trial for trial in trials}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=len(trials), right=0, faults=0)
        right = faults = 0

        def report(done: int, outcome: Outcome) -> None:
            nonlocal right, faults
            faults += bool(outcome.fault)
            right += not outcome.fault and Judged(by_number[outcome.number], outcome).rightly
            bar.update(task, completed=done, right=right, faults=faults)

        def stopped() -> bool:
            return interrupt.asked or time.monotonic() > limit

        limit, seed = time.monotonic() + seconds, wanted.options.seed
        done = run_trials(trials, policy, latency, log, wanted.workers, stopped, report, seed)
    if len(done) < len(trials):
        print(f"{len(done)} of {len(trials)} trials are kept: the same command goes on", file=sys.stderr)
    interrupt.check()
    return done


def _expert(wanted: Wanted, interrupt: Interrupt) -> dict[int, Outcome]:
    """What the scripted expert does in some of the trials."""
    some = [t for t in wanted.plan[::EXPERT_EVERY] if all(ask.to != NULL for _, ask in t.asks)]
    mine = wanted.policy
    scripted = Policy("expert", pick=mine.pick, idle=mine.idle, kitchen=mine.kitchen)
    log = TrialLog(wanted.folder / EXPERT)
    with log.locked():
        log.begin({"trials": battery.digest(some), "limits": [mine.pick, mine.idle]})
        latency, seconds = Latency(EXPERT_LATENCY, EXPERT_LATENCY), EXPERT_TIME * wanted.seconds
        return _run(wanted, scripted, some, latency, log, interrupt, EXPERT, seconds)


def _pictures(wanted: Wanted, outcomes: dict[int, Outcome], latency: Latency) -> list[dict[str, Any]]:
    """Trials of one scene as strips: what it looks like when the words alone differ."""
    ran = [trial for trial in wanted.plan if trial.number in outcomes]
    chosen = {trial.last.row: trial for trial in reversed(ran) if trial.last.row in SHOWN}
    shown = [chosen[row] for row in SHOWN if row in chosen]
    if wanted.options.quick:
        shown = shown[:QUICK_SHOWN]
    films = (
        watch_trials(shown, wanted.policy, latency, wanted.folder / PICTURES, wanted.workers) if shown else []
    )
    return [
        {
            "title": "; then ".join(f'"{ask.text}"' for _, ask in trial.asks),
            "caption": f"{trial.last.row}: {Judged(trial, outcomes[trial.number]).did}",
            "frames": frames,
        }
        for trial, frames in zip(shown, films, strict=True)
    ]


def _latency(wanted: Wanted, log: TrialLog, say: Say) -> dict[str, Any]:
    """What an inference takes, measured unless it is given; a run that goes on keeps what it began with."""
    mode = wanted.options.latency
    kept = (log.plan() or {}).get("latency")
    if kept and kept["mode"] == mode:
        return dict(kept)
    if mode not in LATENCIES and not any(BY_ID[trial.last.row].slow for trial in wanted.plan):
        return {"mode": mode, "s": float(mode), "p50": None, "p95": None}
    say("measuring how long an inference takes ...")
    usual, slow = measure(wanted.policy)
    used = {"p50": usual, "p95": slow}[mode] if mode in LATENCIES else float(mode)
    say(f"an inference takes {usual * 1e3:.0f} ms (p50), {slow * 1e3:.0f} ms (p95), cameras included")
    return {"mode": mode, "s": used, "p50": usual, "p95": slow}


def _graph(
    wanted: Wanted, lockstep: dict[int, Outcome], log: TrialLog, interrupt: Interrupt, say: Say
) -> dict[str, Any]:
    """The first trials of some rows once more, through nodes, DDS and servo bytes, in real time."""
    from chefmate.judging import Limits
    from chefmate.obey_graph import graph_trials, reaches_model

    chosen: list[Trial] = []
    for row in wanted.options.graph_rows:
        mine = [trial for trial in wanted.plan if trial.last.row == row]
        fit = [trial for trial in mine if all(reaches_model(ask) for _, ask in trial.asks)]
        if not fit:
            raise ChefmateError(f"--graph-rows {row}: it has no trial here that the real graph can run")
        chosen += fit[: wanted.options.graph]
    with log.locked():
        log.begin({"trials": battery.digest(chosen), "policy": wanted.about({})["policy"]})
        done = log.outcomes()
        left = [trial for trial in chosen if trial.number not in done]
        limits = Limits(pick=wanted.policy.pick, idle=wanted.policy.idle)
        parameters = {f"model.{name}": value for name, value in wanted.policy.options.items()}
        ran: Iterable[Outcome] = graph_trials(
            left, wanted.options.policy, say=say, limits=limits, parameters=parameters, interrupted=interrupt
        )
        for outcome in ran:
            log.append(outcome)
            done[outcome.number] = outcome
            say(f"graph: {len(done)} of {len(chosen)} trials")
    interrupt.check()
    return {**closed_loop(chosen, done), "against_lockstep": paired(chosen, lockstep, done)}
