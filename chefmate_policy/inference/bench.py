# SPDX-License-Identifier: Apache-2.0
"""Time, memory and accuracy of one inference: `python -m chefmate_policy.inference.bench`, without ROS.

Weights are those of `initialise`, inputs random of real shapes: two cameras of 640x480, the prompt of an
instruction of twelve tokens. Every variant runs in a process of its own, so that its peak memory is its own;
one that fails is reported and the others go on. The error is that of the actions against the same weights
worked in float32 (TF32 off).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chefmate_policy.groot.guidance import Prefix, PrefixGuide
from chefmate_policy.groot.images import frames_to_tensor, pixel_values, resized
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Inputs, Parts
from chefmate_policy.groot.sizes import MEMBERS, PUBLISHED, member
from chefmate_policy.groot.statistics import KeyStatistics, Mode, Normaliser
from chefmate_policy.inference.engine import Engine, Guide, StageTimes

__all__ = ["VARIANTS", "as_text", "main", "measure_policy"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """One way to run the model."""

    what: str
    engine: bool = True
    cuda: bool = False  # on a GPU only
    dtype: str = "default"  # bfloat16 on a GPU, float32 on a CPU
    graphs: bool = False
    compiled: bool = False
    guidance: float = 1.0
    prefix: bool = False  # led to the chunk before (real-time chunking)
    jacobian: bool = False  # through the model's Jacobian


REFERENCE, EAGER = "float32", "eager"
VARIANTS: dict[str, Variant] = {
    REFERENCE: Variant("the model in float32, what errors are taken against", engine=False, dtype="float32"),
    EAGER: Variant("the model as it stands", engine=False),
    "engine": Variant("the engine, operation by operation"),
    "graphs": Variant("the engine with CUDA graphs, as the policy node runs it", cuda=True, graphs=True),
    "graphs-prefix": Variant(
        "the same with real-time chunking, without the Jacobian", cuda=True, graphs=True, prefix=True
    ),
    "graphs-prefix-jacobian": Variant(
        "the same with real-time chunking", cuda=True, graphs=True, prefix=True, jacobian=True
    ),
    "graphs-guidance": Variant(
        "the same with guidance 1.5 over the instruction", cuda=True, graphs=True, guidance=1.5
    ),
    "prefix": Variant("the engine with real-time chunking, without the Jacobian", prefix=True),
    "prefix-jacobian": Variant("the engine with real-time chunking", prefix=True, jacobian=True),
    "guidance": Variant("the engine with guidance 1.5 over the instruction", guidance=1.5),
    "compiled": Variant(
        "the engine with CUDA graphs, its blocks by torch.compile", cuda=True, graphs=True, compiled=True
    ),
}
DIFFERENT = ("guidance", "prefix")  # other actions than the reference's: no error is taken
STAGES = ("preprocess", "vision", "language", "features", "denoising", "postprocess")

CAMERAS, HEIGHT, WIDTH, JOINTS = 2, 480, 640, 6
FROZEN, OVERLAP = 4, 9  # steps of the prefix; what they are does not change the times
# tokens of the published prompt with an instruction of twelve: before, between and after the two images
BEFORE, BETWEEN, AFTER, NULL_SHORTER = 20, 7, 18, 11
OBSERVATIONS = 4  # different ones, over which the error is taken
TIMEOUT = 240.0  # s of one variant, compilation included


@dataclass(frozen=True)
class Observations:
    """Random inputs of real shapes; equal seeds give equal ones."""

    frames: list[list[NDArray[np.uint8]]]
    states: list[NDArray[np.float64]]
    noises: list[Tensor]
    ids: Tensor  # [L]
    null_ids: Tensor

    @classmethod
    def draw(cls, name: str, seed: int) -> Observations:
        config, random = member(name), np.random.default_rng(seed)
        image, tokens = config.image_token_index, config.vision.tokens
        words = [
            random.integers(4, min(image, config.text.vocab_size) if image > 4 else 800, count).tolist()
            for count in (BEFORE, BETWEEN, AFTER)
        ]
        ids = words[0] + [image] * tokens + words[1] + [image] * tokens + words[2]
        head = config.action_head
        generator = torch.Generator().manual_seed(seed)
        return cls(
            [[_frame(random) for _ in range(CAMERAS)] for _ in range(OBSERVATIONS)],
            [random.uniform(-90.0, 90.0, JOINTS) for _ in range(OBSERVATIONS)],
            [
                torch.randn(head.action_horizon, head.action_dim, generator=generator)
                for _ in range(OBSERVATIONS)
            ],
            torch.tensor(ids),
            torch.tensor(ids[: -AFTER + 1] + ids[-AFTER + 1 + NULL_SHORTER :]),
        )


class Pass:
    """One variant, ready to infer."""

    def __init__(self, name: str, variant: Variant, device: str, seed: int) -> None:
        self.config, self.device = member(name), torch.device(device)
        self.observations = Observations.draw(name, seed)
        dtype = torch.float32
        if variant.dtype == "default" and self.device.type == "cuda":
            dtype = torch.bfloat16
        rounded = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        slot = 31 if name == PUBLISHED else 0  # new_embodiment
        model = weights(name, slot, self.device, rounded, seed).to(dtype)
        if self.device.type == "cuda":  # what drawing the weights needed does not count
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.slot, self.dtype, self.model = slot, dtype, model
        self.engine: Engine | None = None
        ends = KeyStatistics(*((value,) * JOINTS for value in (100.0, -100.0, 0.0, 50.0, -95.0, 95.0)))
        self.normaliser = Normaliser([("joints", ends, Mode.MIN_MAX)])
        self.guide: Guide | None = None
        if variant.engine:
            self.engine = Engine(
                model, slot=slot, graphs=variant.graphs, compiled=variant.compiled, guidance=variant.guidance
            )
            if variant.prefix:
                left = Prefix(
                    self.observations.noises[-1][:OVERLAP, :JOINTS], FROZEN, jacobian=variant.jacobian
                )
                head = self.config.action_head
                self.guide = PrefixGuide(left, head.action_horizon, head.action_dim, self.device)
            self.prompt = self.engine.prompt(self.observations.ids, self.observations.null_ids)

    @torch.inference_mode()
    def prepare(self, index: int) -> tuple[Tensor, Tensor]:
        frames = frames_to_tensor(self.observations.frames[index], self.device)
        pixels = pixel_values(resized(frames, self.config.vision.image_size))
        values = self.normaliser.normalise(torch.as_tensor(self.observations.states[index]))
        state = torch.zeros(1, self.config.action_head.state_dim)
        state[0, :JOINTS] = values
        return pixels, state

    @torch.inference_mode()
    def infer(self, pixels: Tensor, state: Tensor, noise: Tensor, times: StageTimes | None = None) -> Tensor:
        """-> actions [H, A] float32 on the device."""
        if self.engine is not None:
            return self.engine(pixels, state, self.prompt, noise, guide=self.guide, times=times)
        inputs = Inputs(pixels, self.observations.ids[None], state[None], torch.tensor([self.slot]))
        return self.model.get_action(inputs.to(self.device), noise=noise[None])[0]

    @torch.inference_mode()
    def finish(self, actions: Tensor) -> NDArray[np.float64]:
        """-> (H, JOINTS), in the dataset's units."""
        values = actions.to("cpu", torch.float64)[:, :JOINTS]
        restored: NDArray[np.float64] = self.normaliser.restore(values).numpy()
        return restored

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def weights(name: str, slot: int, device: torch.device, dtype: torch.dtype, seed: int) -> Groot:
    """The member with what inference uses, drawn on the device."""
    with torch.device("meta"):
        model = Groot(member(name), Parts.used(slot))
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    return initialise(model, seed)


