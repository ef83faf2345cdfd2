# SPDX-License-Identifier: Apache-2.0
"""The model card of a policy that is handed on: README.md beside the weights, written from training/run.json,
and what has to be true of such a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import LAYOUTS_PER_SEED, twin_seed
from chefmate_policy.groot.metadata import METADATA, read_metadata
from chefmate_policy.obedience.cells import TRIAL_SEED, TRIAL_SEEDS
from chefmate_policy.training.checkpoints import RUN, Progress, read_progress
from chefmate_policy.training.errors import TrainingError
from chefmate_policy.training.provenance import datasets_of, found_held_out

__all__ = ["CARD", "LARGEST", "problems", "write_card"]

CARD, CONFIG, WEIGHTS = "README.md", Path("training", "config.yaml"), "model.safetensors"
PROCESSOR = "processor.json"
FILES = ("config.json", WEIGHTS, PROCESSOR, "tokenizer.json", *map(str, (METADATA, RUN, CONFIG, CARD)))
LARGEST = 16_000_000  # bytes of the weights of a policy that comes along
ABOUT = (
    "A policy of GR00T N1.5's architecture for the physics twin of ChefMate: it puts the slice that an",
    "instruction names from the tray onto the plate, and leaves alone what it is not asked for. It has seen",
    "the twin's pictures only and cannot drive a real arm. What it reaches: `chefmate obey`, docs/obey.md.",
)
OF_THIS_MACHINE = ("output_dir", "device", "resume", "num_gpus")  # options that a copy of the run has anew
DEFAULTS = {"statistics": "data"}  # options that records of earlier runs lack
GIVEN = ("dataset_path", "base_model_path", "hours", "max_steps", "merge")  # in each command anyway
FREE_JOINT = 360.0  # degrees or per cent: beyond it statistics are none of a joint


def write_card(folder: Path) -> Path:
    """Writes README.md and training/config.yaml into a policy's folder (merged/ of `chefmate train`).

    Raises TrainingError: the folder has no training/run.json, or one without what it was made of.
    """
    progress = read_progress(folder)
    if not progress.made_of:
        raise TrainingError(f"{folder / RUN} does not say what the policy was made of: train it again")
    (folder / CONFIG).write_text(
        "# How this policy was trained: chefmate train training/config.yaml\n"
        + yaml.safe_dump(_options(progress.options), sort_keys=True),
        encoding="utf-8",
    )
    sections = (_head(folder, progress), _data(progress.made_of), _statistics(folder))
    lines = [line for section in sections for line in section]
    commands = _commands(progress.made_of, progress.options, _options(progress.options))
    lines += ["## Made again", "", "```", *commands, "```", ""]
    (folder / CARD).write_text("\n".join(lines), encoding="utf-8")
    return folder / CARD


def _head(folder: Path, progress: Progress) -> Iterator[str]:
    """What it is and how it was trained."""
    figures, held_out = progress.figures, progress.figures.get("held_out") or {}
    size = (folder / WEIGHTS).stat().st_size
    revision = progress.software.get("chefmate", "unknown")
    yield from ("---", "license: apache-2.0", "library_name: chefmate", "tags: [robotics, SO-ARM 101]", "---")
    yield f"# {folder.name}"
    yield ""
    yield from ABOUT
    yield from ("", "| | |", "|---|---|")
    yield f"| weights | `{WEIGHTS}`, {size:,} bytes, SHA-256 `{_sha256(folder)}` |"
    yield f"| base | {_base(progress.base)} |"
    yield (
        f"| training | {progress.step:,} steps of {progress.options['batch_size']} samples,"
        f" {progress.seconds / 60:.1f} minutes, revision {revision} |"
    )
    yield f"| loss at the end | {_figure(figures.get('loss'))}, held-out {_figure(held_out.get('loss'))} |"
    yield f"| action gap | {_figure(held_out.get('action_gap'))} |"
    yield ""


def _data(record: Mapping[str, Any]) -> Iterator[str]:
    """Datasets of the run and of its base, and what is in none of them."""
    first, end = _trials()
    yield from ("## Data", "", "Layouts are seeds of the twin; those of `chefmate obey` lie from")
    yield f"{first:,} to {end - 1:,}."
    yield from ("", "| dataset | episodes | frames | layouts | sentences | fingerprint |", "|" + "---|" * 6)
    for entry in {entry["fingerprint"]: entry for entry in datasets_of(record)}.values():
        layouts = " to ".join(f"{layout:,}" for layout in entry["layouts"])
        yield (
            f"| {entry['name']} | {entry['episodes']:,} | {entry['frames']:,} | {layouts} |"
            f" {len(entry['instructions'])} | `{entry['fingerprint'][:16]}` |"
        )
    held_out = ", ".join(f"`{entry}`" for entry in Phrasings.load().held_out.entries)
    yield from ("", "Held out of all of them, and of the statistics, which are counted over the same data:")
    yield f"{held_out}. What was said and what stood where is in `training/run.json`, pair by pair."
    yield ""


def problems(folder: Path) -> list[str]:
    """What is wrong with a policy that is to be handed on; empty: nothing.

    It looks at files and size, at the card's SHA-256, at statistics, and in the record of the data (the
    base's and all before it) for fingerprints that do not belong, held-out words and places, and layouts of
    trials.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        return [f"{name} is missing" for name in missing]
    found = []
    size = (folder / WEIGHTS).stat().st_size
    if size > LARGEST:
        found.append(f"{WEIGHTS} has {size:,} bytes, more than {LARGEST:,}")
    if _sha256(folder) not in (folder / CARD).read_text(encoding="utf-8"):
        found.append(f"{CARD} is of other weights: write it anew with chefmate card")
    progress = read_progress(folder)
    marks = [entry["fingerprint"] for entry in progress.made_of.get("datasets", [])]
    if not marks or sorted(marks) != sorted(progress.data.values()):
        found.append("the record of the data is not that of the run: fingerprints differ")
    if progress.base.get("kind") != "member" and not progress.made_of.get("base"):
        found.append("what was in the data of the base is not known")
    for kind, key, values in _vectors(folder):
        if np.abs(values).max() > FREE_JOINT:
            found.append(f"statistics of {kind}.{key} are none of a joint")
    found += found_held_out(progress.made_of, Phrasings.load().held_out)
    for entry in datasets_of(progress.made_of):
        if not entry["layouts"]:
            found.append(f"{entry['name']}: its layouts are not known")
        elif entry["layouts"][0] < LAYOUTS_PER_SEED or _meets_trials(*entry["layouts"]):
            found.append(f"{entry['name']}: layouts {entry['layouts']} are also of trials or sandwiches")
    return found


