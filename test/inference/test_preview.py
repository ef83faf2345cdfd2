# SPDX-License-Identifier: Apache-2.0
"""The preview's kinematics against recorded tip positions of so101_new_calib (m, to its 0.1 mm)."""

from __future__ import annotations

import numpy as np
import pytest

from chefmate_policy.inference.preview import JOINTS, gripper_path


@pytest.mark.parametrize(
    ("angles", "tip"),
    [
        ((0.0, 0.0, 0.0, 0.0, 0.0), (0.3914, 0.0, 0.2265)),
        ((0.3, 0.0, 0.0, 0.0, 0.0), (0.3756, -0.1042, 0.2265)),
        ((0.0, 0.3, 0.0, 0.0, 0.0), (0.4094, 0.0, 0.1264)),
        ((0.0, 0.0, 0.3, 0.0, 0.0), (0.3774, 0.0, 0.1397)),
        ((0.0, 0.0, 0.0, 0.3, 0.0), (0.3819, 0.0, 0.1798)),
        ((0.0, 0.0, 0.4735, 1.177, 1.584), (0.2069, -0.0081, 0.0136)),
    ],
)
def test_tip_of_the_arm(angles: tuple[float, ...], tip: tuple[float, ...]) -> None:
    np.testing.assert_allclose(gripper_path(JOINTS, np.array([angles]))[0], tip, atol=1e-4)


def test_columns_are_found_by_name() -> None:
    names = ("gripper", *reversed(JOINTS))
    straight = gripper_path(JOINTS, np.array([[0.1, 0.2, 0.3, 0.4, 0.5]]))
    np.testing.assert_allclose(gripper_path(names, np.array([[9.0, 0.5, 0.4, 0.3, 0.2, 0.1]])), straight)
