# SPDX-License-Identifier: Apache-2.0
"""What a sentence asks for, by rules. The expert's ear: it obeys what it understands and does nothing
otherwise."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ["Intent", "parse_instruction"]

WORDS: Mapping[str, str] = {
    "bread": "bread",
    "breads": "bread",
    "toast": "bread",
    "cheese": "cheese",
    "cheddar": "cheese",
    "patty": "patty",
    "burger": "patty",
    "lettuce": "lettuce",
    "salad": "lettuce",
    "tomato": "tomato",
    "tomatoes": "tomato",
}
VERBS = frozenset("pick grab take get fetch grasp lift put place lay bring move add set drop give".split())
NEGATIONS = frozenset(
    "not never no nothing none nobody neither nor avoid cannot forbid forbids forbidden prohibited refuse "
    "refuses refused refrain unable leave ignore skip keep "
    "dont cant wont mustnt shouldnt neednt doesnt didnt couldnt wouldnt".split()
)
CONTRACTED = "n't"  # don't, can't, mustn't, ...
WITHOUT = re.compile(r"\b(?:without|except|excepting|excluding|apart from|other than|rather than)\b")
# "off the white plate", "from the plate", "take it off"; but not "from the tray to the plate".
OFF_THE_PLATE = re.compile(
    r"\b(?:off|from|out of)(?:\s+(?!(?:and|on|onto|in|into|to)\b)[a-z']+){0,4}?\s+plate\b"
    r"|\boff\b(?!\s+(?:of|the|a|an|its|your|my|this|that)\b)|\baway\b"
)
# The plate is what is to be moved: "put the plate on the bread".
PLATE_ITSELF = re.compile(
    rf"\b(?:{'|'.join(sorted(VERBS))})"
    r"(?:\s+(?:up|down|the|a|an|this|that|your|my|white|empty|whole)){0,4}\s+plate\b"
)
CLAUSE_END = re.compile(r"[.;!?,]|\bbut\b|\binstead\b|\bthen\b|\bjust\b")
STAY = re.compile(r"\b(stay|remain|wait|stop|idle|hold still|stand still)\b")


@dataclass(frozen=True)
class Intent:
    """ingredient: what to put on the plate; None: nothing is to be done, `reason` says why."""

    ingredient: str | None
    reason: str


def parse_instruction(text: str, known: Collection[str] | None = None) -> Intent:
    """Reads one instruction. known: ingredients that exist at all; None: those of WORDS.

    The first clause that tells to pick or place a known ingredient decides, if it neither forbids it nor asks
    for it to leave the plate. What follows "without" or "except" is left alone.
    """
    lowered = text.lower().replace("\u2019", "'").strip()
    if not lowered:
        return Intent(None, "the instruction is empty")
    reason = "no ingredient that is known was named"
    for whole in CLAUSE_END.split(lowered):
        clause, *unwanted = WITHOUT.split(whole)
        words = re.findall(r"[a-z']+", clause)
        named = [WORDS[word] for word in words if word in WORDS]
        if known is not None:
            named = [name for name in named if name in known]
            named += [word for word in words if word in known and word not in WORDS]
        told = any(word in VERBS for word in words)
        if any(word in NEGATIONS or word.endswith(CONTRACTED) for word in words):
            if named or told:
                reason = "told not to"
            continue
        if STAY.search(clause):
            reason = "told to stay"
            continue
        if not named:
            if unwanted:
                reason = "told what to leave alone"
            continue
        if not told:
            reason = f"{named[0]} was named, and nothing to do with it"
            continue
        if OFF_THE_PLATE.search(clause) or PLATE_ITSELF.search(clause):
            reason = f"{named[0]} was named, but not asked onto the plate"
            continue
        return Intent(named[0], f"told to pick {named[0]}")
    return Intent(None, reason)
