# SPDX-License-Identifier: Apache-2.0
"""Makes the tokenizer of the small models: `python -m chefmate_policy.groot.small_tokenizer`.

Byte-level BPE, as Qwen's is: all 256 bytes are tokens, so that any text has ids and no text is unknown, and
every word of the tables below is one token. Equal tables give an equal file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from chefmate_policy.groot.prompt import ANSWER, END, SYSTEM, USER
from chefmate_policy.groot.tokenizer import IMAGE, IMAGE_END, IMAGE_START, NULL, PAD, SMALL
from chefmate_ros.share import SOURCE

__all__ = ["VOCABULARY_SIZE", "main", "train"]

VOCABULARY_SIZE = 1024  # ids; a quarter of a million parameters at a width of 256

# id = place in the list; `<|null|>` is the null prompt
CONTROL = (PAD, "<|im_start|>", "<|im_end|>", IMAGE, IMAGE_START, IMAGE_END, NULL[0])

# Begin a sentence, too: once more without the blank and once with a capital.
OPENING = """
pick grab take get fetch grasp lift put place lay bring move add set drop give stack slide push pull turn
leave keep hold stop wait stay do don't never please now first then next go return make build remove clear
clean open close no not only just the a
"""
WORDS = (
    """
up down in into on onto to from off of out over under above below behind beside between near at with without
and or but instead it its them this that these those is are there here again back away by for all both each
other another one two three four five last second third every any some none nothing anything
slice slices piece pieces bread breads toast cheese cheddar patty burger lettuce salad tomato tomatoes
sandwich food ingredient ingredients bun buns ham egg butter onion pickle cucumber
plate tray holder slot rack table board bowl box cup bin arm gripper hand
white yellow red green blue brown black orange dark light golden colored coloured round square thick thin
small large big left right middle center centre front rear top bottom side upper lower nearest farthest
closest object thing item cube block ball apple banana carrot lemon pear sponge spoon fork knife
still slowly carefully gently quickly empty full stacked lying standing resting touch release home
"""
    + OPENING
)

# A word takes the blank before it; digits stand alone; a contraction is split before its apostrophe.
SPLIT = r"'\p{L}+| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}']+|'|\s*\n|\s+(?!\S)|\s"


def corpus() -> Iterator[str]:
    """Every word by itself, in each of its forms, and what surrounds an instruction in the prompt."""
    yield from (f" {word}" for word in WORDS.split())
    for word in OPENING.split():
        yield from (word, word.capitalize())
    for number in range(1, 5):
        yield f"<image {number}>"
    for part in (SYSTEM, USER, END, ANSWER):
        for token in CONTROL:
            part = part.replace(token, "")
        yield part


def train() -> Tokenizer:
    """The tokenizer, made anew."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=1,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in CONTROL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def main() -> None:
    """Writes the file that the package ships."""
    parser = argparse.ArgumentParser(description="Write the tokenizer of the small models.")
    parser.add_argument(
        "--out", type=Path, default=SOURCE.joinpath(*SMALL), help="file (default: %(default)s)"
    )
    target: Path = parser.parse_args().out
    target.parent.mkdir(parents=True, exist_ok=True)
    train().save(str(target))


if __name__ == "__main__":
    main()
