# SPDX-License-Identifier: Apache-2.0
"""Where the built package lies."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory

from chefmate.errors import WorkspaceError


def share_folder() -> Path:
    """The package's share folder.

    Raises:
        WorkspaceError: the shell has not sourced the built workspace.
    """
    try:
        get_package_prefix("chefmate_msgs")
        return Path(get_package_share_directory("chefmate"))
    except PackageNotFoundError as missing:
        raise WorkspaceError(
            f"package {missing} is not built or not sourced. "
            "In the repository run: make setup && source env.sh. "
            "In a workspace: colcon build --base-paths src/chefmate src/chefmate/chefmate_msgs, "
            "then source install/setup.bash"
        ) from None


def executable(package: str, name: str) -> Path | None:
    """Path of a node's executable, or None where the package is not installed."""
    try:
        path = Path(get_package_prefix(package)) / "lib" / package / name
    except PackageNotFoundError:
        return None
    return path if path.exists() else None
