# SPDX-License-Identifier: Apache-2.0
"""Data: recordings of the graph as rosbag2. See docs/recording.md."""
