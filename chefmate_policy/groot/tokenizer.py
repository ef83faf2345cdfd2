# SPDX-License-Identifier: Apache-2.0
"""Text to token ids: the published model's tokenizer (Qwen3 and Eagle's added tokens) or the project's own.

The published checkpoint holds no tokenizer. One is looked for in the checkpoint's folder, then where
CHEFMATE_TOKENIZER points, then on the hub. Small models use `config/tokenizer/small.json`, which comes with
the package and is saved with each of their checkpoints.
"""

from __future__ import annotations

import os
from pathlib import Path

from tokenizers import Tokenizer

from chefmate_policy.groot.errors import GrootError
from chefmate_policy.groot.hub import download
from chefmate_ros.share import share_file

__all__ = ["ENVIRONMENT", "GrootTokenizer", "TokenizerError", "load_tokenizer", "small_tokenizer"]

ENVIRONMENT = "CHEFMATE_TOKENIZER"  # folder with the published tokenizer's files
HUB = "lerobot/eagle2hg-processor-groot-n1p5"  # public copy of the files vendored in the reference
FILE = "tokenizer.json"  # of the tokenizers library, as saved in our checkpoints
QWEN_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json")
SMALL = ("config", "tokenizer", "small.json")

PAD, IMAGE_START, IMAGE_END, IMAGE = "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>"
NULL = ("<|null|>", "<|fim_pad|>")  # ours; in Qwen's vocabulary a token that no chat ever holds


class TokenizerError(GrootError):
    """There is no tokenizer, or it is not one for this model."""


class GrootTokenizer:
    """Token ids of text, and the ids that the prompt is built from."""

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        """`source` is for messages. Raises TokenizerError when a token of the prompt is missing."""
        self.tokenizer, self.source = tokenizer, source
        self.pad_id = self._id(PAD)
        self.image_id, self.image_start_id, self.image_end_id = map(self._id, (IMAGE, IMAGE_START, IMAGE_END))
        self.null_id = self._id(*NULL)
        self.control_tokens = frozenset(
            added.content for added in tokenizer.get_added_tokens_decoder().values()
        )

    def __len__(self) -> int:
        """Token ids that exist, 0..len-1."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Token ids; control tokens in the text are single ids."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, control tokens included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def image(self, tokens: int) -> list[int]:
        """Ids of one image of so many tokens, with its bounds."""
        return [self.image_start_id, *([self.image_id] * tokens), self.image_end_id]

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json."""
        self.tokenizer.save(str(folder / FILE))

    def _id(self, *names: str) -> int:
        for name in names:
            token = self.tokenizer.token_to_id(name)
            if token is not None:
                return int(token)
        raise TokenizerError(
            f"the tokenizer of {self.source} has no token {' or '.join(names)}; it is not one of GR00T N1.5"
        )


def small_tokenizer() -> GrootTokenizer:
    """The project's own, of the small models: see small_tokenizer.py."""
    return _of_folder_or_file(share_file(*SMALL))


def load_tokenizer(checkpoint: Path | None = None, hub_id: str = HUB) -> GrootTokenizer:
    """The tokenizer of a checkpoint's folder, else the published one, wherever it can be had.

    Raises TokenizerError that names all the places looked at.
    """
    places = [] if checkpoint is None else [checkpoint]
    if given := os.environ.get(ENVIRONMENT):
        places.append(Path(given))
    for place in places:
        if (place / FILE).is_file() or (place / QWEN_FILES[0]).is_file():
            return _of_folder_or_file(place)
    try:
        return _of_folder_or_file(download(hub_id, [*QWEN_FILES, FILE]))
    except GrootError as error:
        looked = ", ".join(map(str, places)) or "no folder"
        raise TokenizerError(
            f"no tokenizer: looked for {FILE} or {QWEN_FILES[0]} in {looked}; {error}."
            f" Set {ENVIRONMENT} to a folder with {', '.join(QWEN_FILES)}"
        ) from error


def _of_folder_or_file(place: Path) -> GrootTokenizer:
    file = place / FILE if place.is_dir() else place
    try:
        if file.is_file():
            return GrootTokenizer(Tokenizer.from_file(str(file)), str(file))
        from transformers import Qwen2Tokenizer  # slow to import; only for files in Qwen's layout

        loaded = Qwen2Tokenizer.from_pretrained(str(place), local_files_only=True)
        return GrootTokenizer(loaded.backend_tokenizer, str(place))
    except GrootError:
        raise
    except Exception as error:  # the library raises bare Exception for a file that it cannot read
        raise TokenizerError(f"the tokenizer in {place} cannot be read: {error}") from error
