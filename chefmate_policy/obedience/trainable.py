# SPDX-License-Identifier: Apache-2.0
"""What was trained in a checkpoint: as its files record it, and as its weights differ from its base's.

A record is not proof: adapters that no layer takes, adapters whose B is still zero, or a merged file that is
its base again drive as the base does, whatever run.json says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chefmate_policy.groot.adapter import ADAPTER_CONFIG, Adapter, open_adapter
from chefmate_policy.groot.checkpoint import Checkpoint, open_checkpoint
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.errors import GrootError
from chefmate_policy.groot.hub import locate
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.layouts import listed
from chefmate_policy.groot.model import Groot, Parts, published_shapes
from chefmate_policy.groot.sizes import MEMBERS, member
from chefmate_policy.training.checkpoints import RUN, Origin, checkpoint_folders
from chefmate_policy.training.components import COMPONENTS, component_of
from chefmate_policy.training.errors import OptionError, TrainingError
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.trainable import selection, slot_of

__all__ = ["Part", "Recorded", "TrainableSet", "recorded", "trainable"]

FILES = ("*.json", "*.safetensors", "experiment_cfg/*", "*.txt")
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}  # others hold what float32 does
KIN = (
    0.1  # cosine of all weights with those that a member was drawn with, from which they are its descendants
)
ReadBase = Callable[[str], Tensor | None]


@dataclass(frozen=True)
class Recorded:
    """What the files say. trains: components; base, digest: of the run's start; lora_rank: None: not said."""

    source: str
    options: Mapping[str, Any]
    trains: tuple[str, ...]
    base: Mapping[str, Any]
    folder: Path  # from which a relative path of the base counts
    lora_rank: int | None


@dataclass(frozen=True)
class Part:
    """A component of training/components.py. Of slots, the row of the embodiment counts alone.

    relative_change: |W - W0| / |W0| over all of its tensors.
    """

    name: str
    flag: str
    tensors: int
    changed: int
    parameters: int
    parameters_changed: int
    relative_change: float


@dataclass(frozen=True)
class TrainableSet:
    """The check's result. base: what the weights were compared with; "" nothing. findings: (code, text)."""

    recorded: Recorded | None
    base: str
    adapter: dict[str, Any] | None
    parts: tuple[Part, ...]
    findings: tuple[tuple[str, str], ...]

    @property
    def verdict(self) -> str:
        """trained, adapters_not_loaded, slot_at_base, not_as_recorded or base_unknown."""
        codes = [code for code, _ in self.findings]
        order = ("adapters_not_loaded", "base_unknown", "slot_at_base", "not_as_recorded")
        return next((code for code in order if code in codes), "trained")

    @property
    def line(self) -> str:
        """The verdict for people."""
        told = "; ".join(text for code, text in self.findings if code == self.verdict)
        moved = [part for part in self.parts if part.changed]
        still = [part.name for part in self.parts if not part.changed]
        changes = ", ".join(f"{part.name} {100 * part.relative_change:.2g} %" for part in moved)
        found = (
            f"changed against {self.base}: {changes or 'nothing'}; unchanged: {', '.join(still) or 'nothing'}"
        )
        if not self.parts:
            return told
        return f"{told}. {found}" if told else found

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        kept = self.recorded
        return {
            "recorded": None
            if kept is None
            else {
                "source": kept.source,
                "options": dict(kept.options),
                "trains": list(kept.trains),
                "lora_rank": kept.lora_rank,
            },
            "base": self.base,
            "adapter": self.adapter,
            "components": [dict(vars(part)) for part in self.parts],
            "slot_changed": self._changed(*(part.name for part in COMPONENTS if part.slots)),
            "language_changed": self._changed("language"),
            "vision_changed": self._changed("vision", "connector"),
            "trained_parameters": sum(part.parameters_changed for part in self.parts),
            "findings": [{"code": code, "text": text} for code, text in self.findings],
        }

    def _changed(self, *names: str) -> bool | None:
        parts = [part for part in self.parts if part.name in names]
        return any(part.changed for part in parts) if parts else None


