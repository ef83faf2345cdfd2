# SPDX-License-Identifier: Apache-2.0
"""`chefmate data generate`: episodes of the expert in the twin, in parallel processes, without ROS.

Also `python -m chefmate.data_generate`, where the `chefmate` command is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from chefmate.data_options import RATES, generate_options
from chefmate.errors import ArgumentError, ChefmateError
from chefmate.workers import DIED, become_worker, one_thread_each
from chefmate_driver.errors import DriverError
from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_driver.kitchen.render import import_mujoco
from chefmate_policy.data.lerobot_layout import V2_1, WRITABLE
from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.takes import Key, Takes
from chefmate_policy.data.variants import (
    LAYOUTS_PER_SEED,
    Scene,
    SceneOptions,
    Stock,
    Variant,
    draw_scene,
    draw_variants,
    twin_seed,
)
from chefmate_policy.data.writing import DatasetWriter
from chefmate_policy.errors import PolicyError
from chefmate_policy.units import JointUnits, so101_units

if TYPE_CHECKING:
    from chefmate.demonstrations import Demonstration, Studio

UNIT = "degrees"  # of the body joints; the gripper is 0..100
RECIPE = "recipe"  # phrasing of the recipes, and of one-ingredient sets
INTERRUPTED = 130
DRIVEN_HORIZON, DRIVEN_LATENCY = 0.8, 0.15  # s, of a policy that drives before the expert


@dataclass(frozen=True)
class Options:
    """What to make. None of scene: every ingredient of the kitchen, as the defaults have it."""

    out: Path
    layouts: int = 100
    seed: int = 1
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    fps: int = 10
    size: tuple[int, int] = (96, 96)
    version: str = V2_1
    images: bool = True
    seconds: float | None = None  # no layout is begun after that; a layout that is not whole is left out
    scene: dict[str, Any] = field(default_factory=dict)  # arguments of SceneOptions
    phrasing_ids: tuple[str, ...] = ()  # sentences of `pick`; empty: all
    held_out: tuple[str, ...] | None = None  # None: as config/phrasings.yaml has it
    phrasings: Path | None = None
    kitchen: Path | None = None
    policy: Path | None = None  # a checkpoint that drives before the expert, in the share `driven` of scene

    def __post_init__(self) -> None:
        if self.fps not in RATES:
            raise ArgumentError(f"--fps {self.fps}: use one of {', '.join(map(str, RATES))}")
        if not 1 <= self.layouts <= LAYOUTS_PER_SEED:
            raise ArgumentError(f"--layouts {self.layouts}: use 1 to {LAYOUTS_PER_SEED}")
        if self.workers < 1:
            raise ArgumentError(f"--workers {self.workers}: at least 1")
        if self.seconds is not None and not self.seconds > 0:
            raise ArgumentError(f"--seconds {self.seconds:g}: above 0")
        if any(side % 2 or side < 16 for side in self.size):
            raise ArgumentError(f"--size {self.size[0]}x{self.size[1]}: even numbers of pixels from 16 on")
        if self.version not in WRITABLE:
            raise ArgumentError(f"--format {self.version}: use {' or '.join(WRITABLE)}")


@dataclass(frozen=True)
class Job:
    """Options, read: what a worker needs."""

    options: Options
    scene: SceneOptions
    stock: Stock
    phrasings: Phrasings
    kitchen: KitchenConfig

    @classmethod
    def of(cls, options: Options) -> Job:
        """Raises PhrasingError, KitchenError: a file or an entry of it."""
        kitchen = KitchenConfig.load(options.kitchen)
        scene = SceneOptions(**{"ingredients": tuple(kitchen.stock), **options.scene})
        phrasings = Phrasings.load(options.phrasings, options.held_out)
        chosen = options.phrasing_ids or ((RECIPE,) if scene.one_ingredient else ())
        phrasings = phrasings.only(chosen) if chosen else phrasings
        return cls(options, scene, Stock(kitchen.tray.slots, dict(kitchen.stock)), phrasings, kitchen)

    def about(self) -> dict[str, Any]:
        """What decides the episodes: for meta/chefmate.json, and to tell whether work can go on."""
        options, table = self.options, self.phrasings
        told = repr((table.names, table.pick, table.negated, table.unknown, self.kitchen))
        return {
            "made_by": "chefmate data generate",
            "seed": options.seed,
            "layouts": options.layouts,
            "fps": options.fps,
            "size": list(options.size) if options.images else None,
            "scene": self.scene.to_dict(),
            "phrasings": sorted(self.phrasings.pick),
            "held_out": list(self.phrasings.held_out.entries),
            "policy": None if options.policy is None else _fingerprint(options.policy),
            "tables_sha256": hashlib.sha256(told.encode()).hexdigest(),
            "mujoco": version("mujoco"),
            "units": {"joints": UNIT, "gripper": "0..100"},
        }


@dataclass
class Made:
    """What came of it."""

    folder: Path
    episodes: int
    frames: int
    dropped: Counter[str]
    fingerprint: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "folder": str(self.folder), "dropped": dict(self.dropped)}


def generate(options: Options, report: Callable[[int, int, int], None] = lambda *counts: None) -> Made:
    """Makes the dataset, or goes on with what an interrupted call has left.

    report(layouts done, takes kept, takes dropped): progress. Raises DatasetError, PhrasingError,
    KitchenError, ChefmateError; KeyboardInterrupt after ctrl-C, and what is made by then is kept.
    """
    started = time.monotonic()
    import_mujoco()  # chooses the renderer, for the workers too
    one_thread_each()
    job = Job.of(options)
    takes = Takes(options.out)
    if options.out.exists():
        raise ChefmateError(f"{options.out} exists; name a new folder or remove it")
    with takes.locked():
        takes.begin(job.about())
        kept = dropped = 0
        whole: set[int] = set()
        for index, more, fewer in _all_layouts(job):
            whole.add(index)
            kept, dropped = kept + more, dropped + fewer
            report(len(whole), kept, dropped)
        total, reasons = takes.counts(whole)
        if not whole:
            raise ChefmateError(
                f"no layout was whole after {options.seconds:g} s: give more --seconds to go on"
            )
        if not total:
            raise ChefmateError(f"no episode succeeded: {dict(reasons)}; the takes are in {takes.folder}")
        cameras = {name: options.size for name in _cameras()} if options.images else {}
        joints = [f"{unit.joint}.pos" for unit in _units().joints]
        writer = DatasetWriter(
            options.out, fps=options.fps, joints=joints, cameras=cameras, version=options.version
        )
        with writer:
            fingerprint = takes.assemble(writer, {**job.about(), "layouts": len(whole)}, whole)
        takes.remove()
    return Made(options.out, total, writer.frames, reasons, fingerprint, time.monotonic() - started)


def _fingerprint(checkpoint: Path) -> str | None:
    """SHA-256 of a checkpoint's weights. Raises ArgumentError: there are none."""
    from chefmate_policy.training.checkpoints import Origin

    if not any(checkpoint.glob("*.safetensors")):
        raise ArgumentError(f"--policy {checkpoint}: no *.safetensors in it")
    return Origin.of(str(checkpoint), checkpoint).sha256


