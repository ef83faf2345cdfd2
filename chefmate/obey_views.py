# SPDX-License-Identifier: Apache-2.0
"""Observations for the offline checks, from the twin: layouts of the kitchen, how the expert begins there.

As for `chefmate.demonstrations`, `chefmate_driver.kitchen.render.import_mujoco` must have chosen the
renderer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from chefmate.demonstrations import Studio
from chefmate_driver.arm.model import JOINT_NAMES
from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import Scene, SceneOptions, Stock, draw_scene, twin_seed
from chefmate_policy.obedience.observations import Demonstrated, Observations, View
from chefmate_policy.units import JointUnits

__all__ = ["SEED", "from_twin"]

SEED = 7_001  # of the layouts: far from those that data are made with (`chefmate data generate --seed`)
RATE = 10  # Hz of demonstrations whose steps are then laid on the checkpoint's rate


def from_twin(
    units: JointUnits,
    size: tuple[int, int],
    fps: float,
    horizon: int,
    *,
    layouts: int = 12,
    seed: int = SEED,
    report: Callable[[str], None] = lambda line: None,
) -> Observations:
    """Layouts of two slices or more, each with the expert's first `horizon` steps for every ingredient that
    stands there, and for one negation.

    units: of the checkpoint's joints. size: width and height of its cameras. fps: of its steps. A layout has
    one sentence, into which each ingredient's name is put. Raises KitchenError: no graphics.
    """
    kitchen = KitchenConfig.load()
    phrasings = Phrasings.load()
    options = SceneOptions(tuple(kitchen.stock), stacked=0.0)
    stock = Stock(kitchen.tray.slots, dict(kitchen.stock))
    views = []
    with (
        contextlib.closing(Studio(kitchen, size=size)) as camera,
        contextlib.closing(Studio(kitchen, fps=RATE, pictures=False)) as stage,
    ):
        for number in range(layouts):
            scene = draw_scene(twin_seed(seed, number), number, options, stock, phrasings)
            camera.arrange(scene)
            images = camera.pictures()
            state = units.values(camera.world.joint_positions[units.order(JOINT_NAMES)])
            views.append(_view(scene, number, images, state, stage, phrasings, units, fps, horizon))
            report(f"{number + 1} of {layouts} layouts of the twin")
    return Observations("twin", tuple(views), fps, seed=seed)


def _view(
    scene: Scene,
    number: int,
    images: dict[str, np.ndarray],
    state: np.ndarray,
    stage: Studio,
    phrasings: Phrasings,
    units: JointUnits,
    fps: float,
    horizon: int,
) -> View:
    random = np.random.default_rng([scene.layout, 9])
    kinds = list(phrasings.names)
    common = sorted(
        set.intersection(*({sentence.phrasing for sentence in phrasings.picks(kind)} for kind in kinds))
    )
    phrasing = common[number % len(common)]
    texts = {}
    for kind in kinds:
        said = [sentence.text for sentence in phrasings.picks(kind) if sentence.phrasing == phrasing]
        texts[kind] = said[int(random.integers(len(said)))]
    refused = phrasings.negations(scene.standing[0])
    told = [(texts[kind], kind) for kind in scene.standing]
    told.append((refused[int(random.integers(len(refused)))].text, ""))
    seconds = horizon / fps
    times = np.arange(horizon) / fps
    demonstrated = []
    for text, label in told:
        begun = stage.opening(scene, text, np.ceil(seconds * RATE) / RATE + 1 / RATE)
        actions = units.values(begun.actions[:, units.order(JOINT_NAMES)])
        known = np.arange(len(actions)) / RATE
        laid = np.stack([np.interp(times, known, column) for column in actions.T], axis=1)
        demonstrated.append(Demonstrated(text, label, laid))
    asked = tuple((text, kind) for kind, text in texts.items())
    return View(str(scene.layout), images, state, asked, tuple(demonstrated))
