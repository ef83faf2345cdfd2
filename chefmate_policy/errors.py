# SPDX-License-Identifier: Apache-2.0
"""The exception family of chefmate_policy."""


class PolicyError(Exception):
    """Something that decides does not work. The message says what, where, and what to do."""
