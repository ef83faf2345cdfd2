# SPDX-License-Identifier: Apache-2.0
"""The key layouts in which GR00T N1.5 weights are found, as mappings onto the published one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from chefmate_policy.groot.errors import GrootError

__all__ = ["CheckpointError", "explain", "listed", "published_key", "published_keys"]


class CheckpointError(GrootError):
    """A checkpoint's files are missing, damaged, or hold other weights than the model needs."""


LEROBOT_PREFIX = "_groot_model."  # LeRobot's policy keeps the model under this name
VISION = "backbone.eagle_model.vision_model."
LANGUAGE = "backbone.eagle_model.language_model."
TIED = (f"{LANGUAGE}lm_head.weight", f"{LANGUAGE}model.embed_tokens.weight")  # equal where one is missing
FUTURE_TOKENS = "action_head.future_tokens.weight"
LISTED = 8  # keys named in a message


def published_key(key: str) -> str:
    """A key as the published files have it: without LeRobot's prefix, with both levels of `vision_model`."""
    key = key.removeprefix(LEROBOT_PREFIX)
    rest = key.removeprefix(VISION)
    if rest != key and not rest.startswith("vision_model."):
        return f"{VISION}vision_model.{rest}"  # as transformers 5 saves it
    return key


def published_keys(keys: Collection[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Published key -> key in the file.

    aliases: left-out key -> key that holds its tensor, as a file without duplicates records them. One of
    lm_head and embed_tokens stands for both. Raises CheckpointError when two keys mean one.
    """
    found: dict[str, str] = {}
    for key in keys:
        name = published_key(key)
        if name in found:
            raise CheckpointError(f"{found[name]} and {key} are both {name}; the file mixes two layouts")
        found[name] = key
    for left_out, kept in aliases.items():
        if kept in keys:
            found.setdefault(published_key(left_out), kept)
    for one, other in (TIED, TIED[::-1]):
        if one in found:
            found.setdefault(other, found[one])
    return found


def explain(missing: Collection[str]) -> str:
    """Why keys may be missing; empty when nothing is known."""
    if FUTURE_TOKENS in missing:
        return (
            f" Without {FUTURE_TOKENS} this comes from the first upload of N1.5 (June 2025), which left those"
            " weights out; the upload of 2025-07-08 has them. Download it again, and train again what was"
            " trained on the first: the missing weights were random there."
        )
    return ""


def listed(keys: Collection[str]) -> str:
    """Some keys for a message, and how many more there are."""
    names = sorted(keys)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
