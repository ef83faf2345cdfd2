# SPDX-License-Identifier: Apache-2.0
"""`chefmate bench change`: how soon another instruction reaches a moving arm, with the real policy_node.

The backend's inferences take a known time. Each trial says another instruction at a moment that goes evenly
through the cycle of inferences, and waits for the first trajectory made from it. The bound: the rest of the
running inference, one whole inference, and a margin, all from when the message was sent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chefmate.bench_policy_node import Ear, graph_of, policy_command, seconds_of
from chefmate.interrupting import interruptible

MARGIN = 0.05  # s
SECONDS = 0.15  # of an inference
HORIZON, LEAD = 0.25, 0.2  # s; the backend then infers about three quarters of the time
CYCLE = 0.25  # s, over which the moments are spread
PATIENCE = 10.0  # s
BINS = 4


def bench_change(trials: int, say: Callable[[str], None], margin: float = MARGIN) -> dict[str, Any]:
    """Runs the trials; counts and times. `failed` where one broke its promise."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="chefmate-change-") as folder, interruptible() as interrupt:
        log = Path(folder, "inferences")
        command = policy_command(
            "cameras:=['']",
            "rate:=20.0",
            f"execution_horizon:={HORIZON}",
            f"lead:={LEAD}",
            f"model.seconds:={SECONDS}",
            f"model.log:={log}",
        )
        with graph_of(command):
            ear = Ear()
            try:
                ear.until_ready()
                ear.say("start")
                ear.until(lambda: len(ear.chunks) >= 3, PATIENCE, "the first chunks")
                for trial in range(trials):
                    if interrupt.asked:
                        break
                    rows.append(_trial(ear, log, trial, trials, margin))
            finally:
                ear.close()
    return _summary(rows, trials, margin, interrupt.asked, say)


def _trial(ear: Ear, log: Path, trial: int, trials: int, margin: float) -> dict[str, Any]:
    seen = len(ear.chunks)
    ear.until(lambda: len(ear.chunks) > seen and ear.state == "DRIVING", PATIENCE, "driving")
    ear.spin(CYCLE * (trial + 0.5) / trials)
    for heard in (ear.statuses, ear.chunks, ear.trajectories):
        heard.clear()
    text = f"change {trial}"
    said = ear.say(text)
    made = ear.until(
        lambda: [chunk for _, chunk in ear.chunks if chunk.instruction == text],
        PATIENCE,
        f"a chunk of {text!r}",
    )[0]
    stamp = made.trajectory.header.stamp
    ear.until(lambda: _heard(ear, stamp), PATIENCE, "its trajectory")
    reached = _heard(ear, stamp)[0]
    changed = next((when, status) for when, status in ear.statuses if status.instruction == text)
    since = seconds_of(changed[1].header.stamp)
    stale = [
        chunk
        for _, chunk in ear.chunks
        if chunk.instruction != text and seconds_of(chunk.header.stamp) > since
    ]
    # the same words once more: nothing may change
    ear.until(lambda: ear.state == "DRIVING", PATIENCE, "driving")
    ear.statuses.clear()
    count = len(ear.chunks)
    ear.say(text)
    ear.until(lambda: len(ear.chunks) >= count + 2 and len(ear.statuses) > 2, PATIENCE, "more chunks")
    same = {(status.state, status.instruction_number) for _, status in ear.statuses}
    times = [tuple(map(float, line.split()[:2])) for line in log.read_text().splitlines()]
    running = [(start, end) for start, end in times if start < said < end]
    rest = running[0][1] - said if running else 0.0
    own = next(end - start for start, end in times if end > said + rest and start >= said)
    late = reached - said - rest - own
    return {
        "phase": (said - running[0][0]) / (running[0][1] - running[0][0]) if running else None,
        "seconds": reached - said,
        "over": late,
        "braking": changed[0] - said,
        "braked": changed[1].state == "HOLDING",
        "stale": len(stale),
        "unchanged": len(same) == 1 and next(iter(same))[0] == "DRIVING",
        "kept": late <= margin,
    }


def _heard(ear: Ear, stamp: Any) -> list[float]:
    return [when for when, trajectory in ear.trajectories if trajectory.header.stamp == stamp]


def _summary(
    rows: list[dict[str, Any]], trials: int, margin: float, interrupted: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "inference_s": SECONDS,
        "margin_s": margin,
        "trials": len(rows),
        "interrupted": interrupted,
        "kept": sum(row["kept"] for row in rows),
        "old_result_discarded": sum(row["stale"] == 0 for row in rows),
        "braked": sum(row["braked"] for row in rows),
        "equal_text_changed_nothing": sum(row["unchanged"] for row in rows),
        "during_an_inference": sum(row["phase"] is not None for row in rows),
        "phases": [
            sum(row["phase"] is not None and int(BINS * row["phase"]) == number for row in rows)
            for number in range(BINS)
        ],
    }
    for key, what in (("over", "over_ms"), ("braking", "braking_ms"), ("seconds", "seconds_ms")):
        values = np.array([row[key] for row in rows]) * 1e3
        if values.size:
            p50, p99, most = (float(value) for value in np.percentile(values, (50, 99, 100)))
            document[what] = {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(most, 2)}
    counts = ("kept", "old_result_discarded", "braked", "equal_text_changed_nothing")
    document["failed"] = not interrupted and any(document[key] != trials for key in counts)
    if rows:
        say(
            f"change: {document['kept']} of {len(rows)} within the rest of the running inference, one more"
            f" and {margin * 1e3:.0f} ms; beyond both inferences {document['over_ms']['p50']:.1f} ms p50,"
            f" {document['over_ms']['max']:.1f} max; {document['during_an_inference']} during an inference"
            f" (by quarter {document['phases']}); old result discarded {document['old_result_discarded']},"
            f" braked {document['braked']} (after {document['braking_ms']['p50']:.1f} ms p50),"
            f" equal text changed nothing {document['equal_text_changed_nothing']}"
        )
    return document