def trainable(policy: str | Path, base: str = "", embodiment: str = "new_embodiment") -> TrainableSet:
    """Reads all weights of a checkpoint and of its base once, tensor by tensor.

    base: folder, hub id, or NAME[@SEED] of a member's random weights, in place of the recorded one. Raises
    GrootError: there is no checkpoint, or its files are damaged.
    """
    folder = locate(policy, FILES)
    kept: Recorded | None = None
    adapter = open_adapter(folder) if (folder / ADAPTER_CONFIG).is_file() else None
    about = None if adapter is None else _about(adapter)
    findings: list[tuple[str, str]] = []
    if adapter is not None and about is not None:
        try:
            under = open_checkpoint(base or _beside(adapter))
        except GrootError as error:
            findings.append(("base_unknown", f"the adapter's base cannot be opened: {error}"))
            return TrainableSet(recorded(folder), "", about, (), tuple(findings))
        kept = recorded(folder, under.config)
        shapes = published_shapes(under.config)
        about["unmatched"] = sorted({*adapter.pairs, *adapter.trained} - set(shapes))
        if about["unmatched"]:
            findings.append(
                ("adapters_not_loaded", f"no layer takes these of the adapter: {listed(about['unmatched'])}")
            )
            return TrainableSet(kept, str(under.base), about, (), tuple(findings))
        checkpoint = open_checkpoint(folder, base=under.base)
        slot = slot_of(checkpoint.config, embodiment)
        name, read = str(under.base), _reader(under, slot)
    else:
        checkpoint = open_checkpoint(folder)
        kept = recorded(folder, checkpoint.config)
        slot = slot_of(checkpoint.config, embodiment)
        name, found = _base(checkpoint, kept, base, slot, findings)
        if found is None:
            return TrainableSet(kept, "", about, (), tuple(findings))
        read = found
    parts = _compared(checkpoint, read, slot)
    findings += _judged(kept, about, parts)
    return TrainableSet(kept, name, about, parts, tuple(findings))


def recorded(folder: Path, config: GrootConfig | None = None) -> Recorded | None:
    """Of our run.json in the checkpoint or, for a merged one, beside it; else of an adapter's configuration.

    config: of the model, to tell which layers an adapter's options choose. Raises TrainingError: a damaged
    file.
    """
    beside = [path for _, path in checkpoint_folders(folder.parent)]
    for home in (folder, *reversed(beside)):
        file = home / RUN
        if not file.is_file():
            continue
        raw = _json(file)
        options = dict(raw.get("options", {}))
        trains = _trains(options, config)
        rank = options.get("lora_rank")
        return Recorded(str(file), options, trains, raw.get("base", {}), home, rank)
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        return None
    raw = _json(file)
    options = {key: raw.get(key) for key in ("r", "lora_alpha", "target_modules", "modules_to_save")}
    base = {"name": raw.get("base_model_name_or_path") or ""}
    return Recorded(str(file), options, (), base, folder, raw.get("r"))


def _json(file: Path) -> dict[str, Any]:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise TrainingError(f"{file} is no table")
    return raw


def _trains(options: Mapping[str, Any], config: GrootConfig | None) -> tuple[str, ...]:
    """Components that the options train; by their flags alone where the model or an option is not known."""
    flagged = tuple(one.name for one in COMPONENTS if one.used and options.get(one.flag))
    if config is None or not options.get("lora_rank"):
        return flagged
    try:
        wanted = TrainOptions.from_dict(options)
        with torch.device("meta"):
            model = Groot(config, Parts.used(slot_of(config, wanted.embodiment_tag)))
    except OptionError:
        return flagged
    chosen = selection(model, wanted)
    names = {component_of(f"{name}.weight").name for name in chosen.adapted}
    names |= {component_of(name).name for name in chosen.whole}
    return tuple(one.name for one in COMPONENTS if one.name in names)


def _about(adapter: Adapter) -> dict[str, Any]:
    zero = [key for key, pair in adapter.pairs.items() if not bool(pair.b.read().any())]
    ranks = {pair.a.shape[0] for pair in adapter.pairs.values()}
    return {
        "layers": len(adapter.pairs),
        "rank": max(ranks, default=0),
        "zero": len(zero),
        "whole": len(adapter.trained),
        "unmatched": [],
    }


def _beside(adapter: Adapter) -> str:
    if not adapter.base:
        raise GrootError(f"{adapter.folder} names no base; give its folder as base")
    near = adapter.folder / adapter.base
    return str(near.resolve()) if near.is_dir() else adapter.base


def _base(
    checkpoint: Checkpoint,
    kept: Recorded | None,
    given: str,
    slot: int,
    findings: list[tuple[str, str]],
) -> tuple[str, ReadBase | None]:
    """What a whole checkpoint is compared with; None where nothing is known or here."""
    name, kind, seed = given, "", 42
    if not given and kept is not None:
        name, kind = str(kept.base.get("name") or ""), str(kept.base.get("kind") or "")
        seed = int(kept.options.get("seed", seed))
        if kind == "folder":
            name = str((kept.folder / name).resolve())
    size, _, number = name.partition("@")
    if size in MEMBERS and (kind == "member" or not Path(name).is_dir()):
        seed = int(number) if number else seed
        return f"{size}'s random weights of seed {seed}", _drawn(member(size), slot, seed)
    if name:
        try:
            under = open_checkpoint(name)
        except GrootError as error:
            findings.append(("base_unknown", f"the base {name} cannot be opened: {error}"))
            return "", None
        if kept is not None and not given and kept.base.get("sha256"):
            digest = Origin.of(name, under.base).sha256
            if digest != kept.base["sha256"]:
                findings.append(
                    ("other_base", f"{name} is not the base that the run recorded, by its SHA-256")
                )
        return str(under.base), _reader(under, slot)
    for (
        size
    ) in MEMBERS:  # a small model that says nothing: perhaps from the random weights that `train` draws
        if member(size).to_dict() == checkpoint.config.to_dict():
            read = _drawn(checkpoint.config, slot, seed)
            if _kin(checkpoint, read, slot) > KIN:
                return f"{size}'s random weights of seed {seed} (guessed: they are alike)", read
    findings.append(
        ("base_unknown", "no base is recorded or given, so what was trained cannot be told from the weights")
    )
    return "", None


