# SPDX-License-Identifier: Apache-2.0
"""`chefmate bench seams`: jumps of velocity and acceleration where one chunk follows another.

In lockstep (`chefmate.clocked`), so that the figures do not depend on the machine: the node's scheduling and
the arm's way with trajectories on a clock that this module turns; cameras of 30 Hz; a real small model of the
family (small-3m, its action head briefly trained here). An inference takes 10 ms plus the added delay. The
arm is perfect: it is where it was commanded to be.

The model is trained on chunks of one swing of two widths, drawn anew for each chunk, so that two chunks in a
row often disagree, as demonstrations do. What is measured is the commanded path sampled at the model's 30 Hz:
v is its first difference, a its second. At each border (the samples before and after a chunk's first
effect) the jump of velocity is the largest |v after - v before|, that of acceleration the largest
|a after - a before|, of any joint; quantiles are over borders. `inside_velocity` is the same away from
borders: the model's own unrest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chefmate.clocked import TICK, ClockedPolicy, Drive, Look
from chefmate_policy.groot.action_head import Observed
from chefmate_policy.groot.attention import KeysValues
from chefmate_policy.groot.flow import interpolate
from chefmate_policy.groot.guidance import Prefix, PrefixGuide, pull_back
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.groot.sizes import member
from chefmate_policy.inference.backend import Array, Chunk, Observation
from chefmate_policy.inference.chunking import Mode
from chefmate_policy.inference.session import DRIVING

MEMBER, JOINTS = "small-3m", 6
FRAME = 1.0 / 30.0  # s
MODEL_SECONDS = 0.01  # of an inference, before what is added
ADDED = (0.0, 0.05, 0.1, 0.2, 0.3)  # s
EXECUTION_HORIZON, LEAD, MARGIN, BLEND = 0.2, 0.1, 0.03, 0.1  # s, as config/policy.yaml
PERIOD, WIDTH, WAYS = 4.0, 0.5, (1.0, 0.6)  # of the swing: s, rad, and how wide its two ways are
STEPS, BATCH, RATE = 800, 32, 2e-3  # of the training
WAY_OFF = 30  # samples at the start that do not count
MODES: dict[str, tuple[Mode, bool]] = {  # and whether errors are pulled back through the model
    "sync": (Mode.SYNC, False),
    "switch": (Mode.SWITCH, False),
    "blend": (Mode.BLEND, False),
    "rtc": (Mode.RTC, False),
    "rtc_jacobian": (Mode.RTC, True),
    "rtc_hard": (Mode.RTC_HARD, False),
}


def demonstration(phases: Array, way: Array, steps: int) -> NDArray[np.float64]:
    """Chunks (B, steps, JOINTS), rad, of a swing on from phases (B,), of the width `way` (B,) of their
    draw."""
    times = np.arange(steps) * FRAME
    angle = phases[:, None] + 2.0 * np.pi * times / PERIOD
    wide = np.asarray(way)[:, None] * np.ones_like(times)
    shifts = np.arange(JOINTS) * 0.4
    return WIDTH * wide[..., None] * np.sin(angle[..., None] + shifts)


class TrainedPolicy:
    """A small model that swings: observation (phase) in, chunk out. What its pictures and words give is
    worked once: they do not change. Its actions are shares of WIDTH."""

    def __init__(self, seed: int, say: Callable[[str], None], steps: int = STEPS) -> None:
        torch.manual_seed(seed)
        config = member(MEMBER)
        self._config = config.action_head
        model = initialise(Groot(config, Parts.used(0)), seed).eval()
        tokens = 2 * config.vision.tokens
        ids = torch.full((1, tokens + 8), 20)
        ids[:, 4 : 4 + tokens] = config.image_token_index
        pixels = torch.zeros(2, 3, config.vision.image_size, config.vision.image_size)
        self._head = model.action_head
        with torch.no_grad():
            self._features = self._head.features(model.backbone(pixels, ids))
        loss = self._train(np.random.default_rng(seed), steps)
        say(f"seams: {MEMBER} trained for {steps} steps, loss {loss:.3f}")
        self._steps = self._head.steps(self._config.num_inference_timesteps)
        self._noise = torch.Generator().manual_seed(seed)

    def _observed(self, phases: Array) -> Observed:
        """What the flow needs; the state tells the phase."""
        state = torch.zeros(len(phases), 1, self._config.state_dim)
        state[:, 0, 0] = torch.as_tensor(np.sin(phases))
        state[:, 0, 1] = torch.as_tensor(np.cos(phases))
        head, rows = self._head, torch.zeros(len(phases), dtype=torch.int64)
        token = head.state_encoder(state, rows)
        context: list[KeysValues | None] = []
        for pair in head.model.keys_values(self._features):
            context.append(None if pair is None else (_of(pair[0], phases), _of(pair[1], phases)))
        learned = head.future_tokens.weight.expand(len(phases), -1, -1)
        return Observed(torch.cat([token, learned], dim=1), context, None, rows)

    def _train(self, random: np.random.Generator, steps: int) -> float:
        """Trains the action head, but for what comes before the flow; returns the loss at the end."""
        head, config = self._head, self._config
        optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
        losses = []
        for _ in range(steps):
            phases = random.uniform(0.0, 2.0 * np.pi, BATCH)
            actions = torch.zeros(BATCH, config.action_horizon, config.action_dim)
            wanted = demonstration(phases, random.choice(WAYS, BATCH), config.action_horizon)
            actions[..., :JOINTS] = torch.as_tensor(wanted / WIDTH)
            noise, time = torch.randn(actions.shape), torch.rand(BATCH)
            sample = interpolate(actions, noise, time, config)
            velocity = head.velocity(sample.x_t, self._observed(phases), head.times(sample.buckets))
            loss = ((velocity - sample.velocity)[..., :JOINTS] ** 2).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        head.requires_grad_(False)
        return float(np.mean(losses[-20:]))

    def _denoise(self, x: torch.Tensor, observed: Observed, guide: PrefixGuide | None) -> torch.Tensor:
        """As the engine does."""
        count = len(self._steps)
        for step in range(count):
            time, pulled = step / count, guide is not None and guide.pulled
            with torch.set_grad_enabled(pulled):
                x = x.detach().requires_grad_(pulled)
                velocity = self._head.velocity(x, observed, self._steps.at(step)).float()
            if guide is not None:
                velocity = (
                    pull_back(x, velocity, guide.target, guide.strength(time), 1.0 - time)
                    if pulled
                    else guide(x, velocity, time)
                )
            x = x.detach() + velocity / count
        return x

    def infer(self, observation: Observation, jacobian: bool) -> Chunk:
        """A chunk from when the camera looked, led by what is planned."""
        phase = 2.0 * np.pi * observation.stamp / PERIOD
        horizon, width = self._config.action_horizon, self._config.action_dim
        times: Array = np.arange(horizon, dtype=np.float64) * FRAME
        guide = None
        if (planned := observation.planned) is not None:
            due = observation.stamp + times
            due = due[due <= planned.times[-1] + 1e-6]
            left = torch.as_tensor(planned.positions_at(due) / WIDTH, dtype=torch.float32)
            frozen = int(np.searchsorted(due, planned.frozen_until + 1e-6))
            guide = PrefixGuide(Prefix(left, frozen, planned.hard, jacobian=jacobian), horizon, width)
        noise = torch.randn((1, horizon, width), generator=self._noise)
        actions = self._denoise(noise, self._observed(np.array([phase])), guide)[0]
        return Chunk(observation.stamp, times, WIDTH * actions[:, :JOINTS].double().numpy())


def _of(tensor: torch.Tensor, phases: Array) -> torch.Tensor:
    return tensor.expand(len(phases), -1, -1, -1)


def driven(
    policy: TrainedPolicy, mode: Mode, jacobian: bool, added: float, seconds: float
) -> tuple[NDArray[np.float64], list[float], int]:
    """Node, arm and cameras on one clock: commanded path (k, JOINTS) at 100 Hz, times at which chunks took
    over, ticks held while driving was wanted."""

    def look(now: float) -> Look:
        stamp = math.floor(now / FRAME + 1e-9) * FRAME
        return Look(stamp, clocked.position, np.zeros(JOINTS), {})

    drive = Drive(EXECUTION_HORIZON, LEAD, MARGIN, mode=mode, blend_time=BLEND)
    clocked = ClockedPolicy(
        lambda observation: policy.infer(observation, jacobian), look, lambda: MODEL_SECONDS + added, drive
    )
    path, held = [], 0
    clocked.instruct("swing", 0.0)
    for tick in range(round(seconds / TICK)):
        path.append(clocked.tick(tick * TICK))
        held += bool(clocked.accepted) and clocked.state != DRIVING
    return np.array(path), clocked.accepted, held


def bench_seams(
    seconds: float,
    seed: int,
    say: Callable[[str], None],
    modes: tuple[str, ...] = tuple(MODES),
    added: tuple[float, ...] = ADDED,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Some modes with some delays (s), `seconds` of motion each; `steps` of training before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for such a small model a second one costs more than it gives
    policy = TrainedPolicy(seed, say, steps)
    rows = []
    for name in modes:
        for delay in added:
            path, borders, held = driven(policy, *MODES[name], delay, seconds)
            rows.append({"mode": name, "added_s": delay, **jumps(path, borders), "held": held / len(path)})
            say(_line(rows[-1]))
    torch.set_num_threads(threads)
    return {"seconds": seconds, "model_s": MODEL_SECONDS, "rows": rows}


def jumps(path: NDArray[np.float64], borders: list[float]) -> dict[str, Any]:
    """Jumps of velocity (rad/s) and acceleration (rad/s^2) of a path (k, n) at 100 Hz, sampled at 30 Hz; see
    the module."""
    times = np.arange(0.0, (len(path) - 1) * TICK, FRAME)
    clock = np.arange(len(path)) * TICK
    sampled = np.stack([np.interp(times, clock, column) for column in path.T], axis=1)
    velocity = np.diff(sampled, axis=0) / FRAME  # [i]: from sample i to i + 1
    turn = np.abs(np.diff(velocity, axis=0)).max(axis=1)  # [i]: at sample i + 1
    acceleration = np.diff(velocity, axis=0) / FRAME
    jerk = np.abs(np.diff(acceleration, axis=0)).max(axis=1)  # [i]: at samples i + 1, i + 2
    at = [int(np.searchsorted(times, border - 1e-9)) for border in borders]
    near = {index for sample in at for index in (sample - 1, sample)}  # of `turn`: samples about the border
    seams = [
        (max(turn[sample - 1], turn[sample]), max(jerk[sample - 2 : sample + 1]))
        for sample in at
        if WAY_OFF < sample < len(jerk) - 1
    ]
    inside = [turn[index] for index in range(WAY_OFF, len(turn)) if index not in near]
    found: dict[str, Any] = {"borders": len(seams)}
    for key, values in (
        ("velocity", [seam[0] for seam in seams]),
        ("acceleration", [seam[1] for seam in seams]),
        ("inside_velocity", inside),
    ):
        if values:
            p50, p95 = (float(value) for value in np.percentile(values, (50, 95)))
            found[key] = {"p50": round(p50, 3), "p95": round(p95, 3)}
    return found


def _line(row: dict[str, Any]) -> str:
    velocity, acceleration = (row.get(key, {"p50": 0, "p95": 0}) for key in ("velocity", "acceleration"))
    return (
        f"{row['mode']:13s} +{row['added_s'] * 1e3:3.0f} ms: velocity {velocity['p50']:.2f} p50"
        f" {velocity['p95']:.2f} p95 rad/s, acceleration {acceleration['p50']:.1f} {acceleration['p95']:.1f}"
        f" rad/s^2 at {row['borders']} borders, velocity inside {row['inside_velocity']['p50']:.2f} p50;"
        f" held {100 * row['held']:.0f} %"
    )
