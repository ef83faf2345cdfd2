# SPDX-License-Identifier: Apache-2.0
"""The options of a training run: one table of names, kinds, defaults and meanings; read from a YAML file and
from overrides.

Names are those of the reference's fine-tuning script; dashes and underscores count the same. Defaults are its
own but for these: `lora_alpha` follows the rank (16 whatever the rank is, there), `data_config` follows the
dataset, and the worker and logging numbers. This module needs neither torch nor the rest of the training.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from chefmate_policy.training.errors import OptionError

__all__ = ["DATA_CONFIGS", "REPLACED", "TrainOptions", "kind_of", "load_options", "option_name", "read_file"]

# data configuration -> cameras in prompt order (None: as the dataset's modality.json has them)
DATA_CONFIGS: dict[str, tuple[str, ...] | None] = {
    "dataset": None,
    "so100": ("webcam",),
    "so100_dualcam": ("front", "wrist"),
}

# options of the reference's script that are no options here -> what to do instead
REPLACED = {
    "lora_full_model": "set tune_llm and tune_visual, which decide where adapters go",
    "video_backend": "leave it out; videos are decoded with PyAV",
    "report_to": "leave it out; every run writes TensorBoard's files and metrics.jsonl",
}

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _option(
    default: Any,
    help: str,
    *,
    among: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of TrainOptions. among: the values there are; least, most: the range of a number."""
    return field(default=default, metadata={"help": help, "among": among, "least": least, "most": most})


