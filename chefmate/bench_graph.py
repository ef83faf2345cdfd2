# SPDX-License-Identifier: Apache-2.0
"""`chefmate bench graph`: what the graph adds between a camera's stamp and a published chunk.

A process publishes pre-rendered images of two cameras, 640x480, 30 Hz; policy_node, with a backend of known
inference time that decodes them, and recorder_node, which writes them as they are, subscribe; so does a bare
subscriber, beside which the figure stands. Measured for every chunk: its header stamp (it is published then)
less the older camera's stamp in its observation less the model's time, `latency_model`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chefmate.bench_policy_node import Ear, graph_of, policy_command, process_beside, seconds_of
from chefmate.interrupting import interruptible

MODEL_SECONDS = 0.05
HORIZON, LEAD = 0.2, 0.1  # s, as config/policy.yaml
WARM_UP = 2.0  # s
GOALS_MS = {"p50": 5.0, "p99": 15.0}
TOPICS = ("scene_camera/image_raw", "wrist_camera/image_raw")


def bench_graph(seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """One measurement. Raises ChefmateError where the graph does not come up."""
    with tempfile.TemporaryDirectory(prefix="chefmate-graph-") as folder, interruptible() as interrupt:
        topics = [f"{topic} sensor_msgs/msg/Image sensor" for topic in TOPICS]
        topics.append("policy/chunk chefmate_msgs/msg/ActionChunk reliable")
        recorder = [
            "-m",
            "chefmate_policy.data.recorder",
            "--ros-args",
            "-p",
            f"folder:={Path(folder, 'bag')}",
        ]
        recorder += ["-p", f"topics:={json.dumps(topics)}"]
        policy = policy_command(
            f"execution_horizon:={HORIZON}",
            f"lead:={LEAD}",
            "rate:=10.0",
            "model.look:=true",
            f"model.seconds:={MODEL_SECONDS}",
        )
        publisher = ["-m", "chefmate.bench_frames", "publish"]
        bare = ["-m", "chefmate.bench_frames", "listen", str(seconds)]
        with graph_of(publisher, policy, recorder) as started:
            ear = Ear()
            try:
                ear.until_ready()
                ear.say("measure")
                ear.until(lambda: ear.chunks, 10.0, "a chunk")
                ear.spin(WARM_UP)
                with process_beside(bare) as listener:
                    ear.spin(2.0)  # it starts
                    ear.chunks.clear()
                    ear.spin(min(seconds, 600.0))
                    chunks = [chunk for _, chunk in ear.chunks]
                    ages = json.loads(listener.communicate(timeout=30.0)[0] or "[]")
                alive = [process.poll() is None for process in started]
            finally:
                ear.close()
        bag = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    document: dict[str, Any] = {
        "seconds": seconds,
        "model_s": MODEL_SECONDS,
        "chunks": len(chunks),
        "all_alive": all(alive),
        "recorded_mb": round(bag / 1e6, 1),
        "interrupted": interrupt.asked,
        "goals_ms": GOALS_MS,
        "added_ms": spread([_added(chunk) for chunk in chunks]),
        "newer_camera_ms": spread([_added(chunk, max) for chunk in chunks]),
        "preprocess_ms": spread([chunk.latency_preprocess for chunk in chunks]),
        "bare_subscriber_ms": spread(ages),
    }
    added = document["added_ms"]
    document["met"] = bool(added) and all(added[key] <= limit for key, limit in GOALS_MS.items())
    say(
        f"graph: camera stamp to chunk without the model {words(added)}"
        f" (goals 5 and 15; newer camera {words(document['newer_camera_ms'])}) over {len(chunks)} chunks;"
        f" bare subscriber {words(document['bare_subscriber_ms'])} over {len(ages)} images;"
        f" recorded {document['recorded_mb']} MB"
    )
    return document


def _added(chunk: Any, which: Callable[[Sequence[float]], float] = min) -> float:
    stamps = dict(zip(chunk.observation_names, chunk.observation_stamps, strict=True))
    cameras = [seconds_of(stamp) for name, stamp in stamps.items() if name in ("scene", "wrist")]
    return seconds_of(chunk.header.stamp) - which(cameras) - float(chunk.latency_model)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and most, ms; empty of none."""
    if not len(seconds):
        return {}
    p50, p99, most = (float(value) for value in np.percentile(np.asarray(seconds) * 1e3, (50, 99, 100)))
    return {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(most, 2)}


def words(figures: dict[str, float]) -> str:
    """For people."""
    return f"{figures['p50']:.1f} ms p50, {figures['p99']:.1f} p99" if figures else "nothing"
