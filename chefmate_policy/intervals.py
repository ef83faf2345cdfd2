# SPDX-License-Identifier: Apache-2.0
"""Success rates with their uncertainty."""

from __future__ import annotations

from typing import Any

from chefmate_policy.data.probe import wilson


def rate(successes: int, n: int) -> dict[str, Any]:
    """Rate with its Wilson interval at 95 % (Wilson 1927), as it goes into JSON.

    Raises:
        ValueError: n is not positive or smaller than `successes`.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a rate")
    return {
        "successes": successes,
        "n": n,
        "rate": successes / n,
        "wilson_95": list(wilson(successes / n, n)),
    }


def words(value: dict[str, Any]) -> str:
    """One line for people, for example `19 of 20 (95 %, Wilson 76.4 to 99.1 %)`."""
    low, high = value["wilson_95"]
    return (
        f"{value['successes']} of {value['n']} ({100 * value['rate']:.0f} %, "
        f"Wilson 95 %: {100 * low:.1f} to {100 * high:.1f} %)"
    )


def half_width(share: float, n: int) -> float:
    """Of the Wilson interval at 95 % around a share that n trials gave."""
    low, high = wilson(share, n)
    return (high - low) / 2
