# SPDX-License-Identifier: Apache-2.0
"""Recipe files: what is accepted, and that every fault names file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from chefmate_policy.sequencer.book import ANY, RecipeBook
from chefmate_policy.sequencer.recipes import Ingredients, RecipeError, known, load_recipe, read

SHIPPED = Path(__file__).parents[2] / "config" / "recipes"
STEP = "steps:\n- ingredient: {}\n  instruction: x\n"


def test_shipped_recipes_are_valid() -> None:
    recipes = {name: read(path) for name, path in known([SHIPPED]).items()}
    assert [step.ingredient for step in recipes["cheese_sandwich"].steps] == ["bread", "cheese", "bread"]
    assert [step.ingredient for step in recipes["patty_sandwich"].steps] == [
        "bread",
        "patty",
        "cheese",
        "bread",
    ]
    assert all(
        step.retries == 2 and step.timeout == 40.0 for recipe in recipes.values() for step in recipe.steps
    )


def test_a_step_overrides_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "timeout: 9\nsteps:\n- {ingredient: a, instruction: b}\n"
        "- {ingredient: a, instruction: c, timeout: 5}\n"
    )
    assert [step.timeout for step in read(path).steps] == [9.0, 5.0]


def test_own_recipes_win_over_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "cheese_sandwich.yaml").write_text("steps: [{ingredient: cheese, instruction: say cheese}]")
    assert load_recipe("cheese_sandwich", [SHIPPED, tmp_path]).steps[0].instruction == "say cheese"


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(
        RecipeError, match=r"unknown recipe 'pizza'; known are: cheese_sandwich, .*patty_sandwich"
    ):
        load_recipe("pizza", [SHIPPED])


def test_both_endings_of_yaml_are_found_and_two_files_of_one_name_are_named(tmp_path: Path) -> None:
    (tmp_path / "toast.yml").write_text(STEP.format("bread"))
    (tmp_path / "toast.yaml~").write_text("")
    assert load_recipe("toast", [tmp_path]).steps[0].ingredient == "bread"
    (tmp_path / "toast.yaml").write_text(STEP.format("bread"))
    with pytest.raises(RecipeError, match=r"toast\.yaml and in .*toast\.yml; remove one"):
        load_recipe("toast", [tmp_path])


def test_an_ingredient_that_perception_does_not_know_is_named_with_those_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = tmp_path / "chefmate" / "recipes"
    own.mkdir(parents=True)
    (own / "toast.yaml").write_text("description: toast\n" + STEP.format("bred"))
    with pytest.raises(RecipeError) as caught:
        RecipeBook.open().recipe("toast")
    said = str(caught.value)
    assert said.startswith(f"{own / 'toast.yaml'}:3: ingredient: 'bred'"), said
    assert "bread, cheese, patty" in said and "workcell_twin.yaml" in said
    assert RecipeBook.open(workcell=ANY).recipe("toast").steps[0].ingredient == "bred"


def test_shipped_recipes_name_what_perception_knows() -> None:
    book = RecipeBook.open()
    for path in known([SHIPPED]).values():
        read(path, book.ingredients)
    assert book.ingredients is not None
    with pytest.raises(RecipeError, match="'bread' is none that perception knows"):
        read(SHIPPED / "cheese_sandwich.yaml", Ingredients(("ham",), Path("mine.yaml")))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "is empty"),
        ("steps: [", 1, "is not YAML"),
        ("steps:\n  - ingredient: bread\n   x: 1", 3, "is not YAML"),
        ("description: a\n", 1, "steps: is missing"),
        ("- a", 1, "recipe: must be a mapping"),
        ("steps: []", 1, "steps: must be a list with at least one step"),
        ("steps:\n  - bread", 2, "step: must be a mapping"),
        ("steps:\n  - ingredient: bread", 2, "instruction: is missing"),
        ("steps:\n  - instruction: x", 2, "ingredient: is missing"),
        ("steps:\n  - ingredient: 3\n    instruction: x", 2, "ingredient: must be a text"),
        (
            "steps:\n  - ingredient: bread\n    instruction: ''",
            3,
            "instruction: must be a text that is not empty",
        ),
        (
            "steps:\n  - ingredient: bread\n    instruction: x\n    timeout: soon",
            4,
            "timeout: must be a number",
        ),
        (
            "steps:\n  - ingredient: bread\n    instruction: x\n    timeout: -1",
            4,
            "timeout: must be a number",
        ),
        (
            "steps:\n  - ingredient: bread\n    instruction: x\n    timeout: .inf",
            4,
            "timeout: must be a number",
        ),
        (
            "steps:\n  - ingredient: bread\n    instruction: x\n    retries: 1.5",
            4,
            "retries: must be a whole number",
        ),
        (
            "steps:\n  - ingredient: bread\n    instruction: x\n    retries: '2'",
            4,
            "retries: must be a whole number",
        ),
        *(
            (f"steps:\n  - ingredient: bread\n    instruction: x\n    {key}: {value}", 4, f"{key}: must be")
            for key in ("timeout", "instruction_timeout", "retries")
            for value in ("2020-13-45", "=", "<<", "0x_", "9" * 400, "9" * 5000, "0001-01-01 00:00:00 +23:00")
        ),
        ("description: a\nsteps:\n- ingredient: b\x07d", 3, "is not YAML: special characters"),
        ("steps:\n- ingredient: =\n  instruction: x", 2, "ingredient: must be a text"),
        ("[" * 5000, 1, "is not YAML"),
        ("steps:\n  - ingredient: bread\n    instruction: x\n    tries: 2", 4, "tries: unknown key"),
        (
            "retries: 1\nretries: 2\nsteps:\n- {ingredient: a, instruction: b}",
            2,
            "retries: stands here a second time",
        ),
        *(
            (
                f"{key}: {value}\nsteps:\n- {{ingredient: a, instruction: b, timeout: 1, retries: 1}}",
                1,
                f"{key}: must be",
            )
            for key, value in (("timeout", "soon"), ("retries", "-4"), ("instruction_timeout", "0"))
        ),
        ("tries: 3\nsteps:\n- {ingredient: a, instruction: b}", 1, "tries: unknown key"),
        ("timeout: {}\nsteps:\n- {ingredient: a, instruction: b}", 1, "timeout: must be a single value"),
    ],
)
def test_faults_name_file_line_and_key(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "faulty.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ") and words in message, message


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        read(path)
