# SPDX-License-Identifier: Apache-2.0
"""Recipes to instructions, one step at a time, by what the camera sees."""
