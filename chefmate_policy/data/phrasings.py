# SPDX-License-Identifier: Apache-2.0
"""The sentences of generated demonstrations: config/phrasings.yaml, checked, without what is held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chefmate_policy.errors import PolicyError
from chefmate_policy.expert.language import parse_instruction
from chefmate_ros.share import share_file

__all__ = ["STYLES", "HeldOut", "PhrasingError", "Phrasings", "Sentence"]

GROUPS = ("pick", "negated")
# How people type the same sentence.
STYLES: Mapping[str, Callable[[str], str]] = {
    "upper": str.upper,
    "title": str.title,
    "capital": str.capitalize,
    "stop": lambda text: f"{text.capitalize()}.",
    "cry": lambda text: f"{text}!",
    "blanks": lambda text: f" {text.replace(' ', '  ')}",
}


class PhrasingError(PolicyError):
    """The table of phrasings, or a list of what is held out, is not what it must be."""


@dataclass(frozen=True)
class Sentence:
    """One instruction. phrasing: id of the sentence; naming: INGREDIENT/NAME or unknown/NAME."""

    text: str
    phrasing: str = ""
    naming: str = ""


@dataclass(frozen=True)
class HeldOut:
    """What a dataset leaves out, parsed. Entries as in config/phrasings.yaml."""

    entries: tuple[str, ...] = ()
    phrasings: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    compositions: frozenset[tuple[str, str]] = frozenset()
    pairs: frozenset[tuple[str, int]] = frozenset()

    def allows(self, phrasing: str, ingredient: str, naming: str) -> bool:
        """Whether a sentence may be said."""
        return (
            phrasing not in self.phrasings
            and naming not in self.names
            and (phrasing, ingredient) not in self.compositions
        )


@dataclass(frozen=True)
class Phrasings:
    """The table. names: ingredient -> id -> words; pick, negated: id -> sentence; unknown: id -> words."""

    names: Mapping[str, Mapping[str, str]]
    pick: Mapping[str, str]
    negated: Mapping[str, str]
    unknown: Mapping[str, str]
    held_out: HeldOut

    @classmethod
    def load(cls, path: Path | None = None, held_out: Sequence[str] | None = None) -> Phrasings:
        """Reads a table; None: the project's own. held_out replaces the table's list.

        Raises PhrasingError: malformed, a sentence that the expert does not take as it is meant, an entry of
        the list that names nothing.
        """
        file = path or share_file("config", "phrasings.yaml")
        try:
            raw = yaml.safe_load(file.read_text(encoding="utf-8"))
            table = cls(
                names={str(kind): _words(entry) for kind, entry in raw["names"].items()},
                pick=_words(raw["pick"]),
                negated=_words(raw["negated"]),
                unknown=_words(raw["unknown"]),
                held_out=HeldOut(),
            )
            entries = tuple(map(str, raw.get("held_out", ()))) if held_out is None else tuple(held_out)
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise PhrasingError(f"the phrasings {file} cannot be read: {error!r}") from None
        try:
            table._check()
            return cls(table.names, table.pick, table.negated, table.unknown, table._parse(entries))
        except PhrasingError as error:
            raise PhrasingError(f"{file}: {error}") from None

    def picks(self, ingredient: str) -> tuple[Sentence, ...]:
        """All sentences that may be said to have an ingredient put onto the plate.

        Raises PhrasingError: there is none.
        """
        return self._sentences(self.pick, ingredient)

    def negations(self, ingredient: str) -> tuple[Sentence, ...]:
        """All sentences that may be said to have an ingredient left alone. Raises PhrasingError: none."""
        return self._sentences(self.negated, ingredient)

    def unknowns(self) -> tuple[Sentence, ...]:
        """All sentences that ask for what the kitchen does not have."""
        return tuple(
            Sentence(template.format(name=words), phrasing, f"unknown/{key}")
            for phrasing, template in self.pick.items()
            for key, words in self.unknown.items()
            if self.held_out.allows(phrasing, key, f"unknown/{key}")
        )

    def only(self, phrasings: Sequence[str]) -> Phrasings:
        """With these sentences of `pick` alone. Raises PhrasingError: one that does not exist."""
        strange = [key for key in phrasings if key not in self.pick]
        if strange:
            raise PhrasingError(f"there is no phrasing {strange[0]!r}; there are {', '.join(self.pick)}")
        kept = {key: self.pick[key] for key in phrasings}
        return Phrasings(self.names, kept, self.negated, self.unknown, self.held_out)

    def _sentences(self, group: Mapping[str, str], ingredient: str) -> tuple[Sentence, ...]:
        if ingredient not in self.names:
            raise PhrasingError(f"there are no names of {ingredient!r}; there are of {', '.join(self.names)}")
        found = tuple(
            Sentence(template.format(name=words), phrasing, f"{ingredient}/{key}")
            for phrasing, template in group.items()
            for key, words in self.names[ingredient].items()
            if self.held_out.allows(phrasing, ingredient, f"{ingredient}/{key}")
        )
        if not found:
            raise PhrasingError(f"every sentence about {ingredient!r} is held out")
        return found

    def _check(self) -> None:
        """That each sentence means to the expert what its group says."""
        doubles = set(self.pick) & set(self.negated)
        if doubles:
            raise PhrasingError(f"id {sorted(doubles)[0]!r} is a sentence of pick and of negated")
        for group in GROUPS:
            for key, template in getattr(self, group).items():
                if template.count("{name}") != 1:
                    raise PhrasingError(f"{group}.{key}: {template!r} needs one {{name}}")
                for kind, names in self.names.items():
                    for words in names.values():
                        text = template.format(name=words)
                        wanted = kind if group == "pick" else None
                        meant = parse_instruction(text, set(self.names)).ingredient
                        if meant != wanted:
                            raise PhrasingError(
                                f"{group}.{key}: the expert takes {text!r} for {meant}, not for {wanted}"
                            )
        for key, words in self.unknown.items():
            for template in self.pick.values():
                text = template.format(name=words)
                if (meant := parse_instruction(text, set(self.names)).ingredient) is not None:
                    raise PhrasingError(f"unknown.{key}: the expert takes {text!r} for {meant}")

    def _parse(self, entries: Sequence[str]) -> HeldOut:
        phrasings, names, compositions, pairs = set(), set(), set(), set()
        known = {*self.pick, *self.negated}
        for entry in entries:
            kind, _, rest = entry.partition("@")
            if rest.isdigit() and kind in self.names:
                pairs.add((kind, int(rest)))
                continue
            kind, _, rest = entry.partition("/")
            if rest in self.names.get(kind, ()):
                names.add(entry)
                continue
            phrasing, _, rest = entry.partition(":")
            if phrasing in known and not rest and ":" not in entry:
                phrasings.add(phrasing)
            elif phrasing in known and rest in self.names:
                compositions.add((phrasing, rest))
            else:
                raise PhrasingError(
                    f"held out: {entry!r} is no PHRASING, INGREDIENT/NAME, PHRASING:INGREDIENT or"
                    " INGREDIENT@SLOT of this table"
                )
        return HeldOut(
            tuple(entries), frozenset(phrasings), frozenset(names), frozenset(compositions), frozenset(pairs)
        )


def _words(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or not entry:
        raise PhrasingError(f"{entry!r} must be a table of ids and words")
    return {str(key): str(words) for key, words in entry.items()}
