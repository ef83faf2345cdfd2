# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML files with steps, checked so that every fault names its file, line and key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from chefmate_policy.errors import PolicyError

DEFAULT_TIMEOUT = 40.0  # s for one attempt: an unhurried SO-101 needs 10 to 15 s to move one slice
DEFAULT_RETRIES = 2
DEFAULT_INSTRUCTION_TIMEOUT = 5.0  # s until the policy must report the instruction as its own
MAX_SECONDS = 86400.0
MAX_RETRIES = 1000


SUFFIXES = (".yaml", ".yml")


class RecipeError(PolicyError):
    """A recipe is unknown or its file is wrong."""


class UnknownRecipeError(RecipeError):
    """No recipe has this name."""


@dataclass(frozen=True)
class Ingredients:
    """What a step may name, and the file that says so."""

    names: tuple[str, ...]
    source: Path


@dataclass(frozen=True)
class Step:
    """One ingredient on the plate.

    Attributes:
        ingredient: class that perception reports, for example bread.
        instruction: the sentence for the policy.
        timeout: s, for one attempt.
        retries: further attempts after a failed one.
        instruction_timeout: s until the policy must have taken the instruction over.
    """

    ingredient: str
    instruction: str
    timeout: float = DEFAULT_TIMEOUT
    retries: int = DEFAULT_RETRIES
    instruction_timeout: float = DEFAULT_INSTRUCTION_TIMEOUT


@dataclass(frozen=True)
class Recipe:
    """Steps in order, from the plate up."""

    name: str
    steps: tuple[Step, ...]
    description: str = ""


STEP_KEYS = ("ingredient", "instruction", "timeout", "retries", "instruction_timeout")
RECIPE_KEYS = ("description", "steps", "timeout", "retries", "instruction_timeout")


def known(folders: Sequence[Path]) -> dict[str, Path]:
    """Recipe files by name; a folder further back wins over one further front."""
    return {
        path.stem: path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix in SUFFIXES
    }


def load_recipe(name: str, folders: Sequence[Path], ingredients: Ingredients | None = None) -> Recipe:
    """Reads the recipe of this name.

    Args:
        name: file name without .yaml or .yml.
        folders: folders to look into; a later one wins over an earlier one.
        ingredients: see `read`.

    Raises:
        UnknownRecipeError: no such recipe; lists the known ones.
        RecipeError: two files of that name, or a faulty one (names file, line and key).
    """
    files = known(folders)
    if name not in files:
        where = ", ".join(str(folder) for folder in folders)
        listed = ", ".join(sorted(files)) or "none"
        raise UnknownRecipeError(f"unknown recipe {name!r}; known are: {listed} (in {where}).")
    path = files[name]
    same = [other for other in map(path.with_suffix, SUFFIXES) if other.exists()]
    if len(same) > 1:
        raise RecipeError(f"recipe {name!r} stands in {' and in '.join(map(str, same))}; remove one of them.")
    return read(path, ingredients)


