# SPDX-License-Identifier: Apache-2.0
"""The study of obedience as data: its datasets, its base, its cells and their runs, from config/study/*.yaml.

A cell is a dataset, a trainable set and a form of the prompt; a run is a cell with a training seed. LoRA
ranks are given for the published width and scale with the DiT's, so that an adapter has the same share of its
layer: rank r of a layer of width d has 2 r / d of its parameters. A study may be what another one is, but for
what its file says: `over` names the other's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from chefmate_policy.errors import PolicyError
from chefmate_policy.groot.checkpoint import load_model, load_processor, open_checkpoint, read_config
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import SLOT_PREFIXES, Groot, Parts
from chefmate_policy.groot.processor import Processor
from chefmate_policy.groot.saving import save_checkpoint
from chefmate_policy.training.errors import OptionError
from chefmate_policy.training.options import TrainOptions
from chefmate_ros.share import share_file, share_places

__all__ = [
    "BASE",
    "LOOK",
    "LOOK_BASE",
    "NEW",
    "UNTUNED",
    "Cell",
    "Run",
    "Study",
    "StudyError",
    "TrialCounts",
    "write_kitchen",
    "write_start",
]

BASE, UNTUNED = "base", "base-untuned"  # rows: the base on its own ingredients, and on the new ones
NEW = "new_embodiment"
SECTIONS = {
    "base", "published_rank", "published_width", "pair", "looks", "names", "data", "picture_size", "common",
    "trainable", "prompts", "cells", "trials",
}  # fmt: skip
LOOK, LOOK_BASE = "look", "look_base"
"""Datasets that nothing trains on: of the new ingredients, of the base's."""
KITCHEN, PHRASINGS = "kitchen_scene.yaml", "phrasings.yaml"  # of the study, in its folder
UNENDING = 10_000_000  # steps: a run writes its last checkpoint alone


class StudyError(PolicyError):
    """The study's file is not right."""


@dataclass(frozen=True)
class TrialCounts:
    """How much is tried of each run; s and counts as config/study/*.yaml explains them."""

    pairs: int
    laps: int
    idle: int
    base_pairs: int  # of the base, on its own ingredients
    latency: float
    pick: float
    idle_seconds: float
    seed: int


@dataclass(frozen=True)
class Cell:
    """One cell. guidance: weight of the instruction against the null prompt in its trials; 1: off."""

    data: str
    trainable: str
    prompt: str
    seeds: tuple[int, ...]
    plant: str = "none"
    guidance: float = 1.0

    @property
    def name(self) -> str:
        """For files and tables."""
        parts = [self.data, self.trainable, self.prompt, *([self.plant] if self.plant != "none" else [])]
        return "_".join(parts)


