# SPDX-License-Identifier: Apache-2.0
"""The offline checks name what is planted in real small checkpoints: text that is cut, adapters that do
nothing, weights that are not as recorded; and they leave an obedient policy alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))  # for the tests' own modules, with --import-mode=importlib

from drawn_kitchen import SENTENCES, scenes, write

from chefmate.obey_offline import CHECKS, offline, offline_backend, offline_impossible
from chefmate_policy.data.mixture import Mixture
from chefmate_policy.data.writing import DatasetWriter
from chefmate_policy.groot import sizes
from chefmate_policy.groot.adapter import save_adapter
from chefmate_policy.groot.initialise import initialise
from chefmate_policy.groot.model import Groot, Parts
from chefmate_policy.groot.processor import Processor
from chefmate_policy.groot.saving import save_checkpoint
from chefmate_policy.inference.backend import Chunk, Observation
from chefmate_policy.obedience.gap import GapError, gap
from chefmate_policy.obedience.intervals import ratio, share
from chefmate_policy.obedience.observations import Demonstrated, Observations, View, from_dataset
from chefmate_policy.obedience.separation import apart, separation
from chefmate_policy.obedience.trainable import trainable
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.start import make_processor, open_base

Array = NDArray[np.float64]
torch.set_num_threads(1)
LAYER = "action_head.model.transformer_blocks.0.attn1.to_q"
LAYOUTS = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("offline") / "drawn", LAYOUTS, seed=3)


@pytest.fixture(scope="module")
def processor(dataset: Path) -> Processor:
    options = TrainOptions(
        dataset_path=(str(dataset),), base_model_path="drawn", tune_llm=True, tune_visual=True
    )
    return make_processor(open_base(options), Mixture.open([dataset]), options)


@pytest.fixture(scope="module")
def seen(dataset: Path) -> Observations:
    return from_dataset(dataset, most=LAYOUTS)


@pytest.fixture
def model() -> Groot:
    """Random weights."""
    return initialise(Groot(sizes.member("drawn"), Parts.used(0)), 1).eval()


@pytest.fixture
def save(tmp_path: Path, processor: Processor) -> Callable[..., Path]:
    def write_checkpoint(model: Groot, name: str, **run: Any) -> Path:
        folder = tmp_path / name
        save_checkpoint(model, folder, processor=processor, complete=False)
        if run:
            (folder / "training").mkdir()
            (folder / "training" / "run.json").write_text(json.dumps(run))
        return folder

    return write_checkpoint


def nudge(model: Groot, *prefixes: str) -> None:
    """As training moves weights."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.startswith(prefixes):
                parameter.mul_(1.01)


def cut(model: Groot, processor: Processor) -> None:
    """Every word is embedded alike: what is said does not reach the model."""
    words = {
        token
        for sentence in SENTENCES
        for name in ("bread", "cheese", "patty")
        for token in processor.tokenizer.encode(sentence.format(name))
    }
    with torch.no_grad():
        table = model.backbone.language.embed_tokens.weight
        table[sorted(words)] = table[processor.tokenizer.null_id].clone()


# --- what was trained -------------------------------------------------------------------------------------


def test_trained_components_are_found_by_their_weights(model: Groot, save: Callable[..., Path]) -> None:
    base = save(model, "base")
    nudge(model, "action_head.model.", "action_head.state_encoder.", "action_head.action_")
    tuned = save(model, "tuned", options={"tune_diffusion_model": True}, base={})
    found = trainable(tuned, str(base))
    changed = {part.name for part in found.parts if part.changed}
    assert changed == {"dit", "state_encoder", "action_encoder", "action_decoder"}
    dit = next(part for part in found.parts if part.name == "dit")
    assert dit.changed == dit.tensors and dit.relative_change == pytest.approx(0.01, rel=1e-3)
    figures = found.to_dict()
    assert figures["slot_changed"] and not figures["language_changed"] and not figures["vision_changed"]
    assert "backbone_frozen" in [code for code, _ in found.findings]


