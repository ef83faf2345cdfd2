# SPDX-License-Identifier: Apache-2.0
"""What is said, what is held out, and which scenes it is said in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chefmate_policy.data.phrasings import STYLES, PhrasingError, Phrasings
from chefmate_policy.data.variants import (
    SceneOptions,
    Stock,
    draw_scene,
    draw_variants,
    twin_seed,
)
from chefmate_policy.expert.language import parse_instruction

STOCK = Stock(5, {"bread": 2, "cheese": 1, "patty": 1, "lettuce": 1, "tomato": 1})
ALL = SceneOptions(ingredients=tuple(STOCK.slices))
SEEDS = range(100_000, 100_060)


@pytest.fixture(scope="module")
def phrasings() -> Phrasings:
    return Phrasings.load()


def test_the_recipes_sentences_are_among_them(phrasings: Phrasings) -> None:
    texts = {sentence.text for kind in STOCK.slices for sentence in phrasings.picks(kind)}
    assert "pick up the bread and put it into the white plate" in texts
    assert "pick up the yellow cheese and put it into the white plate" in texts
    assert "pick up the patty and put it into the white plate" in texts


def test_what_is_held_out_is_never_said(phrasings: Phrasings) -> None:
    texts = {(s.phrasing, s.naming): s.text for kind in STOCK.slices for s in phrasings.picks(kind)}
    assert not any("cheddar" in text or "toast" in text for text in texts.values())
    assert not any(phrasing == "fetch" for phrasing, _ in texts)
    assert ("move", "cheese/cheese") not in texts and ("move", "bread/bread") in texts
    everything = Phrasings.load(held_out=())
    assert any("cheddar" in sentence.text for sentence in everything.picks("cheese"))


def test_held_out_pairs_are_in_no_scene(phrasings: Phrasings) -> None:
    scenes = [draw_scene(seed, 0, ALL, STOCK, phrasings) for seed in SEEDS]
    assert not any(scene.slots[2] == "lettuce" or scene.slots[0] == "tomato" for scene in scenes)
    everything = Phrasings.load(held_out=())
    assert any(draw_scene(seed, 0, ALL, STOCK, everything).slots[2] == "lettuce" for seed in SEEDS)


def test_each_ingredient_of_the_tray_is_named_once_beside_idle_episodes(phrasings: Phrasings) -> None:
    kinds = set()
    for seed in SEEDS:
        scene = draw_scene(seed, 0, ALL, STOCK, phrasings)
        variants = draw_variants(scene, ALL, phrasings)
        assert draw_variants(scene, ALL, phrasings) == variants
        named = [variant.ingredient for variant in variants if variant.kind == "pick"]
        assert named == list(scene.standing) and len(named) >= 2
        assert len(variants) == len(named) + 2
        for kind in STOCK.slices:
            assert [*scene.slots, *scene.plate].count(kind) <= STOCK.slices[kind]
        kinds |= {variant.kind for variant in variants}
    assert kinds == {"pick", "absent", "negated", "unknown", "empty"}


def test_one_ingredient_scenes_have_one_slice_and_its_instruction(phrasings: Phrasings) -> None:
    options = SceneOptions(ingredients=("bread", "cheese"), one_ingredient=True)
    for index in range(6):
        scene = draw_scene(twin_seed(1, index), index, options, STOCK, phrasings)
        (variant,) = draw_variants(scene, options, phrasings)
        assert (
            [kind for kind in scene.slots if kind] == [variant.ingredient] == [("bread", "cheese")[index % 2]]
        )
        assert scene.plate == ()


def test_a_switch_is_recorded_for_every_ingredient_from_the_same_moment(phrasings: Phrasings) -> None:
    options = SceneOptions(ingredients=tuple(STOCK.slices), switches=1, idle=0)
    scene = draw_scene(100_000, 0, options, STOCK, phrasings)
    switched = [variant for variant in draw_variants(scene, options, phrasings) if variant.prelude]
    assert len({(variant.prelude, variant.prelude_seconds) for variant in switched}) == 1
    assert [variant.ingredient for variant in switched] == [*scene.standing, ""]


def test_restyled_sentences_ask_for_the_same_and_change_nothing_else(phrasings: Phrasings) -> None:
    styled, count, seen = 0, 0, set()
    options = replace(ALL, restyled=0.5)
    for seed in SEEDS:
        scene = draw_scene(seed, 0, options, STOCK, phrasings)
        plain = draw_variants(scene, ALL, phrasings)
        for before, after in zip(plain, draw_variants(scene, options, phrasings), strict=True):
            text = after.sentence.text
            assert replace(after, sentence=before.sentence) == before
            meant = parse_instruction(text, set(STOCK.slices)).ingredient
            assert meant == parse_instruction(before.sentence.text, set(STOCK.slices)).ingredient
            count, styled = count + 1, styled + (text != before.sentence.text)
            seen |= {
                key
                for key, style in STYLES.items()
                if text == style(before.sentence.text) != before.sentence.text
            }
    assert 0.3 < styled / count < 0.55  # the empty instruction has one style
    assert seen == set(STYLES)


def test_two_seeds_share_no_layout() -> None:
    assert twin_seed(0, 99_999) < twin_seed(1, 0)
    with pytest.raises(PhrasingError, match="100000 layouts each"):
        twin_seed(1, 100_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pick: {odd: wash the floor}", "needs one {name}"),
        ("pick: {odd: 'do not take the {name}'}", "for None, not for bread"),
        ("negated: {odd: 'take the {name}'}", "for bread, not for None"),
        ("held_out: [pancake]", "'pancake' is no PHRASING"),
    ],
)
def test_a_table_that_says_what_it_does_not_mean_is_refused(tmp_path: Path, text: str, words: str) -> None:
    lines = {
        "names": "names: {bread: {bread: bread}}",
        "pick": "pick: {pick: 'pick up the {name}'}",
        "negated": "negated: {leave: 'leave the {name}'}",
        "unknown": "unknown: {egg: egg}",
    }
    lines[text.partition(":")[0]] = text
    file = tmp_path / "phrasings.yaml"
    file.write_text("\n".join(lines.values()))
    with pytest.raises(PhrasingError, match=words):
        Phrasings.load(file)


def test_impossible_scenes_are_named(phrasings: Phrasings) -> None:
    with pytest.raises(PhrasingError, match=r"pizza: the kitchen has bread"):
        draw_scene(1, 0, SceneOptions(ingredients=("pizza",)), STOCK, phrasings)
    with pytest.raises(PhrasingError, match="kicked is 1"):
        SceneOptions(ingredients=("bread",), kicked=1.5)
