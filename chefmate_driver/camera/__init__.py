# SPDX-License-Identifier: Apache-2.0
"""Frames: where images come from, and the node that publishes them."""