def test_unrounded_base_of_a_bf16_checkpoint_is_not_taken_for_a_change(
    model: Groot, save: Callable[..., Path]
) -> None:
    base = save(model, "base")
    model = model.to(torch.bfloat16)
    nudge(model, "action_head.")
    found = trainable(save(model, "tuned"), str(base))
    assert found.verdict == "trained"
    assert {part.name for part in found.parts if not part.changed} == {"vision", "connector", "language"}


def test_record_that_the_weights_contradict_is_named(model: Groot, save: Callable[..., Path]) -> None:
    base = save(model, "base")
    nudge(model, "action_head.")
    options = {"tune_llm": True, "tune_projector": True, "tune_diffusion_model": True}
    found = trainable(save(model, "tuned", options=options, base={"name": "../base", "kind": "folder"}))
    assert found.base == str(base)
    assert found.verdict == "not_as_recorded" and "language" in found.line


def test_slot_left_at_the_base_is_named(model: Groot, save: Callable[..., Path]) -> None:
    base = save(model, "base")
    nudge(model, "action_head.model.")
    assert trainable(save(model, "tuned"), str(base)).verdict == "slot_at_base"


def test_merged_checkpoint_that_is_its_base_is_named(model: Groot, save: Callable[..., Path]) -> None:
    base = save(model, "base")
    found = trainable(save(model, "same", options={"lora_rank": 4}, base={}), str(base))
    assert found.verdict == "adapters_not_loaded" and "bit for bit" in found.line


@pytest.mark.parametrize(
    ("layer", "b", "verdict", "told"),
    [
        (LAYER, 0.0, "adapters_not_loaded", "B of all 1 adapters is zero"),
        ("action_head.transformer.to_q", 0.1, "adapters_not_loaded", "no layer takes"),
        (LAYER, 0.1, "slot_at_base", "dit"),
    ],
)
def test_adapters_that_do_nothing_are_named(
    model: Groot,
    save: Callable[..., Path],
    tmp_path: Path,
    layer: str,
    b: float,
    verdict: str,
    told: str,
) -> None:
    save(model, "base")
    width = model.get_submodule(LAYER).weight.shape  # [out, in]
    pair = (torch.ones(2, width[1]), torch.full((width[0], 2), b))
    save_adapter(tmp_path / "adapter", "../base", {layer: pair}, rank=2, alpha=4)
    found = trainable(tmp_path / "adapter")
    assert found.verdict == verdict and told in found.line


def test_nothing_to_compare_with_is_said(model: Groot, save: Callable[..., Path]) -> None:
    found = trainable(save(model, "alone"), "")
    assert found.verdict == "adapters_not_loaded" or found.verdict == "base_unknown"
    gone = trainable(save(model, "lost", options={}, base={"name": "../gone", "kind": "folder"}))
    assert gone.verdict == "base_unknown" and "gone" in gone.line and not gone.parts


# --- features ---------------------------------------------------------------------------------------------


def test_untrained_model_has_words_in_text_tokens_and_none_in_images_before_them(
    model: Groot, processor: Processor, seen: Observations
) -> None:
    found = separation(model, processor, seen.views)
    image, text = (found.stages["backbone"][kind] for kind in ("image", "text"))
    assert image.equal and not image.found  # causal: images stand before the words
    assert image.probe.value == pytest.approx(image.chance) == pytest.approx(1 / 3)
    assert text.found and text.within.value > 0.9
    assert found.verdict == "apart" and found.identical == 0
    assert "unrelated" in found.seeds_reading


def test_text_that_is_cut_in_the_model_is_identical_to_the_head(
    model: Groot, processor: Processor, seen: Observations
) -> None:
    cut(model, processor)
    one_length = [  # names of one token: the number of tokens is all that could be told otherwise
        replace(view, asked=tuple((f"pick up the {label}", label) for _, label in view.asked))
        for view in seen.views
    ]
    found = separation(model, processor, one_length)
    assert found.verdict == "identical" and found.identical == 0
    assert "features do not" in found.line


