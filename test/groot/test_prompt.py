# SPDX-License-Identifier: Apache-2.0
"""Prompts and tokens: equal to the reference's, and safe whatever the instruction is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chefmate_policy.expert.language import VERBS, WORDS
from chefmate_policy.groot.errors import InputError
from chefmate_policy.groot.prompt import PromptForm, Prompts, pad_left
from chefmate_policy.groot.small_tokenizer import train
from chefmate_policy.groot.tokenizer import (
    ENVIRONMENT,
    SMALL,
    GrootTokenizer,
    TokenizerError,
    load_tokenizer,
    small_tokenizer,
)
from chefmate_ros.share import share_file

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "processing"
TOKENS: dict[str, Any] = json.loads((GOLDEN / "tokens.json").read_text())
INSTRUCTION = TOKENS["1cam_plain"]["instruction"]
SMALL_TOKENIZER = small_tokenizer()


@pytest.fixture(scope="module")
def published() -> GrootTokenizer:
    """The published model's tokenizer, which is other people's and not in the repository."""
    if not os.environ.get(ENVIRONMENT):
        pytest.skip(f"{ENVIRONMENT} points to no folder with the published tokenizer")
    return load_tokenizer()


@pytest.mark.parametrize(
    ("case", "cameras", "form"),
    [
        ("dualcam_plain_training_form", 2, PromptForm.PLAIN),
        ("dualcam_stock_inference_form", 2, PromptForm.REFERENCE_SERVER),
        ("1cam_plain", 1, PromptForm.PLAIN),
        ("3cam_plain", 3, PromptForm.PLAIN),
    ],
)
def test_prompt_is_the_references(
    published: GrootTokenizer, case: str, cameras: int, form: PromptForm
) -> None:
    prompt = Prompts(published, 256, form).prompt(INSTRUCTION, cameras)
    assert list(prompt.ids) == TOKENS[case]["input_ids"]


def test_words_and_special_ids_are_the_references(published: GrootTokenizer) -> None:
    for entry in TOKENS["bare_instruction_tokens"]:
        assert published.encode(entry["text"]) == entry["input_ids"], entry["text"]
    special = TOKENS["special_ids"]
    assert (published.pad_id, published.image_id) == (special["pad"], special["img_context"])
    assert (published.image_start_id, published.image_end_id) == (special["img_start"], special["img_end"])
    assert len(published) == special["vocab_len"]


def test_prompts_of_different_lengths_are_padded_on_the_left_as_the_reference_does(
    published: GrootTokenizer,
) -> None:
    golden = TOKENS["batch_of_two_left_padded"]
    prompts = Prompts(published, 256)
    ids, mask = pad_left([prompts.prompt(text, 2).ids for text in golden["instructions"]], published.pad_id)
    assert mask is not None
    assert ids.tolist() == [_unrolled(row) for row in golden["input_ids_rle"]]
    assert mask.tolist() == [_unrolled(row) for row in golden["attention_mask_rle"]]


def test_a_tokenizer_saved_with_a_checkpoint_gives_the_same_ids(
    published: GrootTokenizer, tmp_path: Path
) -> None:
    published.save(tmp_path)
    saved = load_tokenizer(tmp_path)
    assert saved.source.startswith(str(tmp_path))
    for entry in TOKENS["bare_instruction_tokens"]:
        assert saved.encode(entry["text"]) == entry["input_ids"]


@pytest.mark.parametrize("form", PromptForm)
def test_null_prompt_is_one_reserved_token_in_place_of_the_words(form: PromptForm) -> None:
    prompts = Prompts(SMALL_TOKENIZER, 4, form)
    null, empty, words = (prompts.prompt(text, 2) for text in (None, "", INSTRUCTION))
    assert [null.ids[at] for at in null.words] == [SMALL_TOKENIZER.null_id]
    for other in (empty, words):
        assert SMALL_TOKENIZER.null_id not in other.ids
        assert _without_words(other) == _without_words(null)


def test_instruction_first_puts_the_words_before_the_images() -> None:
    plain = Prompts(SMALL_TOKENIZER, 4).prompt(INSTRUCTION, 2)
    first = Prompts(SMALL_TOKENIZER, 4, PromptForm.INSTRUCTION_FIRST).prompt(INSTRUCTION, 2)
    image = SMALL_TOKENIZER.image_id
    assert plain.ids.count(image) == first.ids.count(image) == 8
    assert plain.words.start > max(at for at, token in enumerate(plain.ids) if token == image)
    assert first.words.stop <= first.ids.index(image)
    assert sorted(first.ids) == sorted(plain.ids)


def test_an_instruction_with_a_control_token_is_refused() -> None:
    prompts = Prompts(SMALL_TOKENIZER, 4)
    for token in ("<IMG_CONTEXT>", "<|im_end|>", "<|null|>"):
        with pytest.raises(InputError, match="control token") as caught:
            prompts.prompt(f"pick {token} up", 1)
        assert token in str(caught.value)


def test_unknown_prompt_form_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InputError, match="instruction_first"):
        PromptForm.of("words_first")


@given(st.text(max_size=60))
def test_small_tokenizer_has_ids_for_any_text_and_gives_it_back(text: str) -> None:
    import unicodedata

    text = unicodedata.normalize("NFC", text)
    ids = SMALL_TOKENIZER.encode(text)
    if not any(token in text for token in SMALL_TOKENIZER.control_tokens):
        assert SMALL_TOKENIZER.decode(ids) == text
    assert all(0 <= token < len(SMALL_TOKENIZER) for token in ids)


def test_small_tokenizer_knows_no_unknown_token_and_every_word_of_the_kitchen() -> None:
    assert json.loads(share_file(*SMALL).read_text())["model"]["unk_token"] is None
    for word in {*VERBS, *WORDS}:
        assert len(SMALL_TOKENIZER.encode(f" {word}")) == 1, word


def test_shipped_small_tokenizer_is_what_its_command_makes() -> None:
    assert json.loads(train().to_str()) == json.loads(share_file(*SMALL).read_text())


def test_missing_tokenizer_is_named_with_the_places_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TokenizerError, match=ENVIRONMENT) as caught:
        load_tokenizer(tmp_path, "nobody/has-this")
    assert str(tmp_path) in str(caught.value) and "nobody/has-this" in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="endoftext"):
        load_tokenizer(tmp_path)


def test_equal_prompts_need_no_mask() -> None:
    ids, mask = pad_left([[1, 2, 3], [4, 5, 6]], 0)
    assert mask is None and torch.equal(ids, torch.tensor([[1, 2, 3], [4, 5, 6]]))


def _unrolled(runs: list[list[int]]) -> list[int]:
    return [token for token, count in runs for _ in range(count)]


def _without_words(prompt: Any) -> tuple[int, ...]:
    return prompt.ids[: prompt.words.start] + prompt.ids[prompt.words.stop :]
