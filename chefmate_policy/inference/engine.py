# SPDX-License-Identifier: Apache-2.0
"""One observation in, one chunk of normalised actions out, as fast as the machine allows.

The engine takes a `Groot` over: its weights are joined (groot/fused.py) and the model cannot run after. What
depends on the instruction only is computed when the instruction comes (`Prompt`), what depends on the time of
the flow when the number of steps is set; the rest runs per observation, on a GPU as one CUDA graph.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from chefmate_policy.groot.attention import KeysValues
from chefmate_policy.groot.backbone import PadRows, language_mask, rotary_angles
from chefmate_policy.groot.errors import InputError
from chefmate_policy.groot.fused import (
    FusedFlow,
    FusedKeysValues,
    FusedLanguage,
    FusedSelfAttention,
    FusedVision,
    compile_blocks,
    rotary_tables,
)
from chefmate_policy.groot.guidance import PrefixGuide, pull_back
from chefmate_policy.groot.model import Groot

__all__ = ["Engine", "Guide", "Prompt", "StageTimes"]

PROMPTS_KEPT, GRAPHS_KEPT = 16, 4
WARM_UP = 3  # passes before a CUDA graph is captured, as torch asks for

# corrects a velocity: state x [B, H, A], velocity [B, H, A], time 0..1 -> velocity; a PrefixGuide is one
Guide = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Prompt:
    """All of an instruction's part in an inference. B is 2 with guidance (null prompt second), else 1."""

    embeddings: Tensor  # [B, L, D]; rows of image tokens are filled per observation
    image_rows: (
        Tensor  # [B * N] int64, rows of the flattened embeddings that take the image features in order
    )
    cosine: Tensor  # [B or 1, 1, L, head_dim]
    sine: Tensor
    causal_mask: Tensor | None  # [B, 1, L, L] bool; None: plain causal
    key_mask: Tensor | None  # [B, 1, 1, L] bool; None: all count

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.embeddings.shape[:2], self.image_rows.shape[0])

    def tensors(self) -> list[Tensor]:
        return [value for value in vars(self).values() if value is not None]


@dataclass
class StageTimes:
    """Seconds spent in each stage of the last call, where they were asked for; on a GPU between events."""

    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Context:
    """What the denoising needs of one observation."""

    prefix: Tensor  # [B, 1 + F, E]
    keys_values: list[KeysValues]
    mask: Tensor | None


