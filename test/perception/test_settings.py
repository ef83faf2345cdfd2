# SPDX-License-Identifier: Apache-2.0
"""The workcell file: every fault names the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chefmate_policy.perception.segmentation import Eye
from chefmate_policy.perception.settings import SettingsError, load

SHIPPED = Path(__file__).parents[2] / "config" / "workcell_twin.yaml"


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    raw = yaml.safe_load(SHIPPED.read_text())
    change(raw)
    path = tmp_path / "workcell.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.pop("arm"), "arm is missing"),
        (lambda raw: raw.update(colour=1), "colour is unknown; known are image_size"),
        (
            lambda raw: raw["plate"].update(max_hidden=2),
            "plate.max_hidden must be a number from 0 to 1, not 2",
        ),
        (lambda raw: raw["plate"].update(min_area="big"), "plate.min_area must be a number"),
        (lambda raw: raw["holder"].update(slots=[]), "holder.slots and ingredients need at least one"),
        (lambda raw: raw["holder"].update(slots=4), "holder.slots must be a list"),
        (lambda raw: raw["holder"]["slots"][2].update(pixels=[]), "holder.slots[2] needs exactly one of"),
        (lambda raw: raw["plate"].update(zone={"pixels": [[1, 2]]}), "at least 3 corners"),
        (
            lambda raw: raw["ingredients"]["bread"]["face"][0].update(hue=[0, 400]),
            "ingredients.bread.face[0].hue.1 must be a number from 0 to 179, not 400",
        ),
        (lambda raw: raw.pop("camera"), "holder.slots[0] is given in m, which needs the table 'camera'"),
        (lambda raw: raw["camera"].update(position=[0, 1]), "camera.position must be a list of 3 numbers"),
    ],
)
def test_faults_name_the_key(tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    path = changed(tmp_path, change)
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert str(path) in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("value", ["2020-13-45", "=", "<<", "!!bool x", "9" * 5000])
def test_a_value_that_is_none_names_line_and_key(tmp_path: Path, value: str) -> None:
    lines = SHIPPED.read_text().splitlines()
    line = next(number for number, text in enumerate(lines) if text.startswith("  min_area:"))
    lines[line] = f"  min_area: {value}"
    path = tmp_path / "workcell.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(SettingsError, match=rf"workcell\.yaml:{line + 1}: \w+\.min_area: "):
        load(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [("frames: 1\narm: a\x07b", 2), ("frames: [1", 1), ("[" * 5000, None), ("a: &x [*x]", None)],
)
def test_what_is_no_yaml_is_named(tmp_path: Path, text: str, line: int | None) -> None:
    path = tmp_path / "workcell.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert f"{path}:{line}: " in str(caught.value) or (line is None and str(path) in str(caught.value))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml cannot be read"):
        load(tmp_path / "nowhere.yaml")


def test_zones_can_be_given_in_pixels_alone(tmp_path: Path) -> None:
    def to_pixels(raw: dict[str, Any]) -> None:
        del raw["camera"]
        raw["holder"]["slots"] = [{"pixels": [[10, 10], [60, 10], [60, 60], [10, 60]]}]
        raw["plate"]["zone"] = {"pixels": [[300, 100], [500, 100], [500, 300], [300, 300]]}

    eye = Eye(load(changed(tmp_path, to_pixels)), (1280, 960))
    assert eye.plate_polygon.max(axis=0).tolist() == [500, 300], "px of half of an image twice as large"


def test_a_zone_outside_the_image_is_named(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda raw: raw["camera"].update(target=[0.2, 5.0, 0.0]))
    with pytest.raises(SettingsError, match="lies outside the image"):
        Eye(load(path), (640, 480))
