# SPDX-License-Identifier: Apache-2.0
"""What a policy was made of: the datasets of its run and of the runs before it, and what of the world's words
and places was in them. It goes into training/run.json, and from there into the model card; what was held out
can be looked for in it without the data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chefmate_policy.data.dataset import Dataset
from chefmate_policy.data.phrasings import HeldOut
from chefmate_policy.training.checkpoints import RUN

__all__ = ["datasets_of", "found_held_out", "made_of"]

ABOUT, PRIVILEGED = Path("meta", "chefmate.json"), Path("meta", "privileged.jsonl")


def made_of(datasets: Mapping[str, Dataset], base: Path | None) -> dict[str, Any]:
    """The record of a run: its datasets, and the base's record and options where the base has them.

    Args:
        datasets: by the fingerprint that the run's progress holds.
        base: folder of the base checkpoint. None: random weights.
    """
    before: dict[str, Any] | None = None
    if base is not None and (base / RUN).is_file():
        report = json.loads((base / RUN).read_text(encoding="utf-8"))
        if report.get("made_of"):
            before = {**report["made_of"], **{key: report[key] for key in ("options", "step", "seconds")}}
    return {"datasets": [_entry(mark, dataset) for mark, dataset in datasets.items()], "base": before}


def _entry(mark: str, dataset: Dataset) -> dict[str, Any]:
    """One dataset: what made it, which layouts, what was said, what stood where."""
    about: dict[str, Any] = {}
    if (dataset.root / ABOUT).is_file():
        about = json.loads((dataset.root / ABOUT).read_text(encoding="utf-8"))
    said = {
        f"{episode.extra.get('phrasing', '')} {episode.extra.get('naming', '')}"
        for episode in dataset.episodes
        if episode.extra.get("naming")
    }
    stood: set[str] = set()
    if (dataset.root / PRIVILEGED).is_file():
        for line in (dataset.root / PRIVILEGED).read_text(encoding="utf-8").splitlines():
            slots = json.loads(line)["slots"]
            stood |= {f"{kind}@{slot}" for slot, kind in enumerate(slots) if kind}
    layouts = {int(episode.extra["layout"]) for episode in dataset.episodes if "layout" in episode.extra}
    return {
        "name": dataset.root.name,
        "fingerprint": mark,
        "made_by": about,
        "episodes": len(dataset.episodes),
        "frames": sum(episode.length for episode in dataset.episodes),
        "layouts": [min(layouts), max(layouts)] if layouts else [],
        "said": sorted(said),
        "instructions": sorted({text for episode in dataset.episodes for text in episode.instructions}),
        "stood": sorted(stood),
    }


def datasets_of(record: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Entries of a run and of all that it stands on."""
    while record:
        yield from record["datasets"]
        record = record.get("base")


def found_held_out(record: Mapping[str, Any] | None, held_out: HeldOut) -> list[str]:
    """What should not have been in the data and was, as "dataset: what"; empty: nothing."""
    found = []
    for entry in datasets_of(record):
        for pair in entry["said"]:
            phrasing, naming = pair.split(" ")
            if not held_out.allows(phrasing, naming.partition("/")[0], naming):
                found.append(f"{entry['name']}: {phrasing} of {naming} was said")
        pairs = {f"{kind}@{slot}" for kind, slot in held_out.pairs}
        found += [f"{entry['name']}: {pair} stood there" for pair in entry["stood"] if pair in pairs]
    return found