@dataclass(frozen=True)
class Run:
    """A cell with a training seed."""

    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.cell.name}_{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study's file, read and checked."""

    file: Path
    raw: Mapping[str, Any]
    cells: tuple[Cell, ...]
    trials: TrialCounts

    @classmethod
    def load(cls, file: Path, *, quick: bool = False, only: tuple[str, ...] = ()) -> Study:
        """quick: with its `quick` section over the rest. only: parts of names; cells with none of them are
        left out. Raises StudyError: what is wrong in the file."""
        raw = _read(file)
        changes = raw.pop("quick", {})
        if odd := set(raw) ^ SECTIONS:
            raise StudyError(f"{file}: sections {', '.join(sorted(odd))} are missing or unknown")
        if quick:
            raw = _over(raw, changes)
        try:
            cells = tuple(Cell(**{**entry, "seeds": tuple(entry["seeds"])}) for entry in raw["cells"])
            counts = TrialCounts(**raw["trials"])
        except (TypeError, KeyError) as error:
            raise StudyError(f"{file}: cells or trials are not right: {error}") from error
        for cell in cells:
            named = {"data": cell.data, "trainable": cell.trainable, "prompts": cell.prompt}
            for section, name in named.items():
                if name not in raw[section]:
                    raise StudyError(f"{file}: cell {cell.name}: {section} has no {name!r}")
        if only:
            chosen = tuple(cell for cell in cells if any(part in cell.name for part in only))
            if not chosen:
                raise StudyError(
                    f"no cell's name has {' or '.join(only)}: {', '.join(c.name for c in cells)}"
                )
            cells = chosen
        found = cls(file, raw, cells, counts)
        for run in found.runs:
            found.train_options(run, Path("base"), Path("data"), Path("out"))  # raises StudyError
        return found

    @property
    def runs(self) -> tuple[Run, ...]:
        """In the order of the cells."""
        return tuple(Run(cell, seed) for cell in self.cells for seed in cell.seeds)

    @property
    def datasets(self) -> tuple[str, ...]:
        """What has to be generated."""
        used = {cell.data for cell in self.cells}
        return tuple(name for name in self.raw["data"] if name in used or name in (LOOK, LOOK_BASE))

    @property
    def ingredients(self) -> tuple[str, ...]:
        """The base's own."""
        return tuple(self.raw["base"]["own"])

    @property
    def pair(self) -> tuple[str, str]:
        """The two that cells are about, in the parts of the seeds' cheese and bread."""
        return self.raw["pair"]["cheese"], self.raw["pair"]["bread"]

    @property
    def rank(self) -> int:
        """Of the adapters, at the base's width."""
        return self._scaled(self.raw["published_rank"])

    def _scaled(self, rank: int) -> int:
        width = read_config(self.checkpoint).action_head.input_embedding_dim
        return max(1, round(rank * width / self.raw["published_width"]))

    @property
    def checkpoint(self) -> Path:
        """The base, as it is before its slot is moved. Raises StudyError: there is none."""
        given = Path(self.raw["base"]["checkpoint"])
        for folder in (given, *share_places(*given.parts)):
            if folder.is_dir():
                return folder
        raise StudyError(f"{self.file}: the base {given} is no folder, here or in the package")

    def data_arguments(self, name: str) -> list[str]:
        """Of `chefmate data generate`, without folder."""
        words = ["--size", str(self.raw["picture_size"])]
        for key, value in self.raw["data"][name].items():
            option = f"--{key.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif isinstance(value, list):
                words += [option, *map(str, value)]
            elif value is not False:
                words += [option, str(value)]
        return words

    def train_options(
        self, run: Run, base: Path, data: Path, out: Path, seconds: float | None = None
    ) -> dict[str, Any]:
        """Of a run's training. seconds: after which it is stopped, unfinished."""
        chosen = dict(self.raw["trainable"][run.cell.trainable])
        lora = chosen.pop("lora")  # false: none; true: at the published rank; or another one
        rank = self._scaled(self.raw["published_rank"] if lora is True else lora) if lora else 0
        given = {
            **self.raw["common"],
            **chosen,
            **self.raw["prompts"][run.cell.prompt],
            "lora_rank": rank,
            "plant": run.cell.plant,
            "seed": run.seed,
            "base_model_path": str(base),
            "dataset_path": [str(data)],
            "embodiment_tag": NEW,
            "output_dir": str(out),
            "camera_size": [640, 480],  # the twin's; the episodes hold it squeezed
            "save_steps": UNENDING,
            "log_steps": 25,
            "merge": True,
        }
        if seconds is not None:
            given["hours"] = seconds / 3600.0
        return _checked(given)

    def model_options(self, run: Run | None) -> dict[str, Any]:
        """How a run's policy is driven; None: the base's."""
        if run is None:
            return {"device": "cpu", "embodiment": self.raw["base"]["slot"]}
        return {"device": "cpu", "embodiment": NEW, "guidance": run.cell.guidance}


def write_start(study: Study, folder: Path) -> None:
    """The base, its slot of encoders and decoder beside a new robot's at initial values. Raises GrootError,
    StudyError."""
    tag, source = study.raw["base"]["slot"], open_checkpoint(study.checkpoint)
    raw = copy.deepcopy(source.config.raw)
    slots = {NEW: 0, tag: 1}
    raw |= {"embodiment_ids": slots}
    raw["action_head_cfg"] |= {"max_num_embodiments": len(slots)}
    config = GrootConfig.from_dict(raw)
    theirs = load_processor(source)
    old = load_model(source, Parts.used(theirs.slot), dtype=torch.float32).state_dict()
    model = initialise(Groot(config, Parts.used(*slots.values())), study.raw["base"]["seed"])
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            of_slot = key.startswith(SLOT_PREFIXES)
            (tensor[slots[tag]] if of_slot else tensor).copy_(old[key][0] if of_slot else old[key])
    settings = replace(theirs.settings, embodiment=tag)
    processor = Processor(config, replace(theirs.metadata, tag=tag), settings, theirs.tokenizer)
    save_checkpoint(model, folder, processor=processor, complete=False)


def write_kitchen(study: Study, folder: Path) -> tuple[Path, Path]:
    """The study's scene and table of sentences: the project's, with other ingredients in place of two."""
    files = (folder / KITCHEN, folder / PHRASINGS)
    kitchen, table = (yaml.safe_load(share_file("config", file.name).read_text("utf-8")) for file in files)
    gone = {"cheese", "bread"} - set(study.pair)
    for kind, look in study.raw["looks"].items():
        kitchen["ingredients"][kind] = {**kitchen["ingredients"][look["like"]], **look}
        del kitchen["ingredients"][kind]["like"]
        kitchen["stock"][kind] = 1
        table["names"][kind] = study.raw["names"][kind]
    for kind in gone:
        del kitchen["ingredients"][kind], kitchen["stock"][kind], table["names"][kind]
    kitchen["default"] = list(kitchen["stock"])
    table["held_out"] = [entry for entry in table["held_out"] if not gone & set(re.split("[/:@]", entry))]
    for file, content in zip(files, (kitchen, table), strict=True):
        file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return files


def _read(file: Path) -> dict[str, Any]:
    """A study's sections, those of the file that it is over below its own. Raises StudyError."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{file} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise StudyError(f"{file}: expected sections {', '.join(sorted(SECTIONS))}")
    below = raw.pop("over", None)
    if below is None:
        return raw
    if not isinstance(below, str) or Path(below).name != below or below == file.name:
        raise StudyError(f"{file}: over: {below!r} is no name of another file beside it")
    return _over(_read(file.parent / below), raw)


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """The same. Raises StudyError: training would refuse it."""
    try:
        TrainOptions.from_dict(given)
    except OptionError as error:
        raise StudyError(f"options of training are not right: {error}") from error
    return given


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of `above` in place of those below, table by table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and value:  # {} empties
            merged[key] = _over(old, value)
        else:
            merged[key] = value
    return merged
