# SPDX-License-Identifier: Apache-2.0
"""The shortcut verdict on datasets that are made to teach language, or made not to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from filmed_tasks import COLOURS, PLACES, demonstration, places, write_dataset

from chefmate.cli import main
from chefmate_policy.data.features import tower_features
from chefmate_policy.data.meaning import meaning_of
from chefmate_policy.data.mixture import Mixture
from chefmate_policy.data.probe import decode, wilson
from chefmate_policy.data.shortcut import ShortcutError, check_mixture, judge, still_frames
from chefmate_policy.data.shortcut_report import Verdict

LAYOUTS = 18
TEXTS = {
    "cheese": ("pick up the cheese", "grab the cheddar and put it on the plate"),
    "bread": ("pick up the bread", "fetch me some toast"),
}


def one_thing_per_scene(root: Path) -> Path:
    """Confounded: what lies there is what is asked for."""
    random = np.random.default_rng(1)
    episodes = []
    for layout in range(LAYOUTS):
        name = ("cheese", "bread")[layout % 2]
        states, pictures = demonstration({name: places(random, 1)[0]}, name, 8, 3)
        episodes.append((TEXTS[name][layout // 2 % 2], states, pictures))
    return write_dataset(root, episodes)


def every_scene_for_each(
    root: Path, *, length: int = 8, still: int = 3, light: int = 0, named: bool = False
) -> Path:
    """Counterfactual: both things in each scene, recorded once for each. light: of the bread's recordings."""
    random = np.random.default_rng(2)
    episodes, extra = [], []
    for layout in range(LAYOUTS):
        things = dict(zip(COLOURS, places(random, 2), strict=True))
        for name in COLOURS:
            lit = light if name == "bread" else 0
            states, pictures = demonstration(things, name, length, still, lit)
            episodes.append((TEXTS[name][layout % 2], states, pictures))
            extra.append({"layout": layout, "meaning": f"pick {name}"})
    return write_dataset(root, episodes, extra if named else None)


@pytest.fixture(scope="module")
def confounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_thing_per_scene(tmp_path_factory.mktemp("shortcut") / "confounded")


@pytest.fixture(scope="module")
def counterfactual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return every_scene_for_each(tmp_path_factory.mktemp("shortcut") / "counterfactual")


def test_one_thing_per_scene_cannot_teach_language(confounded: Path) -> None:
    report = judge(Mixture.open([confounded]))
    assert report.verdict is Verdict.CANNOT_TEACH
    assert report.before is not None and report.chance is not None
    assert report.before.low > 0.8 and report.chance[0] < 0.65
    assert any("record it once each: pick bread, pick cheese" in line for line in report.mend)


def test_every_scene_for_each_instruction_teaches_language(counterfactual: Path) -> None:
    lines: list[str] = []
    report = check_mixture(Mixture.open([counterfactual]), report=lines.append)
    assert report.verdict is Verdict.TEACHES and len(lines) == 1
    assert report.before is not None and report.before.accuracy <= 0.6
    assert report.layouts == LAYOUTS and report.paired == 1 and "first frames" in report.layouts_from
    assert report.still == pytest.approx(0.3)


def test_long_episodes_do_not_give_a_counterfactual_dataset_away(tmp_path: Path) -> None:
    root = every_scene_for_each(tmp_path / "long", length=40, still=2, named=True)
    report = judge(Mixture.open([root]))
    assert report.verdict is Verdict.TEACHES
    assert report.before is not None and report.before.accuracy <= 0.6
    assert report.layouts == LAYOUTS and report.layouts_from == "the dataset"


def test_light_that_goes_with_the_instruction_is_a_shortcut(tmp_path: Path) -> None:
    root = every_scene_for_each(tmp_path / "lit", light=25, named=True)
    report = judge(Mixture.open([root]))
    assert report.verdict is Verdict.CANNOT_TEACH
    assert "light" in report.mend[0]


def test_too_few_layouts_leave_it_undecided(tmp_path: Path) -> None:
    things = {"cheese": PLACES[0], "bread": PLACES[3]}
    episodes = [
        (TEXTS[name][0], *demonstration({name: things[name]}, name, 6, 2)) for name in ("cheese", "bread") * 2
    ]
    root = write_dataset(tmp_path / "few", episodes)
    assert judge(Mixture.open([root])).verdict is Verdict.UNDECIDED


