# SPDX-License-Identifier: Apache-2.0
"""Makes Fast DDS keep images whole: see config/fastdds.xml."""

from __future__ import annotations

import os

from chefmate_ros.share import share_file

VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2 and 3


def use_image_profile() -> None:
    """Sets the profile for this process; call it before the first node is made, which reads it.

    A profile that the user has chosen stays in force. Raises ShareFileError when there is none.
    """
    if any(os.environ.get(name) for name in VARIABLES):
        return
    path = str(share_file("config", "fastdds.xml"))
    for name in VARIABLES:
        os.environ[name] = path
