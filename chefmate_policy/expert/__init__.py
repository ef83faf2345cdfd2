# SPDX-License-Identifier: Apache-2.0
"""A scripted expert: privileged poses and a sentence in, joint waypoints out. Needs neither ROS nor the
twin."""