def read(path: Path, ingredients: Ingredients | None = None) -> Recipe:
    """Reads one recipe file.

    Args:
        path: the file.
        ingredients: what its steps may name; None: anything.

    Raises:
        RecipeError: the file cannot be read, is no YAML, has a wrong, missing, unknown or doubled key, or
            names another ingredient.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}.") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: is not YAML: {error.problem}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{path}:{line}: is not YAML: {error.reason}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}:1: is not YAML: {error}.") from error
    if root is None:
        raise RecipeError(f"{path}:1: is empty; it needs the key 'steps'.")
    return _Reader(path, ingredients).recipe(root)


@dataclass(frozen=True)
class _Limits:
    """Times (s) and retries that hold where a step does not say otherwise."""

    timeout: float = DEFAULT_TIMEOUT
    retries: int = DEFAULT_RETRIES
    instruction_timeout: float = DEFAULT_INSTRUCTION_TIMEOUT


class _Reader:
    """Turns YAML nodes into a recipe; every fault is located by the node's mark."""

    def __init__(self, path: Path, ingredients: Ingredients | None) -> None:
        self._path, self._ingredients = path, ingredients

    def _fault(self, node: yaml.Node, key: str, problem: str) -> RecipeError:
        return RecipeError(f"{self._path}:{node.start_mark.line + 1}: {key}: {problem}.")

    def _pairs(self, node: yaml.Node, where: str, allowed: Sequence[str]) -> Iterator[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(node, where, f"must be a mapping with the keys {', '.join(allowed)}")
        seen = set()
        for key_node, value in node.value:
            key = str(key_node.value)
            if key not in allowed:
                raise self._fault(key_node, key, f"unknown key; known are {', '.join(allowed)}")
            if key in seen:
                raise self._fault(key_node, key, "stands here a second time")
            seen.add(key)
            yield key, value

    def recipe(self, root: yaml.Node) -> Recipe:
        values = dict(self._pairs(root, "recipe", RECIPE_KEYS))
        steps = values.get("steps")
        if steps is None:
            raise self._fault(root, "steps", "is missing")
        if not isinstance(steps, yaml.SequenceNode) or not steps.value:
            raise self._fault(steps, "steps", "must be a list with at least one step")
        description = self._text(values["description"], "description") if "description" in values else ""
        limits = self._limits(values, _Limits())
        return Recipe(self._path.stem, tuple(self._step(step, limits) for step in steps.value), description)

    def _step(self, node: yaml.Node, defaults: _Limits) -> Step:
        values = dict(self._pairs(node, "step", STEP_KEYS))
        for key in ("ingredient", "instruction"):
            if key not in values:
                raise self._fault(node, key, "is missing in this step")
        limits = self._limits(values, defaults)
        return Step(
            ingredient=self._ingredient(values["ingredient"]),
            instruction=self._text(values["instruction"], "instruction"),
            timeout=limits.timeout,
            retries=limits.retries,
            instruction_timeout=limits.instruction_timeout,
        )

    def _limits(self, values: dict[str, yaml.Node], defaults: _Limits) -> _Limits:
        """What stands beside the steps, or in one of them, over the defaults."""

        def seconds(key: str, default: float) -> float:
            return self._seconds(values[key], key) if key in values else default

        return _Limits(
            timeout=seconds("timeout", defaults.timeout),
            retries=self._count(values["retries"], "retries") if "retries" in values else defaults.retries,
            instruction_timeout=seconds("instruction_timeout", defaults.instruction_timeout),
        )

    def _ingredient(self, node: yaml.Node) -> str:
        name = self._text(node, "ingredient")
        if self._ingredients is not None and name not in self._ingredients.names:
            raise self._fault(
                node,
                "ingredient",
                f"{name!r} is none that perception knows: {', '.join(self._ingredients.names)} "
                f"(in {self._ingredients.source})",
            )
        return name

    def _text(self, node: yaml.Node, key: str) -> str:
        if (
            not isinstance(node, yaml.ScalarNode)
            or node.tag != "tag:yaml.org,2002:str"
            or not node.value.strip()
        ):
            raise self._fault(node, key, "must be a text that is not empty")
        return str(node.value).strip()

    def _seconds(self, node: yaml.Node, key: str) -> float:
        value = self._scalar(node, key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.0 < value <= MAX_SECONDS:
            raise self._fault(
                node, key, f"must be a number of seconds above 0, at most {MAX_SECONDS:g}, not {node.value!r}"
            )
        return float(value)

    def _count(self, node: yaml.Node, key: str) -> int:
        value = self._scalar(node, key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_RETRIES:
            raise self._fault(
                node, key, f"must be a whole number from 0 to {MAX_RETRIES}, not {node.value!r}"
            )
        return value

    def _scalar(self, node: yaml.Node, key: str) -> object:
        if not isinstance(node, yaml.ScalarNode):
            raise self._fault(node, key, "must be a single value")
        if node.style:
            return node.value
        try:
            value: object = yaml.safe_load(node.value)
        except (yaml.YAMLError, ValueError, ArithmeticError) as error:
            # For example 2020-13-45, which YAML takes for a date, or "=" and "<<", which it reserves.
            raise self._fault(node, key, f"must be a number, not {node.value!r}") from error
        return value
