# SPDX-License-Identifier: Apache-2.0
"""Documents of `chefmate obey` in the forms that its checks write, with chosen numbers."""

from __future__ import annotations

from typing import Any

from chefmate_policy.intervals import rate


def interval(value: float, half: float = 0.02, n: int = 20) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def place(probe: float) -> dict[str, Any]:
    cosine = {"same_observation": 0.99, "random_pairs": 0.98}
    shuffled = {"mean": 0.33, "max": 0.4}
    return {
        "cosine": {**cosine, "centred_same_observation": 0.5, "centred_random_pairs": 0.0},
        "probe": interval(probe), "probe_within": interval(probe), "shuffled": shuffled, "chance": 1 / 3,
        "largest_difference": 0.5,
    }  # fmt: skip


def trainable(verdict: str = "trained", changed: int = 100) -> dict[str, Any]:
    components = [
        {"name": name, "flag": "tune_llm", "tensors": 2, "changed": 1, "parameters": 100,
         "parameters_changed": changed, "relative_change": 0.1}
        for name in ("language", "dit")
    ]  # fmt: skip
    return {
        "check": "trainable", "possible": True, "verdict": verdict, "line": f"trainable set: {verdict}",
        "figures": {"components": components}, "seconds": 1.0,
    }  # fmt: skip


def separation(verdict: str = "apart", equal: int = 0) -> dict[str, Any]:
    probe = 0.95 if verdict == "apart" else 0.33
    stage = {"image": place(0.3), "text": place(probe), "all": place(probe)}
    figures = {
        "stages": {"backbone": stage, "self_attention": stage}, "identical_prompts": equal,
        "seeds_reading": "above 0.95 would be called the same",
    }  # fmt: skip
    return {
        "check": "separation", "possible": True, "verdict": verdict, "line": f"separation: {verdict}",
        "figures": figures, "seconds": 1.0,
    }  # fmt: skip


def gap(verdict: str = "follows", largest: float = 0.5) -> dict[str, Any]:
    directional = interval({"follows": 0.95, "contrary": 0.1}.get(verdict, 0.5))
    figures = {
        "unit": "normalised", "noise": "pinned", "noises": 4, "pairs": 40,
        "between_instructions": interval(0.02), "between_noises": interval(0.4),
        "between_demonstrations": interval(0.5), "own_error": interval(0.3), "over_noise": interval(0.05),
        "over_demonstrations": interval(0.04), "gain": interval(0.0),
        "directional": {**directional, "chance": 0.5}, "directional_idle": None,
        "largest_difference": largest,
    }  # fmt: skip
    return {
        "check": "gap", "possible": True, "verdict": verdict, "line": f"gap: {verdict}",
        "figures": figures, "seconds": 1.0,
    }  # fmt: skip


def offline(*checks: dict[str, Any]) -> dict[str, Any]:
    seen = {"source": "twin", "folder": "", "layouts": 20, "instructions": 3, "pairs": 40, "seed": 1}
    return {"policy": "kitchen", "observations": seen, "checks": list(checks), "seconds": 3.0}


def teaching(verdict: str, words: float = 0.0, sight: float = 2.0) -> dict[str, Any]:
    return {
        "dataset": "out/kitchen",
        "data": {"verdict": verdict, "reason": "so and so much can be guessed", "mend": []},
        "words": {
            "words": interval(words, 0.01),
            "sight": interval(sight, 0.01),
            "own": 0.1,
            "frames": 60,
            "layouts": 20,
        },
    }


def row(name: str, right: int, n: int, **parts: Any) -> dict[str, Any]:
    return {
        "id": name, "words": f"said: {name}", "suite": "objects", "side": "model", "wanted": "named",
        "rightly": rate(right, n), "targeted": None, "idle": None, "seconds": 9.0, "by": {}, **parts,
    }  # fmt: skip


def named(right: int, touched: int, placed: int, n: int = 200) -> dict[str, Any]:
    """Of n trials in which something is named, so many touched anything, it, and laid it on the plate."""
    return row(
        "named", right, n,
        targeted={
            "followed": rate(right, n), "reached": rate(right, n), "grasped_any": rate(touched, n),
            "grasped_named": rate(placed, n), "placed": rate(placed, n), "placed_flat": rate(placed, n),
            "no_contact": rate(n - touched, n), "other_first": rate(touched - right, n),
            "followed_if_contact": rate(right, touched) if touched else None,
            "other_moved": rate(0, n), "chance": 1 / 3,
        },
    )  # fmt: skip


def idle(name: str, nothing: int, n: int = 100) -> dict[str, Any]:
    return row(name, nothing, n, wanted="nothing", idle={"touched_nothing": rate(nothing, n)})


def closed(*rows: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {
        "quick": False, "seed": 1, "per_row": 200, "planned": 400, "done": 400, "faults": [],
        "latency": {"mode": "p50", "s": 0.05}, "rows": list(rows), **parts,
    }  # fmt: skip
