# SPDX-License-Identifier: Apache-2.0
"""The report page: whole with any part missing, nothing from elsewhere, what is strange in it is escaped."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from figures import closed, gap, idle, named, offline, separation, teaching, trainable

from chefmate_policy.intervals import rate
from chefmate_policy.obedience.report import ReportError, write

TOLD = (
    "It obeys.", "198 of 200", "picks cheese 9, nothing 1", "pick up the <cheese>", "met", "not measured",
    "chefmate obey kitchen", "two cores", "Stayed when it should: 47 of 48", "trial 7",
    "above 0.95 would be called the same", "Told right by a linear probe",
)  # fmt: skip
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Elements that are opened must be closed; collects text and sources."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.sources: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.sources += [value for key, value in attributes if key in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.sources += [value for key, value in attributes if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def whole() -> dict[str, Any]:
    situation = {
        "scenario": 1, "cheese": "Holder", "bread": "Holder", "action": "", "effect": "",
        "seeds_action": "picks bread", "seeds_effect": None, "rightly": rate(9, 10),
        "did": {"correct": {"picks cheese": 9, "nothing": 1}, "swapped": {"picks bread": 10}},
    }  # fmt: skip
    test = {
        "test": "1a", "instruction": "pick up the <cheese>", "setup": "both", "expected": "cheese",
        "seeds": "bread", "passed": rate(8, 8), "did": {"picks cheese": 8},
    }  # fmt: skip
    goals = [
        {"id": "named", "words": "named touched first", "wanted": 0.95, "point": 0.99, "lower": 0.96,
         "n": 200, "enough": True, "met": True},
        {"id": "x", "words": "not tried", "wanted": 0.9, "point": None, "lower": None, "n": 0,
         "enough": False, "met": None},
    ]  # fmt: skip
    return {
        "policy": "kitchen", "command": "chefmate obey kitchen", "machine": "two cores", "made": "2026-11-21",
        "seconds": 500.0,
        "offline": offline(trainable(), separation(), gap()),
        "teaching": teaching("TEACHES_LANGUAGE", words=1.0),
        "closed_loop": closed(
            named(198, 200, 196), idle("absent", 99), matrix=[situation], tests=[test], goals=goals,
            pairs={"rightly": rate(90, 100), "changed": rate(50, 52), "stayed": rate(47, 48)},
            baselines={"no_op": {"rightly": rate(40, 100)}, "null": {"followed": rate(3, 10), "chance": 0.3},
                       "expert": None},
        ),
        "pictures": [{"title": "trial 7", "caption": "it takes the cheese",
                      "frames": [np.zeros((12, 16, 3), np.uint8)] * 2}],
    }  # fmt: skip


def test_a_page_holds_all_parts_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = Page(write(whole(), tmp_path / "report"))
    for told in TOLD:
        assert told in re.sub(r"\s+", " ", page.text), told
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert sum(source.startswith("data:image/jpeg") for source in page.sources) == 2
    assert [file.name for file in (tmp_path / "report").iterdir()] == ["index.html"]


def test_the_same_result_makes_the_same_page(tmp_path: Path) -> None:
    result = {"offline": offline(gap("ignores"))}
    assert write(result, tmp_path / "a").read_bytes() == write(result, tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kept", ["offline", "closed_loop", "teaching", "policy"])
def test_every_part_may_be_missing(kept: str, tmp_path: Path) -> None:
    page = Page(write({kept: whole()[kept]}, tmp_path))
    assert "How this was measured" in page.text


def test_a_check_that_was_not_possible_says_why(tmp_path: Path) -> None:
    impossible = {
        "check": "separation", "possible": False, "verdict": "", "line": "not possible: no weights here",
        "figures": None, "seconds": 0.0,
    }  # fmt: skip
    page = Page(write({"offline": {"checks": [impossible], "observations": None}}, tmp_path))
    assert "not possible: no weights here" in page.text and "Cannot tell." in page.text


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in ("gone.png", "film.mp4"):
        with pytest.raises(ReportError, match=name):
            write({"pictures": [{"title": "", "frames": [name]}]}, tmp_path)
