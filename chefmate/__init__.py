# SPDX-License-Identifier: Apache-2.0
"""ChefMate's front door: the `chefmate` command and the one description of the graph."""