def run_variant(name: str, chosen: str, device: str, iterations: int, seed: int) -> dict[str, Any]:
    """Figures of one variant in this process; `actions` [OBSERVATIONS, H, A] beside them."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    started = time.perf_counter()
    ready = Pass(name, VARIANTS[chosen], device, seed)
    given = ready.observations
    figures: dict[str, Any] = {"what": VARIANTS[chosen].what, "dtype": str(ready.dtype)}
    actions = [ready.infer(*ready.prepare(i), given.noises[i]).cpu() for i in range(OBSERVATIONS)]
    again = ready.infer(*ready.prepare(0), given.noises[0]).cpu()
    figures["seconds_to_ready"] = round(time.perf_counter() - started, 2)
    figures["actions"], figures["repeats"] = torch.stack(actions), bool(torch.equal(again, actions[0]))
    noise = torch.stack(given.noises)
    figures["velocity_to_noise"] = float((figures["actions"] - noise).norm() / noise.norm())
    if chosen != REFERENCE:
        figures |= _times(ready, iterations)
    if ready.device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        figures["memory_gb"] = {
            "peak_reserved": torch.cuda.max_memory_reserved() / 1e9,
            "peak_allocated": torch.cuda.max_memory_allocated() / 1e9,
            "allocated_now": torch.cuda.memory_allocated() / 1e9,
            "device_with_context": (total - free) / 1e9,
        }
    return figures


def _times(ready: Pass, iterations: int) -> dict[str, Any]:
    given = ready.observations
    wall: list[float] = []
    model: list[float] = []
    stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
    cuda = ready.device.type == "cuda"
    for turn in range(iterations + iterations // 5):
        if turn == iterations // 5:  # what came before was the warm-up
            wall.clear()
            model.clear()
        index = turn % OBSERVATIONS
        ready.wait()
        started = time.perf_counter()
        pixels, state = ready.prepare(index)
        before = _mark(cuda)
        actions = ready.infer(pixels, state, given.noises[index])
        after = _mark(cuda)
        ready.finish(actions)
        wall.append(time.perf_counter() - started)
        model.append(before.elapsed_time(after) / 1e3 if cuda else after - before)
    for turn in range(iterations):  # once more: the split costs a little
        index = turn % OBSERVATIONS
        ready.wait()
        started, times = time.perf_counter(), StageTimes()
        pixels, state = ready.prepare(index)
        ready.wait()
        prepared = time.perf_counter()
        actions = ready.infer(pixels, state, given.noises[index], times if ready.engine else None)
        ready.wait()
        inferred = time.perf_counter()
        ready.finish(actions)
        stages["preprocess"].append(prepared - started)
        stages["postprocess"].append(time.perf_counter() - inferred)
        for stage, seconds in times.seconds.items():
            stages[stage].append(seconds)
    return {
        "iterations": iterations,
        "wall_ms": _spread(wall),
        "model_ms": _spread(model) | {"clock": "CUDA events" if cuda else "wall"},
        "stages_ms": {stage: _spread(seconds) for stage, seconds in stages.items() if seconds},
    }


def measure_policy(
    name: str = PUBLISHED,
    device: str = "auto",
    *,
    iterations: int = 200,
    seed: int = 0,
    variants: Sequence[str] = (),
    say: Say = print,
) -> dict[str, Any]:
    """All variants that the device can run, each in its own process, and their errors.

    variants: some of VARIANTS; empty: all. Raises ConfigurationError for an unknown member.
    """
    member(name)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    cuda = device.startswith("cuda")
    wanted = [key for key in VARIANTS if cuda or not VARIANTS[key].cuda]
    wanted = [key for key in wanted if not variants or key in variants or key == REFERENCE]
    document: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "member": name,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": None if cuda else 1,
        "variants": {},
    }
    found: dict[str, Any] = document["variants"]
    actions: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for key in wanted:
            file = Path(folder, f"{key}.pt")
            command = [sys.executable, "-m", "chefmate_policy.inference.bench", "--member", name]
            command += ["--device", device, "--iterations", str(iterations), "--seed", str(seed)]
            command += ["--child", key, "--result", str(file)]
            found[key] = _child(command, file)
            if "actions" in found[key]:
                actions[key] = found[key].pop("actions")
                if REFERENCE in actions and not any(word in key for word in DIFFERENT):
                    found[key]["relative_error"] = _relative(actions[key], actions[REFERENCE])
            say(_line(key, found[key]))
    return document


def _child(command: list[str], file: Path) -> dict[str, Any]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {TIMEOUT:g} s"}
    if done.returncode or not file.is_file():
        return {"failed": done.stderr[-6000:] or f"exit code {done.returncode}"}
    figures: dict[str, Any] = torch.load(file, weights_only=True)
    return figures


def as_text(document: dict[str, Any]) -> str:
    """A line per variant."""
    return "\n".join(_line(key, figures) for key, figures in document["variants"].items())


def _line(key: str, figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return f"{key:16} FAILED\n{figures['failed']}"
    parts = [f"{key:16}"]
    if "wall_ms" in figures:
        parts.append(f"whole {figures['wall_ms']['p50']:.2f} ms p50, {figures['wall_ms']['p95']:.2f} p95;")
        parts.append(f"model {figures['model_ms']['p50']:.2f} p50, {figures['model_ms']['p95']:.2f} p95;")
        parts.append(
            ", ".join(f"{stage} {times['p50']:.2f}" for stage, times in figures["stages_ms"].items())
        )
    if "memory_gb" in figures:
        memory = figures["memory_gb"]
        parts.append(
            f"; peak {memory['peak_reserved']:.3f} GB reserved, {memory['peak_allocated']:.3f} allocated"
        )
    if "relative_error" in figures:
        parts.append(f"; error {figures['relative_error']:.3g}")
    parts.append(
        f"; velocity/noise {figures['velocity_to_noise']:.2f}; ready in {figures['seconds_to_ready']} s"
    )
    return " ".join(parts)


def _frame(random: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of random patches with noise over them."""
    patches = random.integers(0, 224, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    noise = random.integers(0, 32, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return patches.repeat(16, axis=0).repeat(16, axis=1) + noise


def _mark(cuda: bool) -> Any:
    if not cuda:
        return time.perf_counter()
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _spread(seconds: Sequence[float]) -> dict[str, Any]:
    p50, p95 = np.percentile(np.asarray(seconds) * 1e3, (50, 95))
    return {"p50": round(float(p50), 4), "p95": round(float(p95), 4)}


def _relative(ours: Tensor, reference: Tensor) -> float:
    error = float((ours.double() - reference.double()).norm() / reference.double().norm())
    return error if math.isfinite(error) else math.inf


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0 done, 1 where a variant failed."""
    parser = argparse.ArgumentParser(prog="python -m chefmate_policy.inference.bench", description=__doc__)
    parser.add_argument("--member", default=PUBLISHED, choices=(PUBLISHED, *MEMBERS))
    parser.add_argument("--device", default="auto", help="cuda, cpu or auto (default)")
    parser.add_argument("--iterations", type=int, default=200, help="timed passes (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", default=(), choices=tuple(VARIANTS), help="default all")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--child", choices=tuple(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        if not options.device.startswith("cuda"):
            torch.set_num_threads(1)
        figures = run_variant(options.member, options.child, options.device, options.iterations, options.seed)
        torch.save(figures, options.result)
        return 0

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    document = measure_policy(
        options.member,
        options.device,
        iterations=options.iterations,
        seed=options.seed,
        variants=options.variants,
        say=say,
    )
    if options.json:
        print(json.dumps(document, indent=2))
    return 1 if any("failed" in figures for figures in document["variants"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
