# SPDX-License-Identifier: Apache-2.0
"""Files of the Hugging Face hub, or of a folder: a checkpoint is named by either."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from chefmate_policy.groot.errors import GrootError

__all__ = ["HubError", "download", "locate"]

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class HubError(GrootError):
    """A checkpoint is neither a folder nor to be had from the hub."""


def locate(name: str | Path, files: Sequence[str] | None = None, revision: str | None = None) -> Path:
    """Folder of a checkpoint: `name` itself if it is one, else a snapshot of the hub's repository.

    files: patterns of what is needed; None: all. Raises HubError.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise HubError(f"checkpoint {name} is a file; give the folder that holds its config.json")
    if not REPOSITORY.fullmatch(str(name)):
        raise HubError(
            f"checkpoint {name} does not exist; give a folder or a hub id such as nvidia/GR00T-N1.5-3B"
        )
    return download(str(name), files, revision)


def download(repository: str, files: Sequence[str] | None = None, revision: str | None = None) -> Path:
    """Folder with a repository's files, from the local cache or the hub.

    Raises HubError: not in the cache and not to be had, with the reason.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = None if files is None else list(files)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HubError(
            f"{repository} is not in the local cache, and the hub did not give it ({reason[:200]});"
            f" check the name and the network, or download it elsewhere with `hf download {repository}`"
            " and give the folder"
        ) from error
