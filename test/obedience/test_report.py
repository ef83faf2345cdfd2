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
from figures import gap, offline, separation, teaching, trainable
from test_scoring import TRIALS, deaf, obedient

from chefmate_policy.obedience.report import ReportError, write
from chefmate_policy.obedience.results import closed_loop, paired

TOLD = (
    "It obeys.", "cheese named", "picks cheese", "Randomly picks one: Ignores instruction",
    "Follows instruction",
    "pick up the yellow cheese and put it into the white plate", "few trials", "Stayed when it should",
    "chefmate obey kitchen", "two cores", "points against lockstep", "trial <7>", "An arm that never moves",
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
    few = TRIALS[::5]
    trials = closed_loop(few, {trial.number: obedient(trial) for trial in few})
    graph = closed_loop(few[:50], {trial.number: deaf(trial) for trial in few[:50]})
    against = paired(
        few[:50], *({trial.number: act(trial) for trial in few[:50]} for act in (obedient, deaf))
    )
    return {
        "policy": "kitchen", "command": "chefmate obey kitchen", "machine": "two cores", "made": "2026-11-21",
        "seconds": 500.0,
        "offline": offline(trainable(), separation(), gap()),
        "teaching": teaching("TEACHES_LANGUAGE", words=1.0),
        "closed_loop": {"seed": 0, **trials, "latency": {"mode": "p50", "s": 0.05}},
        "graph": {**graph, "against_lockstep": against},
        "pictures": [{"title": "trial <7>", "caption": "it takes the cheese",
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


@pytest.mark.parametrize("kept", ["offline", "closed_loop", "graph", "teaching", "policy"])
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
