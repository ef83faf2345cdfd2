# SPDX-License-Identifier: Apache-2.0
"""What is said to the policy in a scene. Each function takes a setting and a generator and gives a text, or
whole asks with what is right after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import Scene, Stock
from chefmate_policy.obedience.cells import BREAD, CHEESE, Cell
from chefmate_policy.obedience.trial import NODE, NULL, Ask

__all__ = ["Asks", "Kitchen", "Says", "Setting", "Text"]

RECIPE = "recipe"  # phrasing of the recipes, and of the seeds
SEEDS_NAMES = {
    CHEESE: "yellow",
    BREAD: "bread",
}  # "pick up the yellow cheese and put it into the white plate"
CHANGE = (0.8, 2.0)  # s after the first instruction: the arm is under way and has touched nothing yet
BANANA = ("banana",)
NEVER_NAMED = (
    "pineapple",
    "garlic",
    "hammer",
    "candle",
    "doughnut",
    "walnut",
)  # not in config/phrasings.yaml
NONSENSE = ("blorp the fizzen grumble", "seven loud clouds tomorrow", "xqzt vrrm 4417 %%", "la la la la la")
CONTRADICTIONS = (
    "pick up the {name} and do not pick up the {name}",
    "put the {name} on the plate and leave the {name} in the tray",
    "do not touch the {name}, never move the {name}, and bring the {name} to the plate",
)


@dataclass(frozen=True)
class Kitchen:
    """What there is and how it is talked of."""

    kinds: tuple[str, ...]
    stock: Stock
    phrasings: Phrasings

    @property
    def distractors(self) -> tuple[str, ...]:
        """What is neither cheese nor bread."""
        return tuple(kind for kind in self.kinds if kind not in (CHEESE, BREAD))


@dataclass(frozen=True)
class Setting:
    """A scene and what the talk in it is of: an ingredient, and another one."""

    scene: Scene
    named: str
    other: str
    kitchen: Kitchen
    cell: Cell | None = None

    def target(self, ingredient: str) -> str:
        """What ought to be moved where the words ask for an ingredient: itself if it stands in the holder,
        else nothing."""
        return ingredient if ingredient in self.scene.standing else ""


Asks = tuple[tuple[float, Ask], ...]
Text = Callable[[Setting, np.random.Generator], str]
Says = Callable[[Setting, np.random.Generator, str], Asks]
"""From setting, generator and the row's id to what is said when."""


# --- whole asks ---------------------------------------------------------------------------------------------


def asking(text: Text, *, other: bool = False) -> Says:
    """One sentence that asks for the named ingredient, or for the other one."""

    def says(setting: Setting, rng: np.random.Generator, row: str) -> Asks:
        kind = setting.other if other else setting.named
        return ((0.0, Ask(text(setting, rng), row, setting.target(kind), named=kind)),)

    return says


def idling(text: Text, *, names: bool = False) -> Says:
    """One sentence after which nothing is to be done. names: it speaks of the named ingredient."""

    def says(setting: Setting, rng: np.random.Generator, row: str) -> Asks:
        return ((0.0, Ask(text(setting, rng), row, "", named=setting.named if names else "")),)

    return says


def changing(second: Callable[[Setting, np.random.Generator, str], Ask]) -> Says:
    """The named ingredient is asked for, and in mid-reach something else is said."""

    def says(setting: Setting, rng: np.random.Generator, row: str) -> Asks:
        kind = setting.named
        first = Ask(usual(setting, rng), row, setting.target(kind), named=kind)
        return ((0.0, first), (round(float(rng.uniform(*CHANGE)), 2), second(setting, rng, row)))

    return says


def missing(setting: Setting, rng: np.random.Generator, row: str) -> Asks:
    """An ingredient of the kitchen that is nowhere in this scene."""
    kinds = nowhere(setting)
    kind = kinds[int(rng.integers(len(kinds)))]
    text = _drawn(rng, [sentence.text for sentence in setting.kitchen.phrasings.picks(kind)])
    return ((0.0, Ask(text, row, "", named=kind)),)


def unsaid(setting: Setting, rng: np.random.Generator, row: str) -> Asks:
    """The null prompt. What would have been named is noted, for comparison."""
    return ((0.0, Ask("", row, setting.target(setting.named), NULL, setting.named)),)


def the_other(setting: Setting, rng: np.random.Generator, row: str) -> Ask:
    """Second part of a change: the other ingredient."""
    kind = setting.other
    return Ask(usual_of(setting.kitchen, kind), row, setting.target(kind), named=kind)


def not_that(setting: Setting, rng: np.random.Generator, row: str) -> Ask:
    """Second part of a change: not the named one."""
    return Ask(negated(setting, rng), row, "", named=setting.named)


def stop(setting: Setting, rng: np.random.Generator, row: str) -> Ask:
    """Second part of a change: the node's stop."""
    return Ask("", row, "", NODE)


# --- texts --------------------------------------------------------------------------------------------------


def usual_of(kitchen: Kitchen, kind: str) -> str:
    """The recipes' sentence of an ingredient; of cheese and bread it is the seeds', word for word."""
    names = kitchen.phrasings.names[kind]
    name = names.get(SEEDS_NAMES.get(kind, ""), next(iter(names.values())))
    return kitchen.phrasings.pick[RECIPE].format(name=name)