def _trials() -> tuple[int, int]:
    """First layout of trials, and the one behind the last."""
    return twin_seed(TRIAL_SEED, 0), twin_seed(TRIAL_SEED + TRIAL_SEEDS, 0)


def _meets_trials(lowest: int, highest: int) -> bool:
    first, end = _trials()
    return lowest < end and highest >= first


def _sha256(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def _base(base: Mapping[str, Any]) -> str:
    if base.get("kind") == "member":
        return f"random weights of `{base['name']}`"
    return f"`{Path(str(base.get('name'))).name}`, SHA-256 `{str(base.get('sha256'))[:16]}`, made as below"


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run, as a file for `chefmate train`."""
    kept = {key: value for key, value in options.items() if key not in OF_THIS_MACHINE and value is not None}
    return {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in kept.items()}


def _commands(
    record: Mapping[str, Any] | None, options: Mapping[str, Any], file: Mapping[str, Any]
) -> Iterator[str]:
    """What makes the policy again, the base's commands first. file: options of training/config.yaml."""
    if not record:
        return
    made = set()
    if record.get("base"):
        yield from _commands(record["base"], record["base"]["options"], file)
        made = {entry["fingerprint"] for entry in datasets_of(record["base"])}
    for entry in record["datasets"]:
        if entry["fingerprint"] not in made:
            yield _generate(entry)
    last = "--merge" if options.get("merge") else ""
    hours = f"--hours {options['hours']:g}" if options.get("hours") else f"--max-steps {options['max_steps']}"
    paths = " ".join(Path(path).name for path in options["dataset_path"])
    base = Path(str(options["base_model_path"])).name
    words = f"chefmate train training/config.yaml --dataset-path {paths} --base-model-path {base} {hours}"
    other = [
        f"--{key.replace('_', '-')} {value}"
        for key, value in {**DEFAULTS, **_options(options)}.items()
        if key not in GIVEN and value != file.get(key, value)
    ]
    yield " ".join(word for word in (words, *other, last) if word)


def _generate(entry: Mapping[str, Any]) -> str:
    """The command that makes a dataset; one that was recorded has none."""
    about = entry["made_by"]
    if not about:
        return f"# {entry['name']}: recorded, not generated"
    words = [f"chefmate data generate {entry['name']} --seed {about['seed']} --layouts {about['layouts']}"]
    words.append(f"--fps {about['fps']} --size {'x'.join(map(str, about['size'] or ()))}")
    scene = about["scene"]
    for key in ("phrasings", "idle", "switches", "stacked", "start_spread", "kicked", "kick", "restyled"):
        if key in scene:  # records of earlier datasets lack some
            words.append(f"--{key.replace('_', '-')} {scene[key]:g}")
    if scene.get("one_ingredient"):
        words.append("--one-ingredient")
    if about.get("policy"):
        words.append(f"--policy CHECKPOINT --driven {scene['driven']:g}  # SHA-256 {about['policy'][:16]}")
    return " ".join(words)


def _vectors(folder: Path) -> Iterator[tuple[str, str, np.ndarray[Any, Any]]]:
    """State or action, key, and [4, n]: minimum, maximum, mean and deviation."""
    metadata = read_metadata(
        folder, json.loads((folder / PROCESSOR).read_text(encoding="utf-8"))["embodiment"]
    )
    for kind, keys in (("state", metadata.state), ("action", metadata.action)):
        for key, values in keys.items():
            yield kind, key, np.array([values.min, values.max, values.mean, values.std])


def _statistics(folder: Path) -> Iterator[str]:
    yield from ("## Statistics", "", "Degrees, the gripper 0..100.", "")
    yield from ("| | minimum | maximum | mean | deviation |", "|---|---|---|---|---|")
    for kind, key, values in _vectors(folder):
        cells = (" ".join(f"{value:.1f}" for value in row) for row in values)
        yield f"| {kind} {key} | {' | '.join(cells)} |"
    yield ""


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else "not measured"
