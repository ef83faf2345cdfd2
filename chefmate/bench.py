# SPDX-License-Identifier: Apache-2.0
"""`chefmate bench`: every figure that the README states, each from a run made now."""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chefmate import graph
from chefmate.errors import ArgumentError
from chefmate.interrupting import interruptible
from chefmate.progress import progress
from chefmate.sandwich import INTERRUPTED, relative, result_folder
from chefmate.workspace import share_folder
from chefmate_policy.intervals import rate, words

Say = Callable[[str], None]
# What `chefmate bench all` and `make bench` run.
ALL = (
    "twin",
    "bus",
    "fuzz",
    "loop",
    "faults",
    "sandwich",
    "instruct",
    "change",
    "graph",
    "seams",
    "perception",
)
# s of each measurement unless --seconds says otherwise
TWIN_SECONDS, BUS_SECONDS, LOOP_SECONDS, GRAPH_SECONDS, SEAM_SECONDS = 10.0, 10.0, 60.0, 20.0, 10.0
FAULT_RUNS, CHANGES = 1000, 100  # unless --runs says otherwise


def bench(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    say = progress(quiet=options.json)
    if options.seconds is not None and not 1.0 <= options.seconds <= 600.0:
        raise ArgumentError(f"--seconds {options.seconds} is not between 1 and 600.")
    seeds(options.seeds)
    wanted = ALL if options.what == "all" else (options.what,)
    if "sandwich" in wanted:  # before anything is measured
        graph.recipe(options.recipe, share_folder())
    if set(wanted) & {"sandwich", "instruct"}:
        graph.policy_parameters(options.policy)
    document: dict[str, Any] = {"machine": machine()}
    failed = False
    for name in wanted:
        if name == "twin":
            from chefmate_driver.kitchen.bench import measure

            figures = measure(options.seconds or TWIN_SECONDS)
            document[name] = figures.as_json()
            say(figures.as_text())
        elif name == "sandwich":
            document[name] = bench_sandwich(options, say)
            failed = failed or document[name].get("without_result", 0) > 0
        elif name == "bus":
            from chefmate_driver.feetech.bench import measure_bus

            bus = measure_bus(options.seconds or BUS_SECONDS, say)
            document[name] = bus.as_json()
            say(bus.as_text())
        elif name == "fuzz":
            from chefmate_driver.feetech.fuzz import measure_fuzz

            fuzz = measure_fuzz(options.inputs, options.seed, say)
            document[name] = fuzz.as_json()
            say(fuzz.as_text())
        elif name == "loop":
            from chefmate.bench_driver import bench_loop

            document[name] = bench_loop(options.seconds or LOOP_SECONDS, say)
        elif name == "faults":
            from chefmate.bench_driver import bench_faults

            runs = FAULT_RUNS if options.runs is None else options.runs
            document[name] = bench_faults(argparse.Namespace(**{**vars(options), "runs": runs}), say)
        elif name == "policy":
            from chefmate_policy.inference.bench import measure_policy

            document[name] = measure_policy(options.member, options.device, seed=options.seed, say=say)
            if any("failed" in figures for figures in document[name]["variants"].values()):
                failed = True
        elif name == "change":
            from chefmate.bench_change import bench_change

            trials = CHANGES if options.runs is None else options.runs
            if trials < 1:
                raise ArgumentError(f"--runs {trials} is less than 1.")
            document[name] = bench_change(trials, say)
            failed = failed or document[name]["failed"]
        elif name == "graph":
            from chefmate.bench_graph import bench_graph

            document[name] = bench_graph(options.seconds or GRAPH_SECONDS, say)
        elif name == "seams":
            from chefmate.bench_seams import bench_seams

            document[name] = bench_seams(options.seconds or SEAM_SECONDS, options.seed, say)
        elif name == "perception":
            from chefmate.bench_perception import RUNS, bench_perception

            runs = RUNS if options.runs is None else options.runs
            if runs < 1:
                raise ArgumentError(f"--runs {runs} is less than 1.")
            document[name] = bench_perception(options.policy, runs, options.seed, options.workers, say)
        else:
            from chefmate.bench_instruct import bench_instruct

            document[name] = bench_instruct(seeds(options.seeds), options.policy, say)
        if document[name].get("interrupted"):
            break
    if options.json:
        print(json.dumps(document, indent=2))
    if any(isinstance(part, dict) and part.get("interrupted") for part in document.values()):
        return INTERRUPTED
    failed = (
        failed or document.get("faults", {}).get("failed") or document.get("fuzz", {}).get("violation_count")
    )
    return 1 if failed else 0


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import os

    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def seeds(text: str) -> range:
    """Seeds of a text such as `0-19`.

    Raises:
        ArgumentError: not of that form.
    """
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise ArgumentError(f"--seeds {text!r} is not FIRST-LAST, for example 0-19.")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def bench_sandwich(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """One whole `chefmate sandwich` for each seed, each on a fresh graph."""
    runs: list[dict[str, Any]] = []
    without_result = 0
    interrupted = False
    folder: Path = options.out or result_folder(None, "bench-")
    if taken := [seed for seed in seeds(options.seeds) if (folder / f"seed-{seed}").exists()]:
        raise ArgumentError(f"--out {folder} holds results of seed {taken[0]} already; name another folder.")
    say(f"results and logs of each seed in {relative(folder)}")
    with interruptible() as interrupt:
        for seed in seeds(options.seeds):
            out = folder / f"seed-{seed}"
            command = [sys.executable, "-m", "chefmate", "sandwich", options.recipe, "--seed", str(seed)]
            command += ["--policy", options.policy, "--out", str(out), "--no-record", "--json"]
            done = subprocess.run(command, capture_output=True, text=True)
            if interrupt.asked or done.returncode == INTERRUPTED:
                interrupted = True
                break
            try:
                result = json.loads(done.stdout)
            except json.JSONDecodeError:
                result = {"success": False, "reason": done.stderr[-300:], "steps": [], "seed": seed}
                without_result += 1
            runs.append(result)
            attempts = [step["attempts"] for step in result["steps"]]
            say(
                f"seed {seed}: {'SUCCESS' if result['success'] else 'FAILED'} {result.get('reason', '')}, "
                f"attempts {attempts}, {result.get('seconds')} s, "
                f"real-time factor {result.get('real_time_factor')}"
            )
    if not runs:
        return {"interrupted": interrupted, "runs": []}
    first = [run["success"] and all(step["attempts"] == 1 for step in run["steps"]) for run in runs]
    summary = {
        "recipe": options.recipe,
        "policy": options.policy,
        "with_retries": rate(sum(run["success"] for run in runs), len(runs)),
        "first_attempt": rate(sum(first), len(runs)),
        "without_result": without_result,
        "interrupted": interrupted,
        "runs": runs,
    }
    say(f"{options.recipe}, whole sandwich with retries: {words(summary['with_retries'])}")
    say(f"{options.recipe}, every step at the first attempt: {words(summary['first_attempt'])}")
    return summary
