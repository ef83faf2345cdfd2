# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a GR00T configuration, checkpoint or input."""

from chefmate_policy.errors import PolicyError


class GrootError(PolicyError):
    """The model cannot be built, loaded or run. The message says what, where, and the mend."""


class ConfigurationError(GrootError):
    """A config.json asks for what this implementation does not do, or contradicts itself."""


class InputError(GrootError):
    """A tensor handed to the model does not fit its configuration."""
