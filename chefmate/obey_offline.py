# SPDX-License-Identifier: Apache-2.0
"""The offline checks of `chefmate obey`, cheap ones first: what was trained, whether the instructions'
features are apart, and whether the actions follow the words on one observation under one noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError

if TYPE_CHECKING:
    from chefmate_policy.groot.processor import Processor
    from chefmate_policy.inference.backend import Backend
    from chefmate_policy.inference.checkpoint_policy import CheckpointOptions
    from chefmate_policy.obedience.gap import Act
    from chefmate_policy.obedience.observations import Observations, View
    from chefmate_policy.units import JointUnits

__all__ = ["CHECKS", "offline", "offline_backend", "offline_impossible"]

CHECKS = ("trainable", "separation", "gap")
LAYOUTS, QUICK_LAYOUTS = 24, 12
NOISES, QUICK_NOISES = 4, 2
BATCH = {"cpu": 6, "cuda": 16}  # prompts at a time
TWIN_CAMERAS = ("scene", "wrist")
HORIZON, RATE = 16, 10.0  # steps and Hz that a server's chunks are looked at with
FPS_TOLERANCE = 0.01  # Hz
PAIRS = 4  # of demonstrations in one layout, below which a dataset says little about the action gap
NOISE_SEED = 20_251_020  # of the pinned noises; the number of a noise is added

Array = NDArray[np.float64]
Report = Callable[[str], None]
Row = dict[str, Any]


class Check(Protocol):
    """A check's result."""

    @property
    def verdict(self) -> str: ...
    @property
    def line(self) -> str: ...
    def to_dict(self) -> dict[str, Any]: ...


def silent(line: str) -> None:
    """No progress is wanted."""


