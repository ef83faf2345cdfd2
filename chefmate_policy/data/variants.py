# SPDX-License-Identifier: Apache-2.0
"""Which scenes are arranged and what is said in each: a function of options and layout number alone.

Counterfactual by construction: the scene, its look and the arm's start are drawn from the layout, and each
instruction that makes sense is recorded from there. So nothing before the first motion tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from chefmate_policy.data.phrasings import STYLES, PhrasingError, Phrasings, Sentence

__all__ = ["Kick", "Scene", "SceneOptions", "Stock", "Variant", "draw_scene", "draw_variants", "twin_seed"]

LAYOUTS_PER_SEED = 100_000  # seeds of the twin that one seed of a dataset owns
DEPTHS = (
    0.5,
    0.25,
    0.15,
    0.10,
)  # share of layouts with that many slices on the plate, of those with `stacked`
BREAD_BELOW = 0.8  # share of stacks that begin with bread, as sandwiches do
SECOND_SLICE = 0.3  # share of layouts with a second slice of what the kitchen has twice
TRIES = 1000

# Where the arm starts: rest of the twin, pose after a step, config/arm.yaml's home_pose; rad, with shares.
STARTS: Mapping[str, tuple[float, tuple[float, ...]]] = {
    "rest": (0.35, (0.0, -1.55, 1.45, 0.75, 0.0, 0.0)),
    "ready": (0.50, (0.0, -0.954, 0.505, 1.060, 0.048, 0.30)),
    "home": (0.15, (0.0, -1.45, 1.1, 1.15, 0.048, 0.15)),
}
GRIPPER_SPREAD = 2.0  # times the spread of a joint


@dataclass(frozen=True)
class Stock:
    """What the kitchen has: slots of the tray, slices by ingredient."""

    slots: int
    slices: Mapping[str, int]


@dataclass(frozen=True)
class SceneOptions:
    """How scenes are drawn.

    one_ingredient: one slice in the tray and its instruction alone (what cannot teach language). phrasings:
    instructions per named ingredient. idle: episodes per layout in which nothing is to be done. switches:
    times per layout that the instruction changes in mid-reach. stacked: share of layouts that may have
    slices on the plate. start_spread: rad, half-width of the start pose's joints. kicked: share of episodes
    with a disturbance of up to `kick` rad. driven: share of episodes before which a policy drives for a
    while (up to `driven_seconds`), so that the expert shows what to do where that policy gets. restyled:
    share of episodes whose sentence is in other letters, or with other marks and blanks (phrasings.STYLES).
    """

    ingredients: tuple[str, ...]
    one_ingredient: bool = False
    phrasings: int = 1
    idle: int = 2
    switches: int = 0
    stacked: float = 0.5
    start_spread: float = 0.04
    kicked: float = 0.0
    kick: float = 0.12
    driven: float = 0.0
    driven_seconds: float = 10.0
    restyled: float = 0.0

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("stacked", "kicked", "driven", "restyled")}
        wrong = {name: value for name, value in shares.items() if not 0.0 <= value <= 1.0}
        counts = {name: getattr(self, name) for name in ("idle", "switches")}
        wrong |= {name: value for name, value in counts.items() if value < 0}
        widths = {name: getattr(self, name) for name in ("start_spread", "kick")}
        wrong |= {name: value for name, value in widths.items() if not 0.0 <= value <= 0.5}
        wrong |= {} if self.phrasings >= 1 else {"phrasings": self.phrasings}
        if wrong:
            name, value = next(iter(wrong.items()))
            raise PhrasingError(
                f"{name} is {value}; shares are 0..1, counts from 0, phrasings from 1, widths 0..0.5 rad"
            )

    def to_dict(self) -> dict[str, Any]:
        """For files."""
        return asdict(self)


@dataclass(frozen=True)
class Scene:
    """One arrangement. slots: ingredient of each slot ("" is empty); plate: lowest first; start [6] rad."""

    layout: int  # seed of the twin
    slots: tuple[str, ...]
    plate: tuple[str, ...]
    start: tuple[float, ...]
    start_name: str

    @property
    def standing(self) -> tuple[str, ...]:
        """Ingredients in the tray, each once, in the order of the slots."""
        return tuple(dict.fromkeys(kind for kind in self.slots if kind))


@dataclass(frozen=True)
class Kick:
    """A disturbance that the expert does not know of: `offset` [6] rad on the goals, swelling and fading."""

    start: float  # s
    duration: float  # s
    offset: tuple[float, ...]


@dataclass(frozen=True)
class Variant:
    """One episode of a scene.

    kind: pick, absent, negated, unknown or empty; all but pick are idle. ingredient: what is to lie on the
    plate at the end; "" nothing. prelude: what is obeyed, unrecorded, for `prelude_seconds` before.
    driven: s for which a policy drives before, unrecorded.
    """

    number: int
    kind: str
    ingredient: str
    sentence: Sentence
    prelude: str = ""
    prelude_seconds: float = 0.0
    kick: Kick | None = None
    driven: float = 0.0

    @property
    def meaning(self) -> str:
        """The same for all that ask for the same: "pick cheese", "idle"."""
        return f"pick {self.ingredient}" if self.ingredient else "idle"


def twin_seed(seed: int, index: int) -> int:
    """The twin's seed of a dataset's layout: no two datasets of different seeds share one.

    Raises PhrasingError: numbers out of range.
    """
    if seed < 0 or not 0 <= index < LAYOUTS_PER_SEED:
        raise PhrasingError(
            f"layout {index} of seed {seed}: seeds start at 0 and have {LAYOUTS_PER_SEED} layouts each"
        )
    return seed * LAYOUTS_PER_SEED + index


def draw_scene(layout: int, index: int, options: SceneOptions, stock: Stock, phrasings: Phrasings) -> Scene:
    """The scene of a layout. index: number in the dataset, by which one-ingredient scenes take turns.

    Raises PhrasingError: an ingredient that the kitchen lacks, or no slot is left by what is held out.
    """
    strange = [kind for kind in options.ingredients if kind not in stock.slices]
    if strange or not options.ingredients:
        raise PhrasingError(
            f"ingredients {', '.join(strange) or '(none)'}: the kitchen has {', '.join(stock.slices)}"
        )
    rng = np.random.default_rng([layout, 7])
    plate: list[str] = []
    if options.one_ingredient:
        tray = [options.ingredients[index % len(options.ingredients)]]
    else:
        left = {kind: stock.slices[kind] for kind in options.ingredients}
        if rng.random() < options.stacked:
            plate = _stack(rng, left)
        tray = _tray(rng, left, stock.slots)
    slots = _fill(rng, tray, stock.slots, phrasings)
    names = list(STARTS)
    name = names[int(rng.choice(len(names), p=[STARTS[key][0] for key in names]))]
    pose = np.array(STARTS[name][1])
    width = np.full(6, options.start_spread)
    width[5] *= GRIPPER_SPREAD
    pose += rng.uniform(-width, width)
    pose[5] = max(pose[5], 0.0)
    return Scene(layout, slots, tuple(plate), tuple(float(value) for value in pose), name)


def draw_variants(scene: Scene, options: SceneOptions, phrasings: Phrasings) -> tuple[Variant, ...]:
    """What is recorded in a scene: each ingredient of the tray named, idle episodes, switches."""
    rng = np.random.default_rng([scene.layout, 8])
    found: list[tuple[str, str, Sentence, str, float]] = []
    for kind in scene.standing:
        for sentence in _some(rng, phrasings.picks(kind), options.phrasings):
            found.append(("pick", kind, sentence, "", 0.0))
    if not options.one_ingredient:
        for kind, sentence in _idle(rng, scene, options, phrasings):
            found.append((kind, "", sentence, "", 0.0))
        for _ in range(options.switches):
            first = scene.standing[int(rng.integers(len(scene.standing)))]
            prelude, seconds = _one(rng, phrasings.picks(first)).text, float(rng.uniform(0.8, 5.0))
            for kind in scene.standing:
                found.append(("pick", kind, _one(rng, phrasings.picks(kind)), prelude, seconds))
            found.append(("negated", "", _one(rng, phrasings.negations(first)), prelude, seconds))
    variants, leads = [], np.random.default_rng([scene.layout, 9])
    for number, (kind, ingredient, sentence, prelude, seconds) in enumerate(found):
        kick = _kick(rng, options) if ingredient else None
        share, length = leads.random(2)
        driven = options.driven_seconds * float(length) if share < options.driven and not prelude else 0.0
        said = _restyled(scene, number, sentence, options)
        variants.append(Variant(number, kind, ingredient, said, prelude, seconds, kick, driven))
    return tuple(variants)


def _restyled(scene: Scene, number: int, sentence: Sentence, options: SceneOptions) -> Sentence:
    rng = np.random.default_rng([scene.layout, 10, number])
    if not sentence.text or rng.random() >= options.restyled:
        return sentence
    styles = list(STYLES.values())
    return replace(sentence, text=styles[int(rng.integers(len(styles)))](sentence.text))


def _stack(rng: np.random.Generator, left: dict[str, int]) -> list[str]:
    """Slices on the plate; takes them out of `left`, but never all that there is."""
    depth = int(rng.choice(len(DEPTHS), p=DEPTHS))
    plate: list[str] = []
    for layer in range(depth):
        kinds = [kind for kind, count in left.items() if count]
        if sum(left.values()) < 2:
            break
        below = layer == 0 and left.get("bread", 0) and rng.random() < BREAD_BELOW
        kind = "bread" if below else kinds[int(rng.integers(len(kinds)))]
        left[kind] -= 1
        plate.append(kind)
    return plate


def _tray(rng: np.random.Generator, left: Mapping[str, int], slots: int) -> list[str]:
    """Two or more kinds where there are; sometimes two slices of one."""
    kinds = [kind for kind, count in left.items() if count]
    most = min(len(kinds), slots)
    count = int(rng.integers(min(2, most), most + 1))
    tray = [kinds[int(i)] for i in rng.permutation(len(kinds))[:count]]
    twice = [kind for kind in tray if left[kind] > 1]
    if twice and len(tray) < slots and rng.random() < SECOND_SLICE:
        tray.append(twice[int(rng.integers(len(twice)))])
    return tray


def _fill(rng: np.random.Generator, tray: Sequence[str], count: int, phrasings: Phrasings) -> tuple[str, ...]:
    held_out = phrasings.held_out.pairs
    for _ in range(TRIES):
        order = rng.permutation(count)[: len(tray)]
        if all((kind, int(slot)) not in held_out for kind, slot in zip(tray, order, strict=True)):
            slots = [""] * count
            for kind, slot in zip(tray, order, strict=True):
                slots[int(slot)] = kind
            return tuple(slots)
    raise PhrasingError(f"no arrangement of {', '.join(tray)} in {count} slots avoids what is held out")


def _idle(
    rng: np.random.Generator, scene: Scene, options: SceneOptions, phrasings: Phrasings
) -> list[tuple[str, Sentence]]:
    """Idle instructions, of as many different kinds as there are."""
    absent = [kind for kind in options.ingredients if kind not in scene.standing]
    kinds = ["negated", "unknown", "empty", *(["absent"] if absent else [])]
    order = [kinds[int(i)] for i in rng.permutation(len(kinds))]
    chosen = []
    for number in range(options.idle):
        kind = order[number % len(order)]
        if kind == "negated":
            named = scene.standing[int(rng.integers(len(scene.standing)))]
            chosen.append((kind, _one(rng, phrasings.negations(named))))
        elif kind == "absent":
            named = absent[int(rng.integers(len(absent)))]
            chosen.append((kind, _one(rng, phrasings.picks(named))))
        elif kind == "unknown":
            chosen.append((kind, _one(rng, phrasings.unknowns())))
        else:
            chosen.append((kind, Sentence("")))
    return chosen


def _kick(rng: np.random.Generator, options: SceneOptions) -> Kick | None:
    drawn, start = rng.random(), float(rng.uniform(0.4, 7.0))
    offset = rng.uniform(-options.kick, options.kick, 6)
    offset[5] *= GRIPPER_SPREAD
    if drawn >= options.kicked:
        return None
    return Kick(start, 0.5, tuple(float(value) for value in offset))


def _one(rng: np.random.Generator, sentences: Sequence[Sentence]) -> Sentence:
    return sentences[int(rng.integers(len(sentences)))]


def _some(rng: np.random.Generator, sentences: Sequence[Sentence], count: int) -> list[Sentence]:
    return [sentences[int(i)] for i in rng.permutation(len(sentences))[:count]]