def test_prompt_that_drops_the_words_is_found_by_its_tokens(
    model: Groot, processor: Processor, seen: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = processor.prompts.prompt
    monkeypatch.setattr(processor.prompts, "prompt", lambda words, cameras: build(None, cameras))
    found = separation(model, processor, seen.views)
    assert found.verdict == "identical" and found.identical == found.pairs > 0
    assert "drops or cuts the words" in found.line


def test_probe_needs_a_direction_that_layouts_share() -> None:
    random = np.random.default_rng(1)
    scene = 5.0 * random.normal(size=(10, 1, 32))
    shared = apart(scene + random.normal(size=(1, 4, 32)))
    assert shared.found and shared.within.value == 1.0
    assert shared.cosine.same > 0.9  # near 1, and yet told apart
    odd = apart(scene + random.normal(size=(10, 4, 32)))  # differs, but each layout in its own way
    assert not odd.equal and not odd.found


# --- actions ----------------------------------------------------------------------------------------------


def views(count: int = 10) -> list[View]:
    """Layouts with two named things and an idle demonstration; the actions are a number, 16 times."""
    random = np.random.default_rng(2)
    found = []
    for number in range(count):
        ends = random.uniform(0.3, 1.0, 2) * [1.0, -1.0]
        told = [
            Demonstrated(text, text, np.full((16, 1), end))
            for text, end in zip(("a", "b"), ends, strict=True)
        ]
        told.append(Demonstrated("stay", "", np.zeros((16, 1))))
        found.append(View(str(number), {}, np.zeros(1), (("a", "a"), ("b", "b")), tuple(told)))
    return found


def wanted(view: View, text: str) -> Array:
    return next(one.actions for one in view.demonstrated if one.text == text)


def wiggle(number: int, size: float) -> float:
    return size * (-1.0) ** number


def obeys(view: View, text: str, number: int) -> Array:
    return 0.8 * wanted(view, text) + wiggle(number, 0.05)


def ignores(view: View, text: str, number: int) -> Array:
    return wanted(view, "a") + wiggle(number, 0.05)


def picks_by_noise(view: View, text: str, number: int) -> Array:
    return wanted(view, "ab"[number % 2])


def contrary(view: View, text: str, number: int) -> Array:
    return wanted(view, {"a": "b", "b": "a"}.get(text, text))


def fumbles(view: View, text: str, number: int) -> Array:
    return 0.3 * wanted(view, text) + wiggle(number, 0.4)


def undirected(view: View, text: str, number: int) -> Array:
    """Moved by the words as much as wanted, where the demonstrations do not differ."""
    return np.full((16, 1), {"a": 0.9, "b": -0.9, "stay": 0.0}[text] * (-1) ** int(view.layout))


@pytest.mark.parametrize(
    ("act", "verdict", "told"),
    [
        (obeys, "follows", "follow the words"),
        (fumbles, "follows", "far from the demonstrations"),
        (ignores, "ignores", "to the last bit"),
        (picks_by_noise, "ignores", "the noise picks"),
        (contrary, "contrary", "the other instruction"),
        (undirected, "undirected", "not to where they say"),
    ],
)
def test_gap_tells_obedience_from_what_looks_like_it(act: Any, verdict: str, told: str) -> None:
    found = gap(views(), act, lambda actions: actions)
    assert (found.verdict, told in found.line) == (verdict, True), found.line
    if act is ignores:
        assert found.directional.value == 0.5 and found.gain.value == 0.0
    if act is obeys:
        assert found.gain.value == pytest.approx(0.8) and found.directional.value == 1.0
        assert found.directional.low < 0.8  # ten layouts show no more
        assert found.directional_idle is not None and found.directional_idle.value == 1.0


def test_demonstrations_that_have_not_parted_are_no_pairs() -> None:
    same = [
        replace(
            view, demonstrated=tuple(replace(one, actions=np.zeros((16, 1))) for one in view.demonstrated)
        )
        for view in views()
    ]
    with pytest.raises(GapError, match="30 pairs do not part"):
        gap(same, ignores, lambda actions: actions)


def test_intervals_are_wider_with_fewer_layouts() -> None:
    right, asked = np.array([2.0, 1.0, 2.0, 2.0]), np.full(4, 2.0)
    few, many = share(right, asked), share(np.tile(right, 10), np.tile(asked, 10))
    assert few.value == many.value == pytest.approx(0.875)
    assert few.low < many.low < many.value < many.high < few.high
    assert share(asked, asked).low < 0.6  # 4 of 4
    assert share(np.zeros(4), asked).high > 0.4
    halves = ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    assert (halves.low, halves.value, halves.high) == (0.5, 1.0, 1.5)


# --- observations, and the whole --------------------------------------------------------------------------


def test_dataset_gives_one_observation_per_layout(seen: Observations) -> None:
    drawn = {str(scene.number): scene for scene in scenes(LAYOUTS, 3)}
    assert seen.to_dict() | {"labels": 0, "folder": 0} == {
        "source": "dataset", "folder": 0, "seed": 1, "layouts": LAYOUTS, "labels": 0,
        "instructions": len({text for view in seen.views for text, _ in view.asked}),
        "demonstrations": 2 * LAYOUTS, "pairs": LAYOUTS,
    }  # fmt: skip
    for view in seen.views:
        assert [label for _, label in view.asked] == ["bread", "cheese", "patty"]
        scene = drawn[view.layout]
        assert sorted(one.label for one in view.demonstrated) == sorted(scene.standing)
        for one in view.demonstrated:
            assert one.actions[-1] == pytest.approx(scene.goal(one.label), abs=1e-4)
            assert one.actions == pytest.approx(scene.actions(one.label), abs=1e-4)
            assert one.actions.shape == (16, 6) and (one.actions[12:] == one.actions[11]).all()


def test_layouts_that_a_dataset_does_not_name_are_told_by_their_pictures(tmp_path: Path) -> None:
    with DatasetWriter(
        tmp_path / "own", fps=10, joints=["a.pos", "b.pos"], cameras={"top": (32, 32)}
    ) as made:
        for level in (40, 120, 200):
            for text, end in (("pick up the cheese", 1.0), ("pick up the bread", -1.0)):
                path = np.linspace(0, end, 20)[:, None].repeat(2, 1).astype(np.float32)
                made.add_episode(text, path, path, {"top": np.full((20, 32, 32, 3), level, np.uint8)})
    found = from_dataset(tmp_path / "own")
    assert [len(view.demonstrated) for view in found.views] == [2, 2, 2]
    cheese = next(one for one in found.views[0].demonstrated if one.label == "cheese")
    assert cheese.actions[:, 0] == pytest.approx(np.linspace(0, 1, 20)[:16])  # from the first frame on


def test_checks_of_a_checkpoint_whose_text_is_cut(
    model: Groot, processor: Processor, save: Callable[..., Path], dataset: Path
) -> None:
    cut(model, processor)
    lines: list[str] = []
    made = offline(str(save(model, "cut")), dataset, True, lines.append, base="drawn@1", device="cpu")
    rows = {row["check"]: row for row in made["checks"]}
    assert tuple(rows) == CHECKS and all(row["possible"] for row in rows.values())
    assert rows["gap"]["verdict"] == "ignores", rows["gap"]["line"]
    assert "language" in rows["trainable"]["line"]
    assert made["observations"]["layouts"] == LAYOUTS
    assert json.loads(json.dumps(made)) == made and lines


def test_untrained_checkpoint_is_not_said_to_follow(
    model: Groot, save: Callable[..., Path], dataset: Path
) -> None:
    made = offline(str(save(model, "random")), dataset, True, base="drawn@1", device="cpu")
    rows = {row["check"]: row for row in made["checks"]}
    assert rows["trainable"]["verdict"] == "adapters_not_loaded"
    assert rows["gap"]["verdict"] in ("ignores", "undirected", "undecided")
    low, high = (rows["gap"]["figures"]["gain"][end] for end in ("low", "high"))
    assert abs(low) < 0.2 and abs(high) < 0.2


def test_checkpoint_of_another_robot_needs_a_dataset(model: Groot, save: Callable[..., Path]) -> None:
    rows = offline(str(save(model, "other")), base="drawn@1", device="cpu")["checks"]
    assert [row["possible"] for row in rows] == [True, False, False]
    assert "give a dataset of its own robot" in rows[1]["line"]
    assert [row["possible"] for row in offline_impossible("expert", "it reads poses")["checks"]] == [
        False
    ] * 3


class Follower:
    """A backend that answers with the demonstrations of a dataset, and noise of its own."""

    needs_images = needs_joint_states = True
    needs_expert_state = False
    model_id = "server:follower"

    def __init__(self, seen: Sequence[View]) -> None:
        self.seen, self.random = seen, np.random.default_rng(4)

    def infer(self, observation: Observation) -> Chunk:
        from chefmate_driver.arm.model import JOINT_NAMES
        from chefmate_policy.units import JointUnits, so101_units

        pixels = observation.images["scene"].pixels
        view = next(view for view in self.seen if np.array_equal(view.images["scene"], pixels))
        path = next(one.actions for one in view.demonstrated if one.text == observation.instruction)
        radians = JointUnits(so101_units(JOINT_NAMES, "degrees")).radians(path)
        noisy = radians + self.random.normal(scale=0.05, size=radians.shape)
        return Chunk(observation.stamp, np.arange(16) / 10.0, noisy)


def test_server_is_asked_for_actions_alone(dataset: Path) -> None:
    backend: Any = Follower(from_dataset(dataset, most=12, seed=0).views)
    made = offline_backend(backend, "server", dataset, True, cameras=("scene",))
    assert [row["possible"] for row in made["checks"]] == [False, False, True]
    row = made["checks"][2]
    assert row["verdict"] == "follows" and row["figures"]["noise"] == "drawn anew", row["line"]
    assert row["figures"]["unit"] == "rad" and row["figures"]["gain"]["value"] == pytest.approx(1.0, abs=0.1)


def test_twin_gives_demonstrations_that_part_from_one_observation() -> None:
    from chefmate_driver.arm.model import JOINT_NAMES
    from chefmate_driver.kitchen.render import import_mujoco
    from chefmate_policy.units import JointUnits, so101_units

    import_mujoco()
    from chefmate.obey_views import from_twin

    units = JointUnits(so101_units(JOINT_NAMES, "degrees"))
    seen = from_twin(units, (64, 48), 10.0, 16, layouts=1)
    assert seen.to_dict()["layouts"] == 1 and seen.to_dict()["pairs"] >= 1
    for view in seen.views:
        assert {name: picture.shape for name, picture in view.images.items()} == {
            "scene": (48, 64, 3),
            "wrist": (48, 64, 3),
        }
        assert len(view.asked) == len({label for _, label in view.asked}) == 5
        said = {label: one.actions for one in view.demonstrated for label in [one.label]}
        assert all(actions.shape == (16, 6) for actions in said.values())
        assert np.ptp(said.pop(""), axis=0).max() < 1.0  # degrees: told not to, it stays
        ends = [actions[-1, 0] for actions in said.values()]  # shoulder pan, at another slot each
        assert min(abs(a - b) for i, a in enumerate(ends) for b in ends[:i]) > 5.0
        assert all(np.abs(actions[0] - view.state).max() < 2.0 for actions in said.values())