@dataclass(frozen=True)
class TrainOptions:
    """All options of a run. Raises OptionError where a value is out of range or two contradict each other."""

    # data
    dataset_path: tuple[str, ...] = _option((), "folders of LeRobot datasets (v2.0, v2.1 or v3.0)")
    dataset_weights: tuple[float, ...] = _option((), "share of each dataset; none: as the balance says")
    data_config: str = _option("dataset", "cameras and their order", among=tuple(DATA_CONFIGS))
    camera_size: tuple[int, ...] = _option(
        (), "width and height of the cameras, where the datasets hold their pictures squeezed", least=1
    )
    embodiment_tag: str = _option("new_embodiment", "whose slot of encoders and decoder trains")
    joint_units: str = _option(
        "degrees",
        "units of the body joints in the datasets; unknown: the checkpoint will not say it",
        among=("degrees", "rad", "-100..100", "unknown"),
    )
    prompt: str = _option(
        "plain", "form of the prompt", among=("plain", "reference_server", "instruction_first")
    )
    prompt_dropout: float = _option(
        0.0, "share of samples whose words are replaced by the null prompt", least=0.0, most=0.9
    )
    balance_dataset_weights: bool = _option(True, "every dataset is drawn equally often")
    balance_trajectory_weights: bool = _option(True, "every episode of a dataset is drawn equally often")
    balance_instruction_weights: bool = _option(
        False, "every instruction of a dataset is drawn equally often"
    )
    allow_shortcut: bool = _option(False, "train on data from which the words can be guessed without reading")
    holdout: float = _option(0.05, "share of the episodes kept for the held-out loss", least=0.0, most=0.5)
    augment: bool = _option(True, "random crop and colours in training, as the reference does")
    plant: str = _option(
        "none",
        "a fault planted on purpose, for studies; batch-words: a whole batch gets its first sample's words",
        among=("none", "batch-words"),
    )
    dataloader_num_workers: int = _option(4, "threads that decode", least=0)
    dataloader_prefetch_factor: int = _option(4, "batches decoded ahead", least=1)

    # the model that it starts from
    base_model_path: str = _option(
        "nvidia/GR00T-N1.5-3B",
        "folder or hub id; or the name of a small member (small-3m, small-7m), from random weights",
    )
    base_revision: str | None = _option(None, "commit of a hub id; none: the newest")
    statistics: str = _option(
        "data",
        "whose statistics scale states and actions; base: the run goes on where the base is",
        among=("data", "base"),
    )

    # what trains
    tune_llm: bool = _option(False, "train the language model")
    tune_visual: bool = _option(False, "train the vision tower and its connector")
    tune_projector: bool = _option(True, "train the embodiment's encoders and decoder")
    tune_diffusion_model: bool = _option(True, "train the DiT and what stands before it")
    lora_rank: int = _option(0, "rank of the adapters; 0: no adapters, tensors train whole", least=0)
    lora_alpha: float | None = _option(None, "scale of the adapters x rank; none: twice the rank", least=0.0)
    lora_dropout: float = _option(0.1, "dropout before the adapters", least=0.0, most=0.9)
    lora_targets: str = _option(
        "qkv", "layers that get adapters: queries, keys and values, or all", among=("qkv", "all-linear")
    )

    # how it trains
    max_steps: int = _option(10_000, "optimizer steps", least=1)
    hours: float | None = _option(
        None, "stop and save after so many hours of steps; none: no limit", least=0.0
    )
    batch_size: int = _option(32, "samples of a pass, per GPU", least=1)
    gradient_accumulation_steps: int = _option(1, "passes of an optimizer step", least=1)
    schedule: str = _option(
        "steps", "where the rate's cosine ends: at max_steps, or at hours", among=("steps", "hours")
    )
    learning_rate: float = _option(1e-4, "highest learning rate", least=0.0, most=1.0)
    weight_decay: float = _option(1e-5, "of matrices; biases, norms and slots' `b` have none", least=0.0)
    warmup_ratio: float = _option(0.05, "share of max_steps in which the rate rises", least=0.0, most=1.0)
    adam_beta1: float = _option(0.95, "of Adam", least=0.0, most=1.0)
    adam_beta2: float = _option(0.999, "of Adam", least=0.0, most=1.0)
    adam_epsilon: float = _option(1e-8, "of Adam", least=0.0)
    max_grad_norm: float = _option(1.0, "gradients are scaled down to this norm; 0: never", least=0.0)
    optimizer: str = _option("adamw", "Adam's moments in float32 or in 8 bit", among=("adamw", "adamw-8bit"))
    precision: str = _option("auto", "of the passes; auto: bf16 on a GPU", among=("auto", "bf16", "fp32"))
    gradient_checkpointing: bool = _option(False, "compute activations again instead of keeping them")
    compile: bool = _option(False, "compile the step with torch.compile")
    seed: int = _option(42, "of sampling, noise and adapters", least=0)
    num_gpus: int = _option(1, "GPUs of this machine", least=1)
    device: str = _option("auto", "cuda, cpu; auto: a GPU where there is one", among=("auto", "cuda", "cpu"))

    # what comes out
    output_dir: str = _option("out/train", "folder of the run")
    save_steps: int = _option(1000, "steps from checkpoint to checkpoint", least=1)
    save_total_limit: int = _option(5, "checkpoints kept", least=1)
    log_steps: int = _option(10, "steps from line to line of the metrics", least=1)
    eval_steps: int = _option(0, "steps from held-out loss to held-out loss; 0: at checkpoints", least=0)
    resume: bool = _option(False, "go on from the newest checkpoint in output_dir")
    merge: bool = _option(False, "write a plain checkpoint at the end, adapters merged")

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_range(item.name, getattr(self, item.name), item.metadata)
        if self.dataset_weights and len(self.dataset_weights) != len(self.dataset_path):
            raise OptionError(
                f"dataset_weights has {len(self.dataset_weights)} numbers for {len(self.dataset_path)}"
                " datasets; give one for each, or none"
            )
        if len(self.camera_size) not in (0, 2):
            raise OptionError(f"camera_size is {list(self.camera_size)}; it must be a width and a height")
        if self.schedule == "hours" and self.hours is None:
            raise OptionError("schedule hours needs a time; set hours")
        if self.lora_rank == 0 and self.lora_alpha is not None:
            raise OptionError(f"lora_alpha {self.lora_alpha:g} without adapters; set lora_rank")
        if not self.flags_on:
            raise OptionError("nothing trains: every tune_* option is off; switch one on")

    @property
    def alpha(self) -> float:
        """Scale of the adapters times the rank: as given, else twice the rank."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    @property
    def flags_on(self) -> tuple[str, ...]:
        """The tune_* options that are on."""
        return tuple(
            item.name for item in fields(self) if item.name[:5] == "tune_" and getattr(self, item.name)
        )

    @property
    def cameras(self) -> tuple[str, ...] | None:
        """Cameras in prompt order; None: as the dataset has them."""
        return DATA_CONFIGS[self.data_config]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a YAML or JSON file."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainOptions:
        """From plain values by name. Raises OptionError naming what is unknown or of another kind."""
        return cls(**{option_name(name): _value(option_name(name), value) for name, value in values.items()})


def load_options(
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> TrainOptions:
    """Options of `base` (a preset), then of a YAML file, then of `overrides`; later ones count.

    Relative paths of datasets in the file are taken from the working directory, as on the command line.
    Raises OptionError: for the file with its name and the line.
    """
    values: dict[str, Any] = {}
    for name, value in (base or {}).items():
        values[option_name(name)] = _value(option_name(name), value)
    if config is not None:
        values |= read_file(config)
    for name, value in (overrides or {}).items():
        values[option_name(name)] = _value(option_name(name), value)
    return TrainOptions(**values)


def read_file(file: Path) -> dict[str, Any]:
    """The options that a YAML file sets. Raises OptionError with the file's name and the line."""
    try:
        with file.open(encoding="utf-8") as stream:
            root = yaml.compose(stream, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{file} is not YAML: {error}") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise OptionError(f"{file}:{root.start_mark.line + 1}: expected lines of `option: value`")
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in root.value:
        line = key_node.start_mark.line + 1
        key, value = (_plain(node, f"{file}:{line}") for node in (key_node, value_node))
        try:
            name = option_name(str(key))
            if name in values:
                raise OptionError(f"{name} is set again; line {lines[name]} sets it already")
            values[name], lines[name] = _value(name, value), line
            _check_range(name, values[name], _FIELDS[name].metadata)
        except OptionError as error:
            raise OptionError(f"{file}:{line}: {error}") from None
    return values


def option_name(given: str) -> str:
    """The option's name, from a spelling with dashes or underscores. Raises OptionError, with the nearest."""
    name = given.replace("-", "_")
    if name in _FIELDS:
        return name
    if name in REPLACED:
        raise OptionError(f"{given} is no option here: {REPLACED[name]}")
    near = difflib.get_close_matches(name, _FIELDS, n=1)
    raise OptionError(f"no option {given!r}" + (f"; did you mean {near[0]}?" if near else ""))


def kind_of(name: str) -> tuple[type, bool, bool]:
    """Type of an option's value, or of one of its values; whether it has several; whether it may be none."""
    hint = _HINTS[name]
    arguments = [argument for argument in get_args(hint) if argument not in (type(None), Ellipsis)]
    several = getattr(hint, "__origin__", None) is tuple
    return (arguments[0] if arguments else hint), several, type(None) in get_args(hint)


def _value(name: str, given: Any) -> Any:
    """A value of an option's kind. Raises OptionError."""
    kind, several, optional = kind_of(name)
    if optional and (given is None or (isinstance(given, str) and given.lower() == "none")):
        return None
    if several:
        items = given if isinstance(given, (list, tuple)) else [given]
        return tuple(_single(name, kind, item) for item in items)
    return _single(name, kind, given)


def _single(name: str, kind: type, given: Any) -> Any:
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
    if kind is bool:
        text = str(given).lower()
        if text in TRUE + FALSE:
            return text in TRUE
    elif not isinstance(given, (bool, list, tuple, dict, type(None))):
        try:
            value = kind(given)
        except ValueError:
            value = None
        if value is not None and (kind is not int or not isinstance(given, float) or given == value):
            return value
    raise OptionError(f"{name} is {given!r}; it must be {wanted}")


def _check_range(name: str, value: Any, about: Mapping[str, Any]) -> None:
    if about["among"] and value not in about["among"]:
        raise OptionError(f"{name} is {value!r}; there are {', '.join(about['among'])}")
    if value is None or isinstance(value, (str, tuple)):
        return
    least, most = about["least"], about["most"]
    if value != value or (least is not None and value < least) or (most is not None and value > most):
        bounds = [f"at least {least:g}"] if least is not None else []
        bounds += [f"at most {most:g}"] if most is not None else []
        raise OptionError(f"{name} is {value:g}; it must be {' and '.join(bounds) or 'a number'}")


def _plain(node: yaml.Node, where: str) -> Any:
    """The Python value of a node."""
    if isinstance(node, yaml.MappingNode):
        raise OptionError(f"{where}: options stand at the top level; there are no sections")
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
    except yaml.YAMLError as error:
        raise OptionError(f"{where}: {error}") from error
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


_FIELDS = {item.name: item for item in fields(TrainOptions)}
_HINTS = get_type_hints(TrainOptions)