def test_episodes_that_start_under_way_are_left_out(tmp_path: Path) -> None:
    episodes = [(TEXTS["bread"][0], *demonstration({"bread": PLACES[1]}, "bread", 4, 2))] * 3
    extra = [{"prelude": ""}, {"prelude": "pick up the cheese"}, {}]
    report = judge(Mixture.open([write_dataset(tmp_path / "switched", episodes, extra)]))
    assert report.episodes == 2


def test_training_on_a_shortcut_is_refused_until_it_is_allowed(confounded: Path) -> None:
    lines: list[str] = []
    mixture = Mixture.open([confounded])
    with pytest.raises(ShortcutError, match=r"cannot teach language.*--allow-shortcut"):
        check_mixture(mixture, report=lines.append)
    assert "CANNOT_TEACH_LANGUAGE" in lines[0] and len(lines) > 1
    assert check_mixture(mixture, allow_shortcut=True, report=lines.append).verdict is Verdict.CANNOT_TEACH


def test_one_instruction_is_trained_without_a_question(tmp_path: Path) -> None:
    episodes = [(text, *demonstration({"bread": PLACES[1]}, "bread", 5, 2)) for text in TEXTS["bread"]]
    mixture = Mixture.open([write_dataset(tmp_path / "one", episodes)])
    report = check_mixture(mixture, report=lambda line: None)
    assert report.verdict is Verdict.CANNOT_TEACH and list(report.labels) == ["pick bread"]


def test_the_vision_tower_of_a_checkpoint_sees_the_shortcut(confounded: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from chefmate_policy.groot.initialise import initialise
    from chefmate_policy.groot.model import Groot
    from chefmate_policy.groot.saving import save_checkpoint
    from chefmate_policy.groot.sizes import member

    model = Groot(member("small-3m"))
    initialise(model, 0)
    save_checkpoint(model, tmp_path / "small")
    features = tower_features(tmp_path / "small")
    mixture = Mixture.open([confounded])
    first = np.array([one.start for one in mixture.trajectories])
    (seen,) = features.of(mixture.images.read(first))
    assert features.name.startswith("vision tower of") and seen.shape == (LAYOUTS, 4 * 4 * 128)
    assert decode([seen], np.arange(LAYOUTS) % 2, np.arange(LAYOUTS)).accuracy > 0.8


def test_the_command_prints_the_verdict_and_draws(
    confounded: Path, counterfactual: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "curve.png"
    assert main(["data", "shortcut", str(confounded), "--plot", str(picture)]) == 1
    text = capsys.readouterr().out
    assert (
        "features: pixels of each camera" in text and "CANNOT_TEACH_LANGUAGE" in text and "to mend it" in text
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["data", "shortcut", str(counterfactual), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "TEACHES_LANGUAGE" and len(document["curve"]) == 11


def test_still_frames_end_where_a_joint_has_moved() -> None:
    states = np.zeros((6, 2))
    states[3:, 1] = (0.01, 0.05, 1.0)
    assert still_frames(states, np.array([1.0, 1.0])) == 4
    assert still_frames(states, np.array([1.0, 0.0])) == 3
    assert still_frames(np.zeros((5, 2)), np.array([1.0, 1.0])) == 5


def test_paraphrases_ask_for_the_same() -> None:
    assert {meaning_of(text) for text in TEXTS["bread"]} == {"pick bread"}
    assert meaning_of("Do not pick up the bread.") == meaning_of("") == "idle"
    assert meaning_of("Fold the towel!") == "fold the towel"


@pytest.mark.parametrize(("difference", "least", "most"), [(1e-3, 0.5, 0.5), (1.0, 1.0, 1.0)])
def test_what_coding_leaves_in_twin_pictures_tells_nothing(
    difference: float, least: float, most: float
) -> None:
    layouts, labels = np.repeat(np.arange(12), 2), np.tile([0, 1], 12)
    scenes = np.random.default_rng(0).normal(size=(12, 30))[layouts]
    features = np.column_stack((scenes, difference * 10 * labels)).astype(np.float32)
    assert least <= decode([features], labels, layouts).accuracy <= most


def test_wilson_is_the_published_interval() -> None:
    low, high = wilson(32 / 102, 102)
    assert (round(low, 3), round(high, 3)) == (0.232, 0.409)