def offline(
    policy: str,
    dataset: Path | None = None,
    quick: bool = False,
    report: Report = silent,
    *,
    base: str = "",
    device: str = "auto",
    options: CheckpointOptions | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """All checks of a checkpoint, as plain values for JSON.

    policy: folder or hub id. dataset: LeRobot dataset with the checkpoint's cameras, counterfactual at best;
    None, or one in which no layout has two instructions: layouts of the twin, for a checkpoint of the
    kitchen. base: of an adapter or of a merged checkpoint, where none is recorded; NAME[@SEED] of a small
    member's random weights too. options: units, prompt, steps and guidance as it is driven with. seed: of the
    layouts. A check that cannot be made is a row that says why.
    """
    import torch

    from chefmate_policy.groot.checkpoint import load_model, load_processor, open_checkpoint
    from chefmate_policy.groot.model import Parts
    from chefmate_policy.groot.prompt import PromptForm
    from chefmate_policy.inference.checkpoint_policy import DTYPES, SMALL, CheckpointOptions, size_of
    from chefmate_policy.inference.engine import Engine
    from chefmate_policy.obedience.gap import gap
    from chefmate_policy.obedience.separation import separation
    from chefmate_policy.obedience.trainable import trainable

    started = time.perf_counter()
    options = options or CheckpointOptions()
    base, wanted = base or options.base, device if device != "auto" else options.device
    rows = [_row("trainable", lambda: trainable(policy, base, options.embodiment), report)]
    cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    where = torch.device("cuda" if cuda else "cpu")
    dtype = DTYPES.get(options.dtype, torch.bfloat16 if cuda else torch.float32)
    try:
        checkpoint = open_checkpoint(policy, base=base if Path(base).is_dir() else None)
        changes: dict[str, Any] = {"prompt": PromptForm.of(options.prompt)} if options.prompt else {}
        processor = load_processor(checkpoint, options.embodiment, device=where, **changes)
        seen = _observations(processor, dataset, options, quick, seed, report)
        processor = _sized(processor, seen)
        model = load_model(checkpoint, Parts.used(processor.slot), device=where, dtype=dtype)
    except PolicyError as error:
        return _document(policy, None, [*rows, *_impossible(str(error), *CHECKS[1:])], started)
    threads, noises = torch.get_num_threads(), QUICK_NOISES if quick else NOISES
    try:
        if not cuda and size_of(model) < SMALL:
            torch.set_num_threads(1)
        batch = BATCH[where.type]
        rows.append(
            _row(
                "separation",
                lambda: separation(model, processor, seen.views, batch=batch, report=report),
                report,
            )
        )
        steps = options.denoising_steps or None
        engine = Engine(model, slot=processor.slot, steps=steps, guidance=options.guidance)
        act, normalise = _pinned(engine, processor), _normalise(processor)
        rows.append(
            _row("gap", lambda: gap(seen.views, act, normalise, noises=noises, report=report), report)
        )
    finally:
        torch.set_num_threads(threads)
    return _document(policy, seen, rows, started)


def offline_backend(
    backend: Backend,
    name: str,
    dataset: Path | None = None,
    quick: bool = False,
    report: Report = silent,
    *,
    cameras: tuple[str, ...] = ("scene", "wrist"),
    units: str = "degrees",
    size: tuple[int, int] = (640, 480),
    seed: int | None = None,
) -> dict[str, Any]:
    """The one check that needs answers only, of a loaded backend (a policy server). Its noise is its own.

    cameras: names of the backend's inputs. units: of the dataset's body joints. size: of the twin's pictures.
    """
    from chefmate_driver.arm.model import JOINT_NAMES
    from chefmate_policy.obedience.gap import gap
    from chefmate_policy.obedience.observations import from_dataset
    from chefmate_policy.units import JointUnits, so101_units

    started = time.perf_counter()
    table, layouts = JointUnits(so101_units(JOINT_NAMES, units)), QUICK_LAYOUTS if quick else LAYOUTS
    rows = _impossible(
        "weights and features of a model behind a server cannot be seen; give its checkpoint", *CHECKS[:2]
    )
    try:
        if dataset is None:
            seen = _twin(table, size, RATE, HORIZON, layouts, seed, report)
        else:
            seen = from_dataset(dataset, horizon=HORIZON, most=layouts, seed=seed or 0)
        act = _asked(backend, table, cameras, np.arange(HORIZON) / seen.fps)
    except PolicyError as error:
        return _document(name, None, [*rows, *_impossible(str(error), "gap")], started)
    count = QUICK_NOISES if quick else NOISES
    made = _row(
        "gap",
        lambda: gap(seen.views, act, table.radians, unit="rad", pinned=False, noises=count, report=report),
        report,
    )
    return _document(name, seen, [*rows, made], started)


def offline_impossible(policy: str, why: str) -> dict[str, Any]:
    """The same document where nothing can be looked at, as of the scripted expert."""
    return _document(policy, None, _impossible(why, *CHECKS), time.perf_counter())


def _observations(
    processor: Processor,
    dataset: Path | None,
    options: CheckpointOptions,
    quick: bool,
    seed: int | None,
    report: Report,
) -> Observations:
    from chefmate_driver.arm.model import JOINT_NAMES
    from chefmate_policy.inference.options import read_calibration
    from chefmate_policy.units import JointUnits, so101_units

    layouts = QUICK_LAYOUTS if quick else LAYOUTS
    cameras, joints = processor.settings.cameras, processor.settings.joints
    if options.units:
        joints = so101_units(JOINT_NAMES, options.units, read_calibration(options.calibration))
    odd = (
        f"its cameras are {', '.join(cameras)}, the twin's {', '.join(TWIN_CAMERAS)}"
        if set(cameras) != set(TWIN_CAMERAS)
        else "it does not say the units of its joints"
        if not joints
        else ""
    )
    if dataset is not None:
        seen = _of_dataset(processor, dataset, layouts, seed)
        if odd or seen.to_dict()["pairs"] >= PAIRS:
            return seen
        report(f"{dataset} shows no layout under two instructions: observations are drawn from the twin")
    if odd:
        raise PolicyError(f"the checkpoint is not the kitchen's ({odd}): give a dataset of its own robot")
    video = processor.metadata.video[cameras[0]]
    size, horizon = (video.width, video.height), processor.config.action_head.action_horizon
    return _twin(JointUnits(joints), size, processor.metadata.fps, horizon, layouts, seed, report)


def _of_dataset(processor: Processor, dataset: Path, layouts: int, seed: int | None) -> Observations:
    """Observations that fit the checkpoint, its cameras alone. Raises PolicyError: they do not."""
    from chefmate_policy.obedience.observations import from_dataset

    settings, fps = processor.settings, processor.metadata.fps
    seen = from_dataset(
        dataset,
        horizon=processor.config.action_head.action_horizon,
        most=layouts,
        seed=seed or 0,
        state_keys=tuple(settings.state),
        action_keys=tuple(settings.action),
    )
    if abs(seen.fps - fps) > FPS_TOLERANCE:
        raise PolicyError(
            f"{dataset} has {seen.fps:g} Hz, the checkpoint's actions {fps:g}: give a dataset of that rate"
        )
    given = seen.views[0].images
    lacking = [name for name in settings.cameras if name not in given]
    if lacking:
        raise PolicyError(
            f"{dataset} has no camera {', '.join(lacking)} of the checkpoint, but {', '.join(given)}"
        )
    views = (
        replace(view, images={name: view.images[name] for name in settings.cameras}) for view in seen.views
    )
    return replace(seen, views=tuple(views))


def _twin(
    units: JointUnits,
    size: tuple[int, int],
    fps: float,
    horizon: int,
    layouts: int,
    seed: int | None,
    report: Report,
) -> Observations:
    from chefmate_driver.errors import DriverError
    from chefmate_driver.kitchen.render import import_mujoco

    try:
        import_mujoco()  # chooses the renderer
        from chefmate.obey_views import SEED, from_twin

        chosen = SEED if seed is None else seed
        return from_twin(units, size, fps, horizon, layouts=layouts, seed=chosen, report=report)
    except DriverError as error:
        raise PolicyError(f"the twin cannot be drawn: {error}") from error


def _sized(processor: Processor, seen: Observations) -> Processor:
    """The processor for pictures of these sizes: a dataset's may be squeezed, as training's are."""
    from chefmate_policy.groot.processor import Processor as Sized

    images = seen.views[0].images
    video = {
        name: replace(key, width=images[name].shape[1], height=images[name].shape[0])
        if name in images
        else key
        for name, key in processor.metadata.video.items()
    }
    metadata = replace(processor.metadata, video=video)
    return Sized(processor.config, metadata, processor.settings, processor.tokenizer, processor.device)


def _pinned(engine: Any, processor: Processor) -> Act:
    """The engine under noises of equal numbers; actions in the dataset's units."""
    import torch

    head, cameras = processor.config.action_head, len(processor.settings.cameras)
    pixels: dict[str, Any] = {}

    def act(view: View, text: str, number: int) -> Array:
        if view.layout not in pixels:
            pixels.clear()
            pixels[view.layout] = processor.images(view.images)
        prompts = (processor.prompts.prompt(words, cameras) for words in (text, None))
        prompt = engine.prompt(*(torch.tensor(each.ids) for each in prompts))
        random = torch.Generator().manual_seed(NOISE_SEED + number)
        noise = torch.randn(head.action_horizon, head.action_dim, generator=random)
        output = engine(pixels[view.layout], processor.state(view.state), prompt, noise)
        actions: Array = processor.actions(output.to("cpu", torch.float64)).numpy()
        return actions

    return act


def _normalise(processor: Processor) -> Callable[[Array], Array]:
    import torch

    def normalise(actions: Array) -> Array:
        values: Array = processor.action_normaliser.normalise(torch.as_tensor(actions)).numpy()
        return values

    return normalise


def _asked(backend: Backend, units: JointUnits, cameras: tuple[str, ...], times: Array) -> Act:
    """A backend's chunks at these times, s, in the dataset's units. Each call draws its own noise."""
    from chefmate_driver.arm.model import JOINT_NAMES
    from chefmate_policy.inference.backend import CameraFrame, Observation

    order = units.order(JOINT_NAMES)

    def act(view: View, text: str, number: int) -> Array:
        now = time.time()
        positions = np.empty(len(order))
        positions[order] = units.radians(view.state)
        frames = {name: CameraFrame(now, partial(view.images.__getitem__, name)) for name in cameras}
        chunk = backend.infer(
            Observation(
                instruction=text,
                instruction_number=number + 1,
                stamp=now,
                stamps=dict.fromkeys(("joint_states", *cameras), now),
                now=now,
                start=now,
                start_positions=positions,
                joint_positions=positions,
                joint_velocities=np.zeros(len(positions)),
                images=frames,
            )
        )
        if not len(chunk.times):
            return np.repeat(view.state[None], len(times), axis=0)
        known = chunk.origin - now + chunk.times
        columns = [np.interp(times, known, column) for column in chunk.positions.T]
        return units.values(np.stack(columns, axis=1)[:, order])

    return act


def _row(check: str, make: Callable[[], Check], report: Report) -> Row:
    """One check, made; what keeps it from being made is said."""
    started = time.perf_counter()
    report(f"check: {check}")
    try:
        made = make()
    except PolicyError as error:
        return _impossible(str(error), check)[0]
    row = {
        "check": check,
        "possible": True,
        "verdict": made.verdict,
        "line": made.line,
        "figures": made.to_dict(),
        "seconds": round(time.perf_counter() - started, 2),
    }
    report(f"{check}: {made.line}")
    return row


def _impossible(why: str, *checks: str) -> list[Row]:
    line = f"not possible: {why}"
    return [
        {"check": check, "possible": False, "verdict": "", "line": line, "figures": None, "seconds": 0.0}
        for check in checks
    ]


def _document(policy: str, seen: Observations | None, rows: list[Row], started: float) -> dict[str, Any]:
    return {
        "policy": policy,
        "observations": None if seen is None else seen.to_dict(),
        "checks": rows,
        "seconds": round(time.perf_counter() - started, 2),
    }