def make_layout(job: Job, studio: Studio, index: int, stopped: Callable[[], bool]) -> tuple[int, int]:
    """All takes of a layout that are not there yet; how many of the layout's are kept, and dropped."""
    from chefmate.demonstrations import StoppedError

    takes, options = Takes(job.options.out), job.options
    layout = twin_seed(options.seed, index)
    scene = draw_scene(layout, index, job.scene, job.stock, job.phrasings)
    kept = dropped = 0
    for variant in draw_variants(scene, job.scene, job.phrasings):
        key = Key(index, variant.number)
        if not takes.has(key):
            try:
                demonstration = studio.record(scene, variant, stopped)
            except StoppedError:
                break
            except PolicyError as error:
                takes.drop(key, f"expert: {error}")
            else:
                _store(job, takes, key, scene, variant, demonstration)
        whole = (takes.folder / f"{key}.npz").exists()
        kept, dropped = kept + whole, dropped + (not whole)
    return kept, dropped


def _store(job: Job, takes: Takes, key: Key, scene: Scene, variant: Variant, made: Demonstration) -> None:
    if made.failure:
        takes.drop(key, made.failure)
        return
    units, kick = _units(), variant.kick
    extra = {
        "layout": scene.layout,
        "meaning": variant.meaning,
        "kind": variant.kind,
        "variant": f"{'switch' if variant.prelude else variant.kind}-{variant.number}",
        "phrasing": variant.sentence.phrasing,
        "naming": variant.sentence.naming,
        "prelude": variant.prelude,
        "outcome": "success",
        "operator_help": False,
        "takeover": False,
    }
    privileged = {
        "slots": scene.slots,
        "plate": scene.plate,
        "start": scene.start_name,
        "touched": made.touched,
        "phases": made.phases,
        "prelude_seconds": variant.prelude_seconds,
        "kick": None if kick is None else vars(kick),
        "driven": variant.driven,
    }
    takes.keep(
        key,
        variant.sentence.text,
        units.values(made.states),
        units.values(made.actions),
        made.pictures,
        job.options.fps,
        extra,
        privileged,
    )


