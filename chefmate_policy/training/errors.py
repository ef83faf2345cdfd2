# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a training run."""

from chefmate_policy.errors import PolicyError

__all__ = ["OptionError", "TrainingError", "VerificationError"]


class TrainingError(PolicyError):
    """A run cannot start or go on. The message says what, where, and the mend."""


class OptionError(TrainingError):
    """An option does not exist, has a value that it cannot have, or contradicts another."""


class VerificationError(TrainingError):
    """What trains is not what the options say. The message names the tensors."""