def _reader(checkpoint: Checkpoint, slot: int) -> ReadBase:
    def read(key: str) -> Tensor | None:
        stored = checkpoint.stored(key)
        if stored is None or (stored.slots is not None and slot not in stored.slots):
            return None
        return checkpoint.read(key, dtype=torch.float32, slots=Parts.used(slot).rows(key))

    return read


def _drawn(config: GrootConfig, slot: int, seed: int) -> ReadBase:
    with torch.device("meta"):
        model = Groot(config, Parts(embodiments=(slot,)))
    tensors = initialise(model.to_empty(device="cpu"), seed).state_dict()
    return tensors.get


def _kin(checkpoint: Checkpoint, base: ReadBase, slot: int) -> float:
    """Cosine of matrices with those of the base, all as one vector."""
    read = _reader(checkpoint, slot)
    sums = torch.zeros(3, dtype=torch.float64)
    for key in checkpoint.weights.tensors:
        now, then = read(key), base(key)
        if now is not None and then is not None and now.dim() > 1:
            sums += torch.stack([(now * then).sum(), (now * now).sum(), (then * then).sum()]).double()
    return float(sums[0] / (sums[1] * sums[2]).sqrt().clamp(min=1e-30))


def _compared(checkpoint: Checkpoint, base: ReadBase, slot: int) -> tuple[Part, ...]:
    read = _reader(checkpoint, slot)
    rows: dict[str, list[tuple[int, bool, float, float]]] = {}
    for key in published_shapes(checkpoint.config):
        now, then = read(key), base(key)
        if now is None or then is None:
            continue
        stored = checkpoint.stored(key)
        if checkpoint.adapter is None and stored is not None and stored.dtype in DTYPES:
            then = then.to(DTYPES[stored.dtype]).float()  # as saving rounds what did not change
        changed = not torch.equal(now, then)
        moved = float((now - then).double().square().sum()) if changed else 0.0
        size = float(then.double().square().sum())
        rows.setdefault(component_of(key).name, []).append((now.numel(), changed, moved, size))
    parts = []
    for component in COMPONENTS:
        found = rows.get(component.name, [])
        if not found or not component.used:
            continue
        moved, size = sum(row[2] for row in found), sum(row[3] for row in found)
        parts.append(
            Part(
                component.name,
                component.flag,
                len(found),
                sum(row[1] for row in found),
                sum(row[0] for row in found),
                sum(row[0] for row in found if row[1]),
                (moved / size) ** 0.5 if size else float(moved > 0),
            )
        )
    return tuple(parts)


def _judged(
    kept: Recorded | None, about: Mapping[str, Any] | None, parts: tuple[Part, ...]
) -> list[tuple[str, str]]:
    findings = []
    moved = {part.name for part in parts if part.changed}
    slots = {part.name for part in COMPONENTS if part.slots}
    adapted = about is not None or bool(kept and kept.lora_rank)
    if about and about["layers"] and about["zero"] == about["layers"]:
        findings.append(
            (
                "adapters_not_loaded",
                f"B of all {about['layers']} adapters is zero: they add nothing to their layers",
            )
        )
    elif about and about["zero"]:
        findings.append(
            ("adapters_partly_zero", f"B of {about['zero']} of {about['layers']} adapters is zero")
        )
    elif about is None and not moved:
        findings.append(
            (
                "adapters_not_loaded",
                "the checkpoint is its base, bit for bit: no adapter was merged into it, nothing was trained",
            )
        )
    elif about is None and adapted and moved <= slots | {"position_embedding"}:
        findings.append(
            (
                "adapters_not_loaded",
                f"the run trained adapters of rank {kept.lora_rank if kept else 0}, but no adapted layer"
                " differs from its base: they were not merged",
            )
        )
    if moved - slots and not moved & slots:
        findings.append(
            (
                "slot_at_base",
                "the embodiment's encoders and decoder are at the base's values, though other parts were"
                " trained: nothing maps this robot's joints",
            )
        )
    missing = [name for name in (kept.trains if kept else ()) if name not in moved and _is_in(parts, name)]
    if missing:
        findings.append(
            ("not_as_recorded", f"recorded as trained, and at the base's values: {', '.join(missing)}")
        )
    if "language" not in moved and "vision" not in moved:
        findings.append(("backbone_frozen", "language model and vision tower are the base's"))
    return findings


def _is_in(parts: tuple[Part, ...], name: str) -> bool:
    return any(part.name == name for part in parts)
