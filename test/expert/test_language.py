# SPDX-License-Identifier: Apache-2.0
"""Which ingredient a sentence asks for; None: nothing is to be done."""

import pytest

from chefmate_policy.expert.language import parse_instruction

KITCHEN = ("bread", "cheese", "patty", "lettuce", "tomato")


@pytest.mark.parametrize(
    ("text", "ingredient"),
    [
        ("pick up the bread and put it into the white plate", "bread"),
        ("Pick slice of bread and place it in the white plate", "bread"),
        ("pick up the yellow cheese and put it into the white plate", "cheese"),
        ("PICK UP THE YELLOW CHEESE, AND PUT IT INTO THE WHITE PLATE!", "cheese"),
        ("please put the patty on the plate", "patty"),
        ("grab a leaf of lettuce and lay it on the bread", "lettuce"),
        ("add a slice of tomato", "tomato"),
        ("don't take the cheese, take the bread", "bread"),
        ("Do not pick up the bread. Pick up the patty.", "patty"),
        ("take the bread, not the cheese", "bread"),
        ("do not pick up the cheese", None),
        ("Do not pick up the yellow cheese. Stay at base", None),
        ("don\u2019t pick up the bread", None),
        ("never touch the bread", None),
        ("stay where you are", None),
        ("pick up the banana and put it into the white plate", None),
        ("pick up the red cube", None),
        ("put it into the white plate", None),
        ("bread", None),
        ("what a nice cheese", None),
        ("colourless green ideas sleep furiously", None),
        ("", None),
        ("   ", None),
    ],
)
def test_sentence(text, ingredient):
    intent = parse_instruction(text, KITCHEN)
    assert intent.ingredient == ingredient
    assert intent.reason


@pytest.mark.parametrize(
    ("text", "ingredient"),
    [
        ("cannot pick bread", None),
        ("you mustn't take the patty", None),
        ("you mustn\u2019t take the patty", None),
        ("can't take the cheese", None),
        ("you shouldn't grab the tomato", None),
        ("we won't need to fetch the lettuce", None),
        ("dont take the bread", None),
        ("forbidden to take the bread", None),
        ("it is forbidden to put the cheese on the plate", None),
        ("refuse to pick the bread", None),
        ("refrain from taking the bread or lift it", None),
        ("take the bread off the plate", None),
        ("take the bread off the white plate", None),
        ("take the bread from the plate", None),
        ("lift the cheese out of the white plate", None),
        ("take the cheese off", None),
        ("take the bread away", None),
        ("put the plate on the bread", None),
        ("lift up the white plate and put it on the cheese", None),
        ("make a sandwich without bread", None),
        ("pick up anything except the cheese", None),
        ("do everything except pick up the cheese", None),
        ("you may pick anything other than the cheese", None),
        ("rather than the cheese pick up the bread", None),
        ("leave the cheese and take the bread", None),
        ("ignore the cheese and pick up the bread", None),
        ("keep the cheese where it is, and pick up the bread", "bread"),
        ("skip the cheese, take the bread", "bread"),
        ("pick up the cheese without touching the bread", "cheese"),
        ("without touching the bread, pick up the cheese", "cheese"),
        ("take the bread from the tray and put it on the plate", "bread"),
        ("pick the cheese off the tray and put it onto the white plate", "cheese"),
        ("move the patty from the tray to the plate", "patty"),
        ("take the bread off the plate, then put the cheese on the plate", "cheese"),
    ],
)
def test_what_is_forbidden_or_not_asked_onto_the_plate_is_not_done(text, ingredient):
    intent = parse_instruction(text, KITCHEN)
    assert intent.ingredient == ingredient
    assert intent.reason


def test_ingredient_that_the_kitchen_lacks_is_not_picked():
    assert parse_instruction("pick up the tomato", {"bread", "cheese"}).ingredient is None


def test_ingredients_may_be_new_words():
    assert parse_instruction("pick up the pickle and put it on the plate", {"pickle"}).ingredient == "pickle"
