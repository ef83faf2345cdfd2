# SPDX-License-Identifier: Apache-2.0
"""The leader arm: moved by hand, it tells the follower where to go."""