def _all_layouts(job: Job) -> Iterator[tuple[int, int, int]]:
    """Yields number, kept and dropped takes of each whole layout, in whatever order they end."""
    limit = time.monotonic() + (job.options.seconds or math.inf)
    workers = min(job.options.workers, job.options.layouts)
    if workers == 1:
        with contextlib.closing(_studio(job)) as studio:
            for index in range(job.options.layouts):
                if index and time.monotonic() > limit:
                    return
                yield index, *make_layout(job, studio, index, lambda: False)
        return
    context = multiprocessing.get_context("spawn")  # a graphics context does not survive a fork
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _start_worker, (job, stop)) as pool:
        try:
            waiting = {pool.submit(_work, index): index for index in range(job.options.layouts)}
            while waiting and time.monotonic() < limit:
                patience = None if math.isinf(limit) else max(0.0, limit - time.monotonic())
                done, _ = wait(waiting, patience, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), *future.result()
        except BrokenProcessPool:
            raise ChefmateError(DIED) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


_at_work: dict[str, Any] = {}  # a worker's job, studio and stop flag


def _start_worker(job: Job, stop: Any) -> None:
    become_worker()
    _at_work.update(job=job, studio=_studio(job), stop=stop)


def _work(index: int) -> tuple[int, int]:
    return make_layout(_at_work["job"], _at_work["studio"], index, _at_work["stop"].is_set)


def _studio(job: Job) -> Studio:
    import_mujoco()
    from chefmate.demonstrations import Studio

    options = job.options
    studio = Studio(job.kitchen, fps=options.fps, size=options.size, pictures=options.images)
    if options.policy is not None:
        from chefmate.closed_loop import Driver

        drive = {"execution_horizon": DRIVEN_HORIZON}
        driver = Driver(studio, "local", str(options.policy), latency=DRIVEN_LATENCY, drive=drive)
        studio.lead = driver.lead
    return studio


def _cameras() -> tuple[str, ...]:
    from chefmate.demonstrations import CAMERAS

    return CAMERAS


def _units() -> JointUnits:
    from chefmate_driver.arm.model import JOINT_NAMES

    return JointUnits(so101_units(JOINT_NAMES, UNIT))


def read(options: argparse.Namespace) -> Options:
    """Options from the command line. Raises ArgumentError."""
    scene = {
        "one_ingredient": options.one_ingredient,
        "phrasings": options.phrasings,
        "idle": options.idle,
        "switches": options.switches,
        "stacked": options.stacked,
        "start_spread": options.start_spread,
        "kicked": options.kicked,
        "kick": options.kick,
        "restyled": options.restyled,
        "driven": 0.0 if options.policy is None else options.driven,
    }
    if options.ingredients:
        scene["ingredients"] = tuple(options.ingredients)
    given: dict[str, Any] = {} if options.workers is None else {"workers": options.workers}
    return Options(
        out=options.out,
        layouts=options.layouts,
        seed=options.seed,
        fps=options.fps,
        size=options.size,
        version=options.version,
        images=not options.no_images,
        seconds=options.seconds,
        scene=scene,
        phrasing_ids=tuple(options.instructions),
        held_out=None if options.held_out is None else tuple(options.held_out),
        phrasings=options.phrasing_table,
        kitchen=options.kitchen,
        policy=options.policy,
        **given,
    )


def run(options: argparse.Namespace) -> int:
    """`chefmate data generate`: 0; KeyboardInterrupt after ctrl-C or SIGTERM, what is made is kept."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    wanted = read(options)
    console = Console(stderr=True)
    columns = (
        TextColumn("layouts"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[kept]} kept, {task.fields[dropped]} dropped"),
        TimeRemainingColumn(),
    )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("layouts", total=wanted.layouts, kept=0, dropped=0)
            made = generate(
                wanted, lambda done, kept, lost: bar.update(task, completed=done, kept=kept, dropped=lost)
            )
    except KeyboardInterrupt:
        print("what is made so far is kept: the same command goes on", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if options.json:
        print(json.dumps(made.to_dict(), indent=2))
        return 0
    lost = ", ".join(f"{count} {reason}" for reason, count in made.dropped.most_common())
    print(f"{made.episodes} episodes, {made.frames} frames in {made.folder}, {made.seconds:.0f} s")
    print(f"dropped: {lost or 'none'}")
    print(f"fingerprint {made.fingerprint}")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Entry point without the `chefmate` command: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m chefmate.data_generate", description=__doc__)
    generate_options(parser)
    try:
        return run(parser.parse_args())
    except (ChefmateError, DriverError, PolicyError) as error:
        print(f"chefmate data generate: {error}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentError) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
