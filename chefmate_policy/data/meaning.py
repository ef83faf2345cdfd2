# SPDX-License-Identifier: Apache-2.0
"""What an instruction asks for, so that its paraphrases count as one."""

from __future__ import annotations

import re

from chefmate_policy.expert.language import parse_instruction

__all__ = ["IDLE", "meaning_of"]

IDLE = "idle"
REFUSALS = ("the instruction is empty", "told not to", "told to stay")


def meaning_of(text: str) -> str:
    """`pick <ingredient>` or `idle` by the expert's rules; what these do not know is taken by its words, in
    lower case and without punctuation."""
    intent = parse_instruction(text)
    if intent.ingredient is not None:
        return f"pick {intent.ingredient}"
    if intent.reason in REFUSALS:
        return IDLE
    return " ".join(re.findall(r"\w+", text.lower()))