def usual(setting: Setting, rng: np.random.Generator) -> str:
    """The recipes' sentence of the named ingredient."""
    return usual_of(setting.kitchen, setting.named)


def usual_other(setting: Setting, rng: np.random.Generator) -> str:
    """The recipes' sentence of the other ingredient."""
    return usual_of(setting.kitchen, setting.other)


def seen(setting: Setting, rng: np.random.Generator) -> str:
    """A sentence of training about the named ingredient."""
    return _drawn(rng, [sentence.text for sentence in setting.kitchen.phrasings.picks(setting.named)])


def seen_other(setting: Setting, rng: np.random.Generator) -> str:
    """A sentence of training about the other ingredient."""
    return _drawn(rng, [sentence.text for sentence in setting.kitchen.phrasings.picks(setting.other)])


def paraphrased(setting: Setting, rng: np.random.Generator) -> str:
    """A sentence of training that is not the recipes'."""
    sentences = [sentence.text for sentence in setting.kitchen.phrasings.picks(setting.named)]
    return _drawn(rng, [text for text in sentences if text != usual(setting, rng)])


def recased(setting: Setting, rng: np.random.Generator) -> str:
    """The recipes' sentence in other letters."""
    text = usual(setting, rng)
    return _drawn(rng, [text.upper(), text.title(), text.capitalize(), text.swapcase()])


def mispunctuated(setting: Setting, rng: np.random.Generator) -> str:
    """The recipes' sentence with other blanks and marks."""
    text = usual(setting, rng)
    return _drawn(rng, [f"{text}!!!", f"  {text.replace(' ', '  ')} ...", f"...{text}??", f'"{text}".'])


def negated(setting: Setting, rng: np.random.Generator) -> str:
    """A sentence of training that forbids the named ingredient."""
    return _drawn(rng, [sentence.text for sentence in setting.kitchen.phrasings.negations(setting.named)])


def seeds_negation(setting: Setting, rng: np.random.Generator) -> str:
    """The seeds' Test 2, word for word."""
    return f"do not pick up the {setting.named}"


def contradictory(setting: Setting, rng: np.random.Generator) -> str:
    """Asks for the named ingredient and forbids it."""
    return _drawn(rng, CONTRADICTIONS).format(name=setting.named)


def nonsense(setting: Setting, rng: np.random.Generator) -> str:
    """Words that ask for nothing."""
    return _drawn(rng, NONSENSE)


def empty(setting: Setting, rng: np.random.Generator) -> str:
    """No words."""
    return ""


def things(names: Sequence[str]) -> Text:
    """The recipes' sentence about something that the kitchen does not have."""

    def text(setting: Setting, rng: np.random.Generator) -> str:
        return setting.kitchen.phrasings.pick[RECIPE].format(name=_drawn(rng, names))

    return text


def composition(setting: Setting, rng: np.random.Generator) -> str:
    """A held-out composition of a sentence and the named ingredient."""
    return _said(setting, rng, compositions(setting))


def unseen_sentence(setting: Setting, rng: np.random.Generator) -> str:
    """A held-out sentence about the named ingredient."""
    return _said(setting, rng, unseen_sentences(setting))


def unseen_name(setting: Setting, rng: np.random.Generator) -> str:
    """The recipes' sentence with a held-out name of the named ingredient."""
    return setting.kitchen.phrasings.pick[RECIPE].format(name=_drawn(rng, unseen_names(setting)))


# --- what there is to be said -------------------------------------------------------------------------------


def nowhere(setting: Setting) -> tuple[str, ...]:
    """Ingredients of the kitchen that are neither in the tray nor on the plate."""
    there = {*setting.scene.slots, *setting.scene.plate}
    return tuple(kind for kind in setting.kitchen.kinds if kind not in there)


def compositions(setting: Setting) -> tuple[str, ...]:
    """Sentences that training never had with the named ingredient, though with others."""
    table = setting.kitchen.phrasings
    pairs = table.held_out.compositions
    return tuple(sorted(key for key, kind in pairs if kind == setting.named and key in table.pick))


def unseen_sentences(setting: Setting) -> tuple[str, ...]:
    """Sentences that training never had."""
    table = setting.kitchen.phrasings
    return tuple(sorted(table.held_out.phrasings & set(table.pick)))


def unseen_names(setting: Setting) -> tuple[str, ...]:
    """Names of the named ingredient that training never had."""
    return _names(setting, held_out=True)


def _names(setting: Setting, held_out: bool) -> tuple[str, ...]:
    table, kind = setting.kitchen.phrasings, setting.named
    names = table.names[kind].items()
    return tuple(name for key, name in names if (f"{kind}/{key}" in table.held_out.names) is held_out)


def _said(setting: Setting, rng: np.random.Generator, sentences: Sequence[str]) -> str:
    name = _drawn(rng, _names(setting, held_out=False))
    return setting.kitchen.phrasings.pick[_drawn(rng, sentences)].format(name=name)


def _drawn(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
