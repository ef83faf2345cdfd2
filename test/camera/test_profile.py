# SPDX-License-Identifier: Apache-2.0
"""The Fast DDS profile is found, is valid and leaves a user's own choice alone."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree

import pytest

from chefmate_driver.camera.profile import VARIABLES, use_image_profile
from chefmate_ros.share import share_file

SPACE = "{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}"


def test_the_segment_holds_at_least_half_a_second_of_images() -> None:
    root = ElementTree.parse(share_file("config", "fastdds.xml")).getroot()
    sizes = [int(element.text or 0) for element in root.iter(f"{SPACE}segment_size")]
    assert len(sizes) == 1 and sizes[0] >= 15 * 640 * 480 * 3


def test_the_variable_is_set_unless_the_user_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    use_image_profile()
    assert all(os.environ[name] == str(share_file("config", "fastdds.xml")) for name in VARIABLES)
    monkeypatch.setenv(VARIABLES[0], "/mine.xml")
    use_image_profile()
    assert os.environ[VARIABLES[0]] == "/mine.xml"
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
