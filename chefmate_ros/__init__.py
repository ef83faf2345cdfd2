# SPDX-License-Identifier: Apache-2.0
"""What all of ChefMate's nodes share."""
