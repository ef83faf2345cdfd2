# SPDX-License-Identifier: Apache-2.0
"""Files that come with the package: configuration, recipes, calibrations. Works without ROS, too."""

from __future__ import annotations

import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]


class ShareFileError(Exception):
    """A file that comes with the package is not where it was installed."""


def share_file(*parts: str) -> Path:
    """A file or folder of the package, for example share_file("config", "fastdds.xml").

    Raises:
        ShareFileError: it is in none of its places.
    """
    places = share_places(*parts)
    for place in places:
        if place.exists():
            return place
    raise ShareFileError(
        f"{'/'.join(parts)} is missing (looked at {', '.join(map(str, places))}); "
        "build and source the package: make setup && source env.sh."
    )


def share_places(*parts: str) -> list[Path]:
    """Where such a file may be, in the order of looking: the share folder of the package that is sourced,
    that of this Python's packages, the source tree. All have the same layout."""
    folders = [Path(sys.prefix, "share", "chefmate"), SOURCE]
    try:
        from ament_index_python.packages import get_package_share_directory

        folders.insert(0, Path(get_package_share_directory("chefmate")))
    except (ImportError, LookupError, OSError):  # no ROS 2; package not in its index; no index sourced
        pass
    return [folder.joinpath(*parts) for folder in folders]
