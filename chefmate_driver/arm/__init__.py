# SPDX-License-Identifier: Apache-2.0
"""The SO-ARM 101's joints: calibration, units, safety filter, trajectory following, and the node on top."""