class Engine:
    """Call it with an observation; see `__call__`.

    slot: the embodiment. steps: Euler steps. guidance: weight w of v = v_null + w (v - v_null) over the
    instruction; 1 is off and costs nothing, else every prompt needs `null_ids`. graphs: CUDA graphs, where
    the model is on a GPU. compiled: blocks by torch.compile, which joins what stands between the products;
    the first pass then takes a minute or so, and needs a compiler for the device (Triton, on a CPU a C++
    compiler).
    """

    def __init__(
        self,
        model: Groot,
        *,
        slot: int,
        steps: int | None = None,
        guidance: float = 1.0,
        graphs: bool = True,
        compiled: bool = False,
    ) -> None:
        config, head = model.config, model.action_head
        self.config, self.guidance = config, guidance
        self.device = head.future_tokens.weight.device
        self.dtype = head.future_tokens.weight.dtype
        self.graphs = graphs and self.device.type == "cuda"
        # one row per prompt token is ever needed: the table need not fill the device
        table = model.backbone.language.embed_tokens
        self.embedding = (table.to("cpu") if self.device.type == "cuda" else table).weight.detach()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        with torch.no_grad():
            self.vision = FusedVision(model.backbone.vision, model.backbone.connector)
            self.language = FusedLanguage(model.backbone.language)
            self.features = FusedSelfAttention(head.vlln, head.vl_self_attention)
            self.keys_values = FusedKeysValues(head.model)
            self.flow = FusedFlow(head, slot, steps or config.action_head.num_inference_timesteps)
        if compiled:
            for stage in (self.vision, self.language, self.features, self.flow):
                compile_blocks(stage)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # what the joining left
        self._prompts: OrderedDict[tuple[tuple[int, ...], ...], Prompt] = OrderedDict()
        self._graphs: OrderedDict[tuple[int, ...], _Graphs] = OrderedDict()

    def set_steps(self, steps: int) -> None:
        """Another number of Euler steps. Raises InputError below 1."""
        self.flow.set_steps(steps)
        self._graphs.clear()

    @torch.inference_mode(False)
    @torch.no_grad()
    def prompt(self, input_ids: Tensor, null_ids: Tensor | None = None) -> Prompt:
        """Prepares an instruction: input_ids [L] or [1, L]; kept, so that asking again costs nothing."""
        ids = [input_ids.flatten()]
        if self.guidance != 1.0:
            if null_ids is None:
                raise InputError(
                    f"guidance {self.guidance:g} needs the null prompt's tokens beside the instruction's"
                )
            ids.append(null_ids.flatten())
        key = tuple(tuple(each.tolist()) for each in ids)
        if key not in self._prompts:
            self._prompts[key] = self._prepare(ids)
            if len(self._prompts) > PROMPTS_KEPT:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    # not inference_mode, whose tensors a pass under autograd (real-time chunking) could not use
    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(
        self,
        pixel_values: Tensor,
        state: Tensor,
        prompt: Prompt,
        noise: Tensor,
        *,
        guide: Guide | None = None,
        times: StageTimes | None = None,
    ) -> Tensor:
        """pixel_values [V, 3, S, S] in [-1, 1], state [1, S] or [1, 1, S], noise [H, A] -> actions [H, A]
        float32, on the engine's device.

        guide corrects each velocity; a PrefixGuide (real-time chunking) also through the model's Jacobian,
        where it asks for it. times receives the split into stages.
        """
        state = state.reshape(1, 1, -1).to(self.device)
        noise = noise.reshape(1, *noise.shape[-2:]).to(self.device, torch.float32)
        pixel_values = pixel_values.to(self.device)
        self._check(pixel_values, state, noise, prompt)
        stages: _Stages | _Graphs = _Stages(self, pixel_values, state, prompt, noise)
        if self.graphs:
            key = (*pixel_values.shape, *prompt.shape, prompt.key_mask is None)
            if key not in self._graphs:
                if len(self._graphs) >= GRAPHS_KEPT:
                    self._graphs.popitem(last=False)
                self._graphs[key] = _Graphs(self, pixel_values, state, prompt, noise)
            self._graphs.move_to_end(key)
            stages = self._graphs[key]
            stages.take(pixel_values, state, prompt, noise)
        with _Laps(times, self.device) as lap:
            stages.see()
            lap("vision")
            stages.read()
            lap("language")
            stages.attend()
            lap("features")
            actions = stages.denoise() if guide is None else self._guided(stages, noise, guide)
            lap("denoising")
        return actions[0]

    def _guided(self, stages: _Stages | _Graphs, noise: Tensor, guide: Guide) -> Tensor:
        x, steps = noise, self.flow.steps
        pulled = guide if isinstance(guide, PrefixGuide) and guide.pulled else None
        for step in range(steps):
            time = step / steps
            if pulled is not None:
                velocity = stages.pulled(x, step, pulled.target, pulled.strength(time))
            else:
                velocity = guide(x, stages.velocity(x, step), time)
            x = x + velocity / steps
        return x

    def _prepare(self, prompts: list[Tensor]) -> Prompt:
        """Left-pads the prompts to one length; pads count nowhere."""
        length = max(prompt.shape[0] for prompt in prompts)
        ids = torch.zeros(len(prompts), length, dtype=torch.int64)
        keep = torch.zeros(len(prompts), length, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            ids[row, length - prompt.shape[0] :] = prompt.cpu()
            keep[row, length - prompt.shape[0] :] = True
        text, padded = self.config.text, not bool(keep.all())
        positions = (keep.cumsum(-1) - 1).clamp(min=0)
        angles = rotary_angles(positions, text.head_dim, text.rope_theta, torch.float32)
        cosine, sine = (table.to(self.device, self.dtype) for table in rotary_tables(*angles))
        image = keep & (ids == self.config.image_token_index)
        return Prompt(
            self.embedding[ids.to(self.embedding.device)].to(self.device, self.dtype),
            image.flatten().nonzero().flatten().to(self.device),
            cosine,
            sine,
            language_mask(keep, PadRows.MASKED, self.dtype).to(self.device) if padded else None,
            keep[:, None, None, :].to(self.device) if padded else None,
        )

    def _check(self, pixel_values: Tensor, state: Tensor, noise: Tensor, prompt: Prompt) -> None:
        head, vision = self.config.action_head, self.config.vision
        size = vision.image_size
        if pixel_values.shape[1:] != (3, size, size):
            raise InputError(
                f"pixel_values has shape {tuple(pixel_values.shape)}, expected (V, 3, {size}, {size})"
            )
        if state.shape[-1] != head.state_dim:
            raise InputError(f"state has {state.shape[-1]} values, expected {head.state_dim}")
        if noise.shape[1:] != (head.action_horizon, head.action_dim):
            raise InputError(
                f"noise has shape {tuple(noise.shape[1:])}, expected {(head.action_horizon, head.action_dim)}"
            )
        given = pixel_values.shape[0] * vision.tokens * prompt.embeddings.shape[0]
        if given != prompt.image_rows.shape[0]:
            raise InputError(
                f"{pixel_values.shape[0]} images give {given} tokens, the prompt holds"
                f" {prompt.image_rows.shape[0]}: every camera needs its image and its place in the prompt"
            )


class _Stages:
    """The stages of one inference, each from what those before it left here."""

    def __init__(
        self, engine: Engine, pixel_values: Tensor, state: Tensor, prompt: Prompt, noise: Tensor
    ) -> None:
        self.engine = engine
        self.pixel_values, self.state, self.prompt, self.noise = pixel_values, state, prompt, noise
        self.images = self.tokens = pixel_values  # of `see` and `read`
        self.context: _Context | None = None

    def see(self) -> None:
        self.images = self.engine.vision(self.pixel_values)

    def read(self) -> None:
        prompt = self.prompt
        x = prompt.embeddings.clone()
        images = self.images.repeat(x.shape[0], 1).to(x.dtype)
        x.view(-1, x.shape[-1]).index_copy_(0, prompt.image_rows, images)
        self.tokens = self.engine.language(x, prompt.cosine, prompt.sine, prompt.causal_mask)

    def attend(self) -> None:
        engine, mask = self.engine, self.prompt.key_mask
        keys_values = engine.keys_values(engine.features(self.tokens, mask))
        prefix = engine.flow.prefix(self.state).expand(self.tokens.shape[0], -1, -1)
        self.context = _Context(prefix, keys_values, mask)

    def denoise(self) -> Tensor:
        """-> actions [1, H, A] float32."""
        x, steps = self.noise, self.engine.flow.steps
        for step in range(steps):
            x = x + self.velocity(x, step) / steps
        return x

    def pulled(self, x: Tensor, step: int, target: Tensor, strength: Tensor) -> Tensor:
        """The velocity led to a target, all [1, H, A] float32; see `pull_back`."""
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            velocity = self.velocity(x, step, plain=True)
            return pull_back(x, velocity, target, strength, 1.0 - step / self.engine.flow.steps)

    def velocity(self, x: Tensor, step: int, plain: bool = False) -> Tensor:
        """x [1, H, A] float32 -> [1, H, A] float32, the guidance over the instruction in it."""
        context = self.context
        assert context is not None
        both = self.engine.flow.velocity(
            x.expand(context.prefix.shape[0], -1, -1),
            step,
            context.prefix,
            context.keys_values,
            context.mask,
            plain,
        )
        if both.shape[0] == 1:
            return both
        obeyed, null = both.chunk(2)
        return null + self.engine.guidance * (obeyed - null)


class _Graphs:
    """The stages captured for one shape of inputs, replayed on copies into their own buffers.

    One graph per stage: so the split into stages is that of the pass itself, and a guide can stand between
    the steps. All share one memory pool: they are replayed in the order of their capture.
    """

    def __init__(
        self, engine: Engine, pixel_values: Tensor, state: Tensor, prompt: Prompt, noise: Tensor
    ) -> None:
        copies = {name: value.clone() for name, value in vars(prompt).items() if value is not None}
        self.stages = _Stages(
            engine, pixel_values.clone(), state.clone(), replace(prompt, **copies), noise.clone()
        )
        self.held: Prompt | None = None  # whose content the buffers hold
        side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.stages.see()
                self.stages.read()
                self.stages.attend()
                self.stages.denoise()
        torch.cuda.current_stream().wait_stream(side)
        self.pool = torch.cuda.graph_pool_handle()
        self.graphs = [self._capture(stage)[0] for stage in (self.stages.see, self.stages.read)]
        self.graphs.append(self._capture(self.stages.attend)[0])
        self.denoising, self.actions = self._capture(self.stages.denoise)
        self.x, self.target, self.strength = (self.stages.noise.clone() for _ in range(3))
        self.velocities: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.pulls: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def take(self, pixel_values: Tensor, state: Tensor, prompt: Prompt, noise: Tensor) -> None:
        self.stages.pixel_values.copy_(pixel_values)
        self.stages.state.copy_(state)
        self.stages.noise.copy_(noise)
        if prompt is not self.held:
            for ours, given in zip(self.stages.prompt.tensors(), prompt.tensors(), strict=True):
                ours.copy_(given)
            self.held = prompt

    def see(self) -> None:
        self.graphs[0].replay()

    def read(self) -> None:
        self.graphs[1].replay()

    def attend(self) -> None:
        self.graphs[2].replay()

    def denoise(self) -> Tensor:
        self.denoising.replay()
        return self.actions.clone()

    def velocity(self, x: Tensor, step: int) -> Tensor:
        """As of `_Stages`; valid until the next replay."""
        if step not in self.velocities:
            self.velocities[step] = self._capture(lambda: self.stages.velocity(self.x, step))
        graph, velocity = self.velocities[step]
        self.x.copy_(x)
        graph.replay()
        return velocity

    def pulled(self, x: Tensor, step: int, target: Tensor, strength: Tensor) -> Tensor:
        """As of `_Stages`; valid until the next replay."""

        def run() -> Tensor:
            return self.stages.pulled(self.x, step, self.target, self.strength)

        if step not in self.pulls:
            if not self.pulls:  # the backward pass, too, wants its warm-up outside a capture
                side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(WARM_UP):
                        run()
                torch.cuda.current_stream().wait_stream(side)
            self.pulls[step] = self._capture(run)
        graph, velocity = self.pulls[step]
        self.x.copy_(x)
        self.target.copy_(target)
        self.strength.copy_(strength)
        graph.replay()
        return velocity

    def _capture(self, run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            result = run()
        return graph, result


class _Laps:
    """Times of stages, on a GPU between events on its stream; nothing where no times were asked for."""

    def __init__(self, times: StageTimes | None, device: torch.device) -> None:
        self.times, self.cuda = times, device.type == "cuda"
        self.marks: list[tuple[str, Any]] = []

    def __enter__(self) -> _Laps:
        self("")
        return self

    def __call__(self, stage: str) -> None:
        if self.times is None:
            return
        mark: Any = time.perf_counter()
        if self.cuda:
            mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            mark.record()
        self.marks.append((stage, mark))

    def __exit__(self, *exception: object) -> None:
        if self.times is None:
            return
        if self.cuda:
            torch.cuda.synchronize()
        for (_, last), (stage, mark) in pairwise(self.marks):
            self.times.seconds[stage] = last.elapsed_time(mark) / 1000.0 if self.cuda else mark - last
