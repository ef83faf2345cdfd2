# SPDX-License-Identifier: Apache-2.0
"""What is where: workcell state from the scene camera."""
