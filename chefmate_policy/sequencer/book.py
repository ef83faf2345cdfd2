# SPDX-License-Identifier: Apache-2.0
"""Where recipes are looked for and what their steps may name, the same for the sequencer and for commands."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from chefmate_policy.perception.settings import load
from chefmate_policy.sequencer.recipes import Ingredients, Recipe, load_recipe
from chefmate_ros.share import share_file

ANY = "any"
"""Instead of a workcell file: steps may name whatever another perception node reports."""


@dataclass(frozen=True)
class RecipeBook:
    """Recipes by name."""

    folders: tuple[Path, ...]
    ingredients: Ingredients | None

    @classmethod
    def open(cls, own_folder: str = "", workcell: str = "") -> RecipeBook:
        """The shipped recipes, and one's own, which win.

        Args:
            own_folder: folder of one's own recipes; empty: $XDG_CONFIG_HOME/chefmate/recipes.
            workcell: perception's workcell file, whose ingredients steps may name; empty: the twin's; ANY: no
                bound.

        Raises:
            SettingsError: the workcell file cannot be used.
        """
        config_home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        folders = (
            share_file("config", "recipes"),
            Path(own_folder).expanduser() if own_folder else config_home / "chefmate" / "recipes",
        )
        if workcell == ANY:
            return cls(folders, None)
        path = Path(workcell) if workcell else share_file("config", "workcell_twin.yaml")
        return cls(folders, Ingredients(tuple(item.name for item in load(path).ingredients), path))

    def recipe(self, name: str) -> Recipe:
        """The recipe of this name.

        Raises:
            UnknownRecipeError: there is none; lists the known ones.
            RecipeError: its file is wrong; names file, line and key.
        """
        return load_recipe(name, self.folders, self.ingredients)
