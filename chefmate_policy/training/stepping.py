# SPDX-License-Identifier: Apache-2.0
"""One optimizer step: passes, clipping, AdamW; on a GPU as one CUDA graph.

A small model's step is thousands of kernels of microseconds, which a CPU cannot launch fast enough. The
first steps run as they are (which warms kernels and allocates the optimizer's moments); then one pass and
one update are recorded, and later steps replay them: the CPU hands over row numbers and nothing waits.

All random numbers of a step (flow noise, times, dropout) come from the device's generator, seeded with the
run's seed, the step, the pass and the process, so that nothing has to be saved for a resumed run to draw what
an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from chefmate_policy.training.batches import Preparation, Rows
from chefmate_policy.training.optim import learning_rate, set_rate
from chefmate_policy.training.options import TrainOptions

__all__ = ["Stepper", "compile_layers", "seed_of"]

EAGER_STEPS = 3  # before a step is recorded
PRIME = 1_000_003


def seed_of(seed: int, step: int, part: int, rank: int) -> int:
    """Seed of one pass of one process; different for each."""
    mixed = (seed * PRIME + step) * PRIME + part * 4096 + rank
    return mixed & (2**63 - 1)


def compile_layers(model: nn.Module, kinds: tuple[str, ...]) -> int:
    """Compiles layers of these classes, each class once (all its layers share the code); in place."""
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    for layer in layers:
        layer.compile(dynamic=False)
    return len(layers)


class Stepper:
    """Holds what a step needs; call it with the step's number and its batches."""

    def __init__(
        self,
        loss: nn.Module,
        prepare: Preparation,
        parameters: Mapping[str, Parameter],
        optimizer: Optimizer,
        options: TrainOptions,
        *,
        autocast: torch.dtype | None,
        rank: int = 0,
        world: int = 1,
        on_graph: bool = False,
    ) -> None:
        """rank, world: this process and how many there are; their gradients are averaged once per step."""
        self.loss, self.prepare, self.optimizer, self.options = loss, prepare, optimizer, options
        self.parameters = list(parameters.values())
        self.autocast, self.rank, self.world, self.on_graph = autocast, rank, world, on_graph
        device = self.parameters[0].device
        self.device = device
        self.losses = torch.zeros((), device=device)  # sum since `taken`
        self.norms = torch.zeros((), device=device)  # of the gradients before clipping
        self.count = 0
        self._graphs: tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph] | None = None
        self._static: Rows | None = None
        self._eager = 0
        self._stream: torch.cuda.Stream | None = None
        if on_graph:  # one for all: torch keeps memory apart by stream
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # one piece of memory, of which each gradient is a view: processes add it up in one call
        self._gradients = torch.zeros(sum(each.numel() for each in self.parameters), device=device)
        at = 0
        for parameter in self.parameters:
            parameter.grad = self._gradients[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()

    def __call__(self, step: int, batches: Iterator[Rows], rate: float | None = None) -> None:
        """One optimizer step with `gradient_accumulation_steps` batches. rate: None: as the step has it."""
        set_rate(self.optimizer, learning_rate(step, self.options) if rate is None else rate)
        for part in range(self.options.gradient_accumulation_steps):
            given = next(batches)
            torch.manual_seed(seed_of(self.options.seed, step, part, self.rank))
            if self._graphs is not None and self._static is not None:
                self._static.rows.copy_(given.rows)
                self._static.words.copy_(given.words)
                if not given.resident:
                    self._static.pictures.copy_(given.pictures)
                self._graphs[0].replay()
            else:
                with self._side():
                    self._pass(given)
        if self.world > 1:
            torch.distributed.all_reduce(self._gradients)
        if self._graphs is not None:
            self._graphs[1].replay()
        else:
            with self._side():
                self._update()
            self._eager += 1
            if self.on_graph and self._eager == EAGER_STEPS:
                self._record(given)
        self.count += 1

    def taken(self) -> tuple[float, float]:
        """Mean loss and gradient norm since the last call; waits for the device."""
        means = (torch.stack([self.losses, self.norms]) / max(1, self.count)).tolist()
        self.losses.zero_()
        self.norms.zero_()
        self.count = 0
        return means[0], means[1]

    def _pass(self, given: Rows) -> None:
        batch = self.prepare(given)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            loss, _ = self.loss(batch)
        loss = loss / self.options.gradient_accumulation_steps
        loss.backward()
        self.losses += loss.detach()

    def _update(self) -> None:
        if self.world > 1:
            self._gradients.div_(self.world)
        limit = self.options.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit if limit else float("inf"))
        self.norms += norm
        self.optimizer.step()
        self._gradients.zero_()  # in place: a recording knows the address

    def _record(self, given: Rows) -> None:
        """Records a pass and an update; neither is executed by that."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        pictures = given.pictures if given.resident else given.pictures.clone()
        static = replace(given, rows=given.rows.clone(), words=given.words.clone(), pictures=pictures)
        pool = torch.cuda.graph_pool_handle()
        one, update = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # thread_local: the thread that watches over the other processes may ask the device meanwhile
        with torch.cuda.graph(one, pool=pool, capture_error_mode="thread_local"):
            self._pass(static)
        with torch.cuda.graph(update, pool=pool, capture_error_mode="thread_local"):
            self._update()
        self._static, self._graphs = static, (one, update)

    @contextmanager
    def _side(self) -> Iterator[None]:
        """Steps before a recording run on a stream of their own, as recording asks for."""
        side = self._stream
        if side is None:
            yield
            return
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            yield
        torch.cuda.current_stream().wait_stream(side)
