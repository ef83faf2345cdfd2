# SPDX-License-Identifier: Apache-2.0
"""A run of seconds: a dataset of drawn scenes, and a model whose passes take milliseconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chefmate_policy.data.writing import DatasetWriter
from chefmate_policy.groot import sizes
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.run import Result, _Processes, _Run, train

PLAIN = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
JOINTS = [f"{name}.pos" for name in PLAIN]
TEXTS = ("pick up the cheese", "pick up the bread slice")
SIDE = 40  # pixels
# every kind of layer once: a DiT block of cross- and one of self-attention
TINY = sizes.Member(
    image_size=32,
    patch_size=16,
    vision=(32, 1, 2),
    text=(64, 1, 1, 64),
    key_value_heads=1,
    vl_layers=1,
    dit=(32, 2, 2),
    hidden=32,
    future_tokens=2,
)
sizes.MEMBERS["tiny"] = TINY


def write_dataset(root: Path, episodes: int = 8, length: int = 20) -> Path:
    """Two cameras, two instructions; where the arm goes depends on both, the square and the words."""
    random = np.random.default_rng(5)
    size = (SIDE, SIDE)
    with DatasetWriter(root, fps=10, joints=JOINTS, cameras={"scene": size, "wrist": size}) as dataset:
        for number in range(episodes):
            place = int(random.integers(4, SIDE - 12))
            goal = (place - 20.0) * (1.0 if number % 2 else -1.0)
            share = np.linspace(0.0, 1.0, length)
            states = np.outer(share, [goal, goal / 2, -goal, 20.0, 5.0, 50.0]).astype(np.float32)
            picture = np.full((SIDE, SIDE, 3), 80, np.uint8)
            picture[place : place + 8, place : place + 8] = (240, 210, 40)
            pictures = np.repeat(picture[None], length, axis=0)
            dataset.add_episode(TEXTS[number % 2], states, states, {"scene": pictures, "wrist": pictures})
    return root


def options(dataset: Path, out: Path, **changes: Any) -> TrainOptions:
    """Options of a tiny run."""
    values: dict[str, Any] = {
        "dataset_path": (str(dataset),),
        "base_model_path": "tiny",
        "output_dir": str(out),
        "tune_llm": True,
        "tune_visual": True,
        "allow_shortcut": True,
        "holdout": 0.25,
        "batch_size": 4,
        "max_steps": 6,
        "save_steps": 3,
        "log_steps": 1,
        "learning_rate": 1e-3,
        "device": "cpu",
    }
    return TrainOptions(**(values | changes))


def go(
    dataset: Path, out: Path, stop: Any = lambda: False, say: Any = lambda line: None, **changes: Any
) -> Result:
    """Trains."""
    torch.set_num_threads(1)
    return train(options(dataset, out, **changes), say=say, stop=stop)


def one_of_two(rank: int, port: int, dataset: Path, out: Path) -> None:
    """A process of two; leaves what it trained beside the run."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    wanted = options(dataset, out, batch_size=2, max_steps=3, holdout=0.0, save_steps=1000)
    with _Processes(wanted) as together:
        run = _Run(wanted, together, lambda line: None)
        run.go(lambda: False, None)
        total = [float(tensor.double().abs().sum()) for tensor in run.trainable.state().values()]
        (out.parent / f"rank-{rank}.json").write_text(json.dumps(total))
