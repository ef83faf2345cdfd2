# SPDX-License-Identifier: Apache-2.0
"""The study: its file, its trainable sets, its base's slots, its scenes and what is counted of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
from drawn_kitchen import write

from chefmate_driver.kitchen.config import KitchenConfig
from chefmate_policy.data.phrasings import Phrasings
from chefmate_policy.data.variants import Stock
from chefmate_policy.groot.checkpoint import load_model, load_processor, open_checkpoint
from chefmate_policy.groot.model import SLOT_PREFIXES, Parts
from chefmate_policy.groot.sizes import member
from chefmate_policy.obedience.sayings import Kitchen
from chefmate_policy.obedience.study import NEW, Run, Study, StudyError, write_kitchen, write_start
from chefmate_policy.obedience.study_report import draw, page
from chefmate_policy.obedience.study_trials import base_plan, figures, plan
from chefmate_policy.obedience.trial import Moved, Outcome, Trial
from chefmate_policy.training.options import TrainOptions
from chefmate_policy.training.params import PUBLISHED_ID, planned
from chefmate_policy.training.reference import rebuild
from chefmate_policy.training.run import train

FILE = Path(__file__).resolve().parents[2] / "config" / "study" / "obedience.yaml"


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.load(FILE)


@pytest.fixture(scope="module")
def start(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "start"
    write_start(study, folder)
    return folder


@pytest.fixture(scope="module")
def kitchen(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    scene, table = write_kitchen(study, tmp_path_factory.mktemp("kitchen"))
    found = KitchenConfig.load(scene)
    return Kitchen(tuple(found.stock), Stock(found.tray.slots, dict(found.stock)), Phrasings.load(table))


def options(study: Study, trainable: str) -> dict[str, object]:
    cell = next(cell for cell in study.cells if cell.trainable == trainable)
    return study.train_options(Run(cell, 1), Path("base"), Path("data"), Path("out"))


def test_the_reference_cell_trains_what_the_references_script_trains(study: Study) -> None:
    given = {**options(study, "reference"), "base_model_path": PUBLISHED_ID, "lora_rank": 32}
    ours = planned(TrainOptions.from_dict(given)).total
    script = rebuild(member("n1.5-3b"), TrainOptions(lora_rank=32))
    assert (ours.trainable, ours.layers) == (script.trainable, sum(script.layers.values())) == (6_553_600, 60)


def test_ranks_scale_with_the_width(study: Study) -> None:
    """32 of 1536 are 4 of 192."""
    assert (study.rank, options(study, "ours")["lora_rank"], options(study, "full")["lora_rank"]) == (4, 4, 0)


def test_only_what_a_cell_names_differs_between_cells(study: Study) -> None:
    """Data, trainable set, prompt and planted fault; all else is common."""
    free = {"dataset_path", "prompt", "prompt_dropout", "plant", "lora_rank", "seed"}
    free |= {"tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model"}
    common = [
        {
            key: value
            for key, value in study.train_options(run, Path("b"), Path("d"), Path("o")).items()
            if key not in free
        }
        for run in study.runs
    ]
    assert all(other == common[0] for other in common)
    assert len({run.name for run in study.runs}) == len(study.runs)


def test_a_study_over_another_changes_what_it_says_alone(study: Study, tmp_path: Path) -> None:
    known = Study.load(FILE.parent / "known_words.yaml")
    assert known.pair == ("cheese", "bread") and known.trials == study.trials
    assert known.data_arguments("look")[-4:] != study.data_arguments("look")[-4:]
    assert "--one-ingredient" in known.data_arguments("confounded")
    assert options(known, "wide")["lora_rank"] == 8 * options(known, "ours")["lora_rank"]
    scene, _ = write_kitchen(known, tmp_path)
    assert set(KitchenConfig.load(scene).stock) >= {"cheese", "bread", "patty", "lettuce", "tomato"}
    (tmp_path / "two.yaml").write_text("over: two.yaml\n", "utf-8")
    with pytest.raises(StudyError, match=r"'two\.yaml' is no name of another file"):
        Study.load(tmp_path / "two.yaml")


def test_quick_changes_amounts_alone(study: Study) -> None:
    quick = Study.load(FILE, quick=True)
    assert quick.cells == study.cells and quick.trials.pairs < study.trials.pairs
    assert "--one-ingredient" in quick.data_arguments("confounded")


def test_cells_are_chosen_by_parts_of_their_names(study: Study) -> None:
    chosen = Study.load(FILE, only=("batch-words", "confounded_full"))
    assert {cell.name for cell in chosen.cells} < {cell.name for cell in study.cells}
    assert len(chosen.cells) == 2
    with pytest.raises(StudyError, match="no cell's name has nothing-like-it"):
        Study.load(FILE, only=("nothing-like-it",))


def test_a_wrong_name_in_the_file_is_told(tmp_path: Path) -> None:
    raw = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    raw["cells"][0]["trainable"] = "everything"
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(raw), "utf-8")
    with pytest.raises(StudyError, match="trainable has no 'everything'"):
        Study.load(file)


def test_the_base_keeps_its_slot_beside_a_fresh_one(study: Study, start: Path) -> None:
    theirs, opened = open_checkpoint(study.checkpoint), open_checkpoint(start)
    slots, tag = opened.config.raw["embodiment_ids"], study.raw["base"]["slot"]
    assert load_processor(opened, tag).metadata.state == load_processor(theirs).metadata.state
    for name, same in ((tag, True), (NEW, False)):
        one = load_model(theirs, Parts.used(0), dtype=torch.float32).state_dict()
        for key, tensor in load_model(opened, Parts.used(slots[name])).state_dict().items():
            if not key.startswith(SLOT_PREFIXES):
                assert torch.equal(one[key], tensor), key
            else:
                assert torch.equal(one[key], tensor) is same, key


def test_a_cell_of_the_reference_leaves_the_slot_as_it_began_and_ours_does_not(
    study: Study, start: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "data", 2, 1)
    small = {"batch_size": 2, "max_steps": 2, "device": "cpu", "camera_size": []}
    torch.set_num_threads(1)
    opened = open_checkpoint(start)
    slots = opened.config.raw["embodiment_ids"]
    before = load_model(opened, Parts.used(slots[NEW]), dtype=torch.bfloat16).state_dict()
    for name, same in (("reference", True), ("ours", False)):
        cell = next(cell for cell in study.cells if cell.trainable == name and cell.plant == "none")
        given = study.train_options(Run(cell, 1), start, data, tmp_path / name) | small
        merged = train(TrainOptions.from_dict(given), say=lambda line: None).merged
        assert merged is not None
        after = load_model(open_checkpoint(merged), Parts.used(slots[NEW])).state_dict()
        keys = [key for key in after if key.startswith(SLOT_PREFIXES) and key.endswith(".W")]
        assert {torch.equal(after[key], before[key]) for key in keys} == {same}
        assert not all(torch.equal(after[key], before[key]) for key in after)


def test_new_ingredients_take_the_parts_of_the_seeds_two(study: Study, kitchen: Kitchen) -> None:
    assert {*kitchen.kinds} == {*study.ingredients, *study.pair}
    sentences = [sentence.text for kind in study.pair for sentence in kitchen.phrasings.picks(kind)]
    assert not any(word in text for text in sentences for word in ("cheese", "bread"))
    for data in ("confounded", "counterfactual"):
        assert set(study.raw["data"][data]["ingredients"]) == set(study.pair)


def test_both_are_asked_for_in_one_scene_with_one_noise(study: Study, kitchen: Kitchen) -> None:
    trials, counts = plan(kitchen, study.trials, study.pair), study.trials
    assert [trial.number for trial in trials] == list(range(len(trials)))
    both = trials[: 2 * counts.pairs]
    for one, second in zip(both[::2], both[1::2], strict=True):
        assert (one.scene, one.noise_seed) == (second.scene, second.noise_seed)
        assert {one.last.target, second.last.target} == {*study.pair} == set(one.scene.standing)
    assert sum(trial.last.row in ("negated", "cell_absent") for trial in trials) == 2 * counts.idle
    places = {trial.cell: (trial.scene.standing, trial.scene.plate) for trial in trials}
    assert places["plate-holder"] == (("beetroot",), ("ham",))
    assert places["nowhere-plate"] == ((), ("beetroot",))
    assert len(places) == 9


def test_the_base_is_asked_for_its_own(study: Study, kitchen: Kitchen) -> None:
    trials = base_plan(replace(kitchen, kinds=study.ingredients), study.trials)
    assert {trial.last.target for trial in trials} == {*study.ingredients, ""}
    assert all({*trial.scene.standing} <= {*study.ingredients} for trial in trials)


def outcome(trial: Trial, touched: str) -> Outcome:
    moved = (Moved(touched, "plate", True),) if touched else ()
    contacts = ((touched, 1.0),) if touched else ()
    return Outcome(trial.number, contacts, contacts, (touched,) if touched else (), moved)


def test_a_policy_that_always_takes_the_ham_is_counted_as_that(study: Study, kitchen: Kitchen) -> None:
    trials = plan(kitchen, study.trials, study.pair)
    deaf = {t.number: outcome(t, "ham" if "ham" in t.scene.standing else "") for t in trials}
    obeying = {t.number: outcome(t, t.last.target) for t in trials}
    pairs = study.trials.pairs
    found = figures({"a_1": (trials, deaf)}, study.pair)
    assert (found["named"]["followed"]["successes"], found["named"]["followed"]["n"]) == (pairs, 2 * pairs)
    assert found["changed"]["successes"] == 0
    assert found["touched"] == {"beetroot": {"ham": pairs}, "ham": {"ham": pairs}}
    matrix = {entry["scenario"]: entry["did"] for entry in found["matrix"]}
    assert matrix[3] == {"cheese": {"nothing": 1}, "bread": {"nothing": 1}}
    assert matrix[2]["bread"] == {"picks cheese": 1}
    both = figures({"a_1": (trials, obeying), "a_3": (trials, deaf)})
    assert both["named"]["followed"]["successes"] == 3 * pairs
    assert (both["changed"]["successes"], both["changed"]["n"]) == (pairs, 2 * pairs)
    assert {name: item["followed"] for name, item in both["followed_by_run"].items()} == {
        "a_1": 2 * pairs, "a_3": pairs,
    }  # fmt: skip
    assert both["idle"]["negated"]["touched_nothing"]["rate"] == 0.5


def test_the_page_has_a_row_for_each_cell_that_ran(study: Study, kitchen: Kitchen, tmp_path: Path) -> None:
    trials = plan(kitchen, study.trials, study.pair)
    found = figures({"a_2": (trials, {t.number: outcome(t, t.last.target) for t in trials})})
    row = {
        "cell": "a", "data": "confounded", "trainable": "ours", "prompt": "image-first", "plant": "none",
        "guidance": 2.0, "parameters": None, "figures": found,
        "runs": [
            {"name": name, "state": "done", "steps": 2, "of": 3, "samples": 8, "loss": 0.5}
            for name in ("a_1", "a_2")  # the first was trained and not tried
        ],
    }  # fmt: skip
    lost = {**row, "cell": "b", "figures": {}, "runs": [{"name": "b_1", "state": "failed"}]}
    results = {
        "command": "chefmate study x", "made": "today", "machine": "one", "seconds": 1.0, "rank": 3,
        "published_rank": 32, "own": ["patty"], "pair": ["ham", "beetroot"], "rows": [row, lost],
        "datasets": {"confounded": {"episodes": 4, "frames": 9}},
        "failures": {"b_1": "exit 1: no memory"}, "missing": {"b_1": 5},
    }  # fmt: skip
    text = page(results)
    whole = f"{2 * study.trials.pairs}/{2 * study.trials.pairs} 100 %"
    assert whole in text and "guidance 2" in text
    assert "| a_1 | 2 of 3 | 8 | 0.5000 | - |" in text
    assert f"| a_2 | 2 of 3 | 8 | 0.5000 | {2 * study.trials.pairs}/{2 * study.trials.pairs} |" in text
    assert "b_1: exit 1: no memory" in text and "5 of b_1" in text
    draw(results, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"
