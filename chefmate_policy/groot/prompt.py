# SPDX-License-Identifier: Apache-2.0
"""The prompt: the one function that training, inference and every measurement use.

A chat of one system and one user turn, in Qwen's format. The user turn holds, per camera, the words
`<image N>` and the image's tokens, then the instruction, with nothing between. Images stand before the words,
so under causal attention they cannot depend on them; `INSTRUCTION_FIRST` turns that round for fine-tunes that
train the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import torch
from torch import Tensor

from chefmate_policy.groot.errors import InputError
from chefmate_policy.groot.tokenizer import GrootTokenizer

__all__ = ["Prompt", "PromptForm", "Prompts", "pad_left"]

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
USER, END, ANSWER = "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"


class PromptForm(str, Enum):
    """How the instruction is put; recorded in the checkpoint."""

    PLAIN = "plain"  # images, then the words: what the reference trains on
    REFERENCE_SERVER = "reference_server"  # the words as a printed list, as its server since 2025-09
    INSTRUCTION_FIRST = "instruction_first"  # words, then images

    @classmethod
    def of(cls, name: str) -> PromptForm:
        """By its name in parameters and files. Raises InputError with the names that exist."""
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(form.value for form in cls)
            raise InputError(f"prompt {name!r} does not exist; use one of: {known}") from None


@dataclass(frozen=True)
class Prompt:
    """One prompt as token ids, image tokens included."""

    ids: tuple[int, ...]
    words: range
    """Where the instruction's own tokens are."""


class Prompts:
    """Prompts for one tokenizer, number of image tokens and form; remembers those already made."""

    def __init__(
        self, tokenizer: GrootTokenizer, tokens_per_image: int, form: PromptForm = PromptForm.PLAIN
    ) -> None:
        self.tokenizer, self.tokens_per_image, self.form = tokenizer, tokens_per_image, form
        self._remembered = lru_cache(maxsize=4096)(self._build)

    def prompt(self, instruction: str | None, cameras: int) -> Prompt:
        """The prompt of an instruction with so many images.

        None is the null prompt: one reserved token in place of the words, which says that nothing is said
        (the empty instruction says "do nothing"). Raises InputError for an instruction that holds a control
        token.
        """
        return self._remembered(instruction, cameras)

    def _build(self, instruction: str | None, cameras: int) -> Prompt:
        if cameras < 1:
            raise InputError(f"a prompt needs at least one camera, got {cameras}")
        encode = self.tokenizer.encode
        words = self._words(instruction)
        images: list[int] = []
        for number in range(1, cameras + 1):
            images += encode(f"<image {number}>")
            images += self.tokenizer.image(self.tokens_per_image)
        before = encode(SYSTEM + USER)
        if self.form is not PromptForm.INSTRUCTION_FIRST:
            before += images
            images = []
        start = len(before)
        ids = [*before, *words, *images, *encode(END + ANSWER)]
        return Prompt(tuple(ids), range(start, start + len(words)))

    def _words(self, instruction: str | None) -> list[int]:
        if instruction is None:
            return [self.tokenizer.null_id]
        for token in self.tokenizer.control_tokens:
            if token in instruction:
                raise InputError(
                    f"the instruction {instruction[:80]!r} holds the control token {token!r}; say it in words"
                )
        if self.form is PromptForm.REFERENCE_SERVER:
            instruction = str([instruction])
        return self.tokenizer.encode(instruction)


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor | None]:
    """Prompts -> input_ids [B, L] int64 and attention_mask [B, L] int64, 0 at pads.

    None instead of the mask when all are of one length.
    """
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
        mask[row, longest - len(prompt) :] = 1
    return ids, None if bool(mask.all()) else mask
