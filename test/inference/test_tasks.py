# SPDX-License-Identifier: Apache-2.0
"""Adapters per task on one base, changed in place."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from chefmate_policy.groot.adapter import save_adapter
from chefmate_policy.groot.checkpoint import load_model, open_checkpoint
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.errors import InputError
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.metadata import METADATA
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.groot.processor import PROCESSOR
from chefmate_policy.groot.saving import save_checkpoint
from chefmate_policy.groot.sizes import member
from chefmate_policy.inference.backend import BackendError
from chefmate_policy.inference.checkpoint_policy import CheckpointOptions, CheckpointPolicy
from chefmate_policy.inference.engine import Engine
from chefmate_policy.inference.tasks import TaskEngine, task_of

sys.path.insert(0, str(Path(__file__).resolve().parent))
from small_checkpoint import JOINTS, write_small_checkpoint

QUERY = "action_head.model.transformer_blocks.{}.attn1.to_q"
LANGUAGE = "backbone.eagle_model.language_model.model.layers.1.self_attn.v_proj"
SLOT = "action_head.action_encoder.W1.W"


def write_adapter(folder: Path, base: Path, config: GrootConfig, blocks: tuple[int, ...], slot: bool) -> None:
    random = torch.Generator().manual_seed(sum(blocks))
    with torch.device("meta"):
        model = Groot(config, Parts.used(0))
    pairs = {}
    for name in [QUERY.format(block) for block in blocks] + [LANGUAGE]:
        layer = model.get_submodule(name)
        a = torch.randn(4, int(layer.in_features), generator=random)  # type: ignore[arg-type]
        pairs[name] = a, 0.2 * torch.randn(int(layer.out_features), 4, generator=random)  # type: ignore[arg-type]
    shape = model.get_parameter(SLOT).shape
    trained = {SLOT: torch.randn(shape, generator=random)} if slot else None
    save_adapter(folder, str(base), pairs, rank=4, alpha=8, trained=trained, embodiments=(0,))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Path]:
    root, config = tmp_path_factory.mktemp("tasks"), member("small-3m")
    save_checkpoint(initialise(Groot(config), 0), root / "base")
    write_adapter(root / "cheese", root / "base", config, (0, 1), slot=True)
    write_adapter(root / "bread", root / "base", config, (1, 2), slot=False)  # shares one layer, has no slot
    return {None: root / "base", "cheese": root / "cheese", "bread": root / "bread"}


@pytest.fixture(scope="module")
def build(folders: dict[str | None, Path]) -> Callable[[str | None], Engine]:
    return lambda task: Engine(load_model(open_checkpoint(folders[task]), Parts.used(0)), slot=0)


def actions(engine: Engine) -> torch.Tensor:
    random, config = torch.Generator().manual_seed(1), engine.config
    tokens, side = 2 * config.vision.tokens, config.vision.image_size
    ids = torch.randint(20, 200, (tokens + 10,), generator=random)
    ids[4 : 4 + tokens] = config.image_token_index
    head = config.action_head
    return engine(
        torch.rand(2, 3, side, side, generator=random),
        torch.rand(1, head.state_dim, generator=random),
        engine.prompt(ids),
        torch.randn(head.action_horizon, head.action_dim, generator=random),
    ).clone()


@pytest.fixture(scope="module")
def tasks(build: Callable[[str | None], Engine]) -> TaskEngine:
    return TaskEngine(build, ["cheese", "bread"])


def test_each_task_acts_as_its_own_engine_and_a_hundred_changes_leave_no_trace(
    build: Callable[[str | None], Engine], tasks: TaskEngine
) -> None:
    own = {task: actions(build(task)) for task in (None, "cheese", "bread")}
    assert not torch.equal(own[None], own["cheese"]) and not torch.equal(own["bread"], own["cheese"])
    pristine = [tensor.clone() for tensor in tasks._tensors]
    order = torch.randint(3, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    for number, choice in enumerate(order):
        task = (None, "cheese", "bread")[choice]
        engine = tasks.use(task)
        if number % 10 == 0:
            assert torch.equal(actions(engine), own[task])
    tasks.use(None)
    assert all(torch.equal(now, then) for now, then in zip(tasks._tensors, pristine, strict=True))
    assert torch.equal(actions(tasks.engine), own[None])


def test_the_instruction_chooses_the_adapter(folders: dict[str | None, Path], tmp_path: Path) -> None:
    base = write_small_checkpoint(tmp_path / "base", resolution=(64, 48))
    config = member("small-3m")
    entries = []
    for task, blocks in (("cheese", (0, 1)), ("bread", (1, 2))):
        write_adapter(tmp_path / task, base, config, blocks, slot=True)
        entries.append(f"{task}={tmp_path / task}")
    together = CheckpointPolicy(str(base), CheckpointOptions(seed=3, tasks=tuple(entries)), JOINTS)
    together.warm_up()
    random = np.random.default_rng(0)
    frames = {name: random.integers(0, 255, (48, 64, 3), dtype=np.uint8) for name in ("scene", "wrist")}
    state = np.zeros(6)
    for task in ("cheese", "bread", "cheese"):
        alone = CheckpointPolicy(str(tmp_path / task), CheckpointOptions(seed=3), JOINTS)
        words = f"pick up the {task}"
        np.testing.assert_array_equal(
            together.act(frames, state, words)[0], alone.act(frames, state, words)[0]
        )
    with pytest.raises(InputError, match="'go home' names none of the tasks cheese, bread"):
        together.act(frames, state, "go home")
    with pytest.raises(BackendError, match="must be task=adapter"):
        CheckpointPolicy(str(base), CheckpointOptions(tasks=("cheese",)), JOINTS)
    (tmp_path / "bread" / METADATA).parent.mkdir()
    (tmp_path / "bread" / METADATA).write_text((base / METADATA).read_text())
    settings = json.loads((base / PROCESSOR).read_text()) | {"cameras": ["wrist", "scene"]}
    (tmp_path / "bread" / PROCESSOR).write_text(json.dumps(settings))
    with pytest.raises(BackendError, match="'cheese' and 'bread' have other cameras"):
        CheckpointPolicy(str(base), CheckpointOptions(tasks=tuple(entries)), JOINTS)


def test_only_what_differs_is_kept(tasks: TaskEngine) -> None:
    whole = sum(tensor.numel() * tensor.element_size() for tensor in tasks._tensors)
    assert 0 < tasks.bytes < 0.5 * whole
    with pytest.raises(InputError, match="no task 'ham'; there are cheese, bread"):
        tasks.use("ham")
    assert tasks.task is None


def test_the_task_is_the_one_that_the_instruction_names() -> None:
    names = ("cheese", "bread", "lettuce leaf")
    assert task_of("Pick up the  CHEESE and place it.", names) == "cheese"
    assert task_of("take a lettuce  leaf", names) == "lettuce leaf"
    assert task_of("go home", names) is None
    assert task_of("the cheeseburger", names) is None
    with pytest.raises(InputError, match="names 2 tasks: cheese, bread"):
        task_of("put the cheese on the bread", names)
